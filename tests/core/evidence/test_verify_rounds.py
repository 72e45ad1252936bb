"""A dishonest aggregator: logs that are signed and hash well, but tell of what did not happen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.evidence import Story, call_record, submit

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.entries import named_objects
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.signing import SigningKey, peek_document
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import (
    CharterAdopted,
    ContributionRejected,
    LogEntry,
    RoundFailed,
    RoundOpened,
    RoundSummed,
    SessionTakenOver,
)

OTHER = digest(b"something else")
UNMASKERS = ("unmasker", "unmasker-2")


def failure(story: Story, directory: Path) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        verify_bundle(story.write(directory / "bundle"))
    return caught.value


def forget(story: Story, *names: str) -> None:
    """Take objects out of the bundle by digest."""
    story.objects = [envelope for envelope in story.objects if digest(envelope) not in names]


def resign(story: Story, name: str, kind: str, key: SigningKey, **changes: object) -> str:
    """Replace an object by one with ``changes``, signed by ``key``; its new digest."""
    (old,) = [envelope for envelope in story.objects if digest(envelope) == name]
    new = key.sign_document(kind, peek_document(kind, old) | changes)
    story.objects[story.objects.index(old)] = new
    return digest(new)


def key_of(story: Story, party: str | Role) -> SigningKey:
    return story.federation.state(party).signing_key()


def _statements(summed: RoundSummed) -> list[str]:
    return [summed.decryptor_statement_digest, *summed.unmasker_statement_digests]


def _restatement(
    party: str | Role, signer: str | Role, **changes: object
) -> Callable[[Story], None]:
    """Of round 2: the decryptor's or an unmasker's, which go by their names."""

    def change(story: Story) -> None:
        (summed,) = story.of("round_summed", 2)
        key = key_of(story, signer)
        if party is Role.DECRYPTOR:
            name = summed.decryptor_statement_digest
            new = resign(story, name, "decryptor-statement", key, **changes)
            summed.decryptor_statement_digest = new
        else:
            at = UNMASKERS.index(party)
            name = summed.unmasker_statement_digests[at]
            new = resign(story, name, "unmasker-statement", key, **changes)
            summed.unmasker_statement_digests[at] = new

    return change


def _manifest(signer: str, **changes: object) -> Callable[[Story], None]:
    def change(story: Story) -> None:
        event = story.of("contribution_accepted", 1)[0]
        assert event.hospital == "large-1"
        key = key_of(story, signer)
        event.manifest_digest = resign(story, event.manifest_digest, "manifest", key, **changes)

    return change


# Entries and objects


def another_charter(story: Story) -> None:
    story.of("round_opened", 2)[0].charter_digest = OTHER


def rejection_of_another_charter(story: Story) -> None:
    event = ContributionRejected(charter_digest=OTHER, round=1, hospital="small-1", code="x")
    story.add(LogEntry(contribution_rejected=event))


def another_charter_adopted(story: Story) -> None:
    story.of("charter_adopted")[0].charter_digest = OTHER


def charter_adopted_later(story: Story) -> None:
    story.entries[0], story.entries[1] = story.entries[1], story.entries[0]


def charter_adopted_twice(story: Story) -> None:
    event = CharterAdopted(charter_digest=story.charter.digest)
    story.add(LogEntry(charter_adopted=event))


def never_adopted(story: Story) -> None:
    del story.entries[0]


def manifest_forgotten(story: Story) -> None:
    forget(story, story.of("contribution_accepted")[0].manifest_digest)


def statement_forgotten(story: Story) -> None:
    forget(story, story.of("round_summed")[0].unmasker_statement_digests[1])


def sum_not_logged(story: Story) -> None:
    del story.entries[story.index("round_summed", 1)]


def call_by_no_member(story: Story) -> None:
    story.of("statement_submitted")[0].submitter = "spiffe://testfed/broker/nobody"


def call_by_another_federation(story: Story) -> None:
    story.of("statement_submitted")[0].submitter = "spiffe://other/broker/broker"


def call_by_a_role_that_submits_nothing(story: Story) -> None:
    story.of("statement_submitted")[0].submitter = "spiffe://testfed/aggregator/aggregator"


def call_by_no_identity(story: Story) -> None:
    story.of("statement_submitted")[0].submitter = "https://testfed/broker"


def call_signed_by_another(story: Story) -> None:
    submit(story, Role.BROKER, "foundation-model-call", {}, key=key_of(story, "small-1"))


def call_logged_under_another_kind(story: Story) -> None:
    story.of("statement_submitted")[0].kind = "report"


def a_kind_that_nobody_submits(story: Story) -> None:
    submit(story, Role.BROKER, "gossip\x1b[31m", {})


# Manifests


def contribution_logged_twice(story: Story) -> None:
    again = LogEntry.FromString(
        story.entries[story.index("contribution_accepted")].SerializeToString()
    )
    story.entries.insert(story.index("contribution_accepted", 1), again)


def another_hospitals_name(story: Story) -> None:
    first, second, *_ = story.of("contribution_accepted", 1)
    first.hospital, second.hospital = second.hospital, first.hospital


def another_round(story: Story) -> None:
    first = story.of("contribution_accepted", 1)[0]
    second = story.of("contribution_accepted", 2)[0]
    first.manifest_digest, second.manifest_digest = second.manifest_digest, first.manifest_digest


def another_ciphertext(story: Story) -> None:
    story.of("contribution_accepted")[0].ciphertext_digest = OTHER


def another_length(story: Story) -> None:
    story.of("contribution_accepted")[0].ciphertext_bytes += 1


def no_contribution(story: Story) -> None:
    forget(story, *[event.manifest_digest for event in story.of("contribution_accepted")])
    for event in story.of("round_summed"):
        forget(story, *_statements(event))
    story.entries = [
        entry
        for entry in story.entries
        if entry.WhichOneof("event") in ("charter_adopted", "statement_submitted")
    ]


# Rounds


def contribution_left_out(story: Story) -> None:
    event = story.of("contribution_accepted", 2)[-1]
    forget(story, event.manifest_digest)
    del story.entries[story.index("contribution_accepted", 7)]


def contribution_left_out_and_closed_so(story: Story) -> None:
    contribution_left_out(story)
    story.of("round_closed", 2)[0].hospitals[:] = ["large-1", "small-1", "small-2"]


def below_the_cohort(story: Story) -> None:
    contribution_left_out(story)
    forget(story, story.of("contribution_accepted", 2)[-1].manifest_digest)
    del story.entries[story.index("contribution_accepted", 6)]
    story.of("round_closed", 2)[0].hospitals[:] = ["large-1", "small-1"]


def closed_over_fewer(story: Story) -> None:
    story.of("round_closed", 1)[0].hospitals[:] = ["large-1", "small-1", "small-2"]


def closed_over_a_double(story: Story) -> None:
    story.of("round_closed", 1)[0].hospitals[:] = [
        "large-1",
        "small-1",
        "small-1",
        "small-2",
        "small-3",
    ]


def closed_over_a_stranger(story: Story) -> None:
    story.of("round_closed", 1)[0].hospitals.append("stranger")


def closed_in_disorder(story: Story) -> None:
    story.of("round_closed", 1)[0].hospitals[:] = ["small-1", "large-1", "small-2", "small-3"]


def closed_over_nobody(story: Story) -> None:
    story.of("round_closed", 1)[0].hospitals[:] = []


def accepted_after_closing(story: Story) -> None:
    at = story.index("round_closed")
    story.entries[at - 1], story.entries[at] = story.entries[at], story.entries[at - 1]


def accepted_before_opening(story: Story) -> None:
    at = story.index("round_opened", 1)
    story.entries[at], story.entries[at + 1] = story.entries[at + 1], story.entries[at]


def summed_before_closing(story: Story) -> None:
    at = story.index("round_summed")
    story.entries[at - 1], story.entries[at] = story.entries[at], story.entries[at - 1]


def opened_twice(story: Story) -> None:
    event = RoundOpened(charter_digest=story.charter.digest, round=1)
    story.entries.insert(story.index("round_closed"), LogEntry(round_opened=event))


def never_opened(story: Story) -> None:
    del story.entries[story.index("round_opened")]


def never_closed(story: Story) -> None:
    del story.entries[story.index("round_closed", 1)]


def never_summed(story: Story) -> None:
    summed = story.of("round_summed", 2)[0]
    forget(story, *_statements(summed))
    del story.entries[story.index("round_summed", 1)]


def summed_and_failed(story: Story) -> None:
    failed = RoundFailed(charter_digest=story.charter.digest, round=2, code="x")
    story.add(LogEntry(round_failed=failed))


def sum_after_a_failure(story: Story) -> None:
    summed = story.of("round_summed", 1)[0]
    forget(story, *_statements(summed))
    failed = RoundFailed(charter_digest=story.charter.digest, round=1, code="x")
    story.entries[story.index("round_summed")] = LogEntry(round_failed=failed)


def second_round_only(story: Story) -> None:
    for event in ("round_opened", "round_closed", "round_summed"):
        named = story.of(event, 1)[0]
        if event == "round_summed":
            forget(story, *_statements(named))
        del story.entries[story.index(event)]


def rounds_entangled(story: Story) -> None:
    moved = story.entries.pop(story.index("round_opened", 1))
    story.entries.insert(story.index("round_summed"), moved)


def one_round_too_many(story: Story) -> None:
    event = RoundOpened(charter_digest=story.charter.digest, round=3)
    failed = RoundFailed(charter_digest=story.charter.digest, round=3, code="x")
    story.add(LogEntry(round_opened=event))
    story.add(LogEntry(round_failed=failed))


def contribution_to_no_round(story: Story) -> None:
    """Round 2 vanishes, but for its contributions."""
    never_summed(story)
    del story.entries[story.index("round_closed", 1)]
    del story.entries[story.index("round_opened", 1)]


def another_sum(story: Story) -> None:
    story.of("round_summed", 1)[0].sum_digest = OTHER


def a_sum_without_digest(story: Story) -> None:
    _restatement(Role.DECRYPTOR, Role.DECRYPTOR, sum_digest="none")(story)
    story.of("round_summed", 2)[0].sum_digest = "none"


def statements_swapped_between_rounds(story: Story) -> None:
    first, second = story.of("round_summed")
    names = (second.unmasker_statement_digests[1], first.unmasker_statement_digests[1])
    first.unmasker_statement_digests[1], second.unmasker_statement_digests[1] = names


def decryptor_statements_swapped_between_rounds(story: Story) -> None:
    first, second = story.of("round_summed")
    names = (second.decryptor_statement_digest, first.decryptor_statement_digest)
    first.decryptor_statement_digest, second.decryptor_statement_digest = names


def statements_swapped_between_custodians(story: Story) -> None:
    summed = story.of("round_summed", 1)[0]
    names = (summed.unmasker_statement_digests[0], summed.decryptor_statement_digest)
    summed.decryptor_statement_digest, summed.unmasker_statement_digests[0] = names


def statements_swapped_between_unmaskers(story: Story) -> None:
    names = story.of("round_summed", 1)[0].unmasker_statement_digests
    names[:] = list(names)[::-1]


def one_unmasker_left_out(story: Story) -> None:
    names = story.of("round_summed", 1)[0].unmasker_statement_digests
    forget(story, names.pop())


def one_unmasker_twice(story: Story) -> None:
    names = story.of("round_summed", 1)[0].unmasker_statement_digests
    forget(story, names.pop())
    names.append(names[0])


def one_statement_more(story: Story) -> None:
    names = story.of("round_summed", 1)[0].unmasker_statement_digests
    names.append(names[0])


def _unmasked(
    change: Callable[[list[object]], list[object]], *, by: str = "unmasker"
) -> Callable[[Story], None]:
    def rewrite(story: Story) -> None:
        name = story.of("round_summed", 2)[0].unmasker_statement_digests[UNMASKERS.index(by)]
        (old,) = [envelope for envelope in story.objects if digest(envelope) == name]
        listed = list(peek_document("unmasker-statement", old)["contributions"])
        _restatement(by, by, contributions=change(listed))(story)

    return rewrite


CASES: list[tuple[str, str, Callable[[Story], None]]] = [
    ("entries", "another charter", another_charter),
    ("entries", "another charter", rejection_of_another_charter),
    ("entries", "another charter", another_charter_adopted),
    ("entries", "begin with the adoption", charter_adopted_later),
    ("entries", "begin with the adoption", charter_adopted_twice),
    ("entries", "begin with the adoption", never_adopted),
    ("entries", "object that is missing", manifest_forgotten),
    ("entries", "object that is missing", statement_forgotten),
    ("entries", "named by no entry", sum_not_logged),
    ("entries", "does not name", call_by_no_member),
    ("entries", "another federation", call_by_another_federation),
    ("entries", "does not name", call_by_a_role_that_submits_nothing),
    ("entries", "identity", call_by_no_identity),
    ("entries", "not signed", call_signed_by_another),
    ("entries", "another kind", call_logged_under_another_kind),
    ("entries", "do not submit", a_kind_that_nobody_submits),
    ("manifests", "not signed", _manifest("small-1")),
    ("manifests", "another charter", _manifest("large-1", charter=OTHER)),
    ("manifests", "another group", _manifest("large-1", group="small")),
    ("manifests", "twice", contribution_logged_twice),
    ("manifests", "differs", another_hospitals_name),
    ("manifests", "differs", another_round),
    ("manifests", "differs", another_ciphertext),
    ("manifests", "differs", another_length),
    ("manifests", "no contribution", no_contribution),
    ("rounds", "another set", contribution_left_out),
    ("rounds", "unmasker", contribution_left_out_and_closed_so),
    ("rounds", "charter asks for", below_the_cohort),
    ("rounds", "another set", closed_over_fewer),
    ("rounds", "another set", closed_over_a_double),
    ("rounds", "another set", closed_over_a_stranger),
    ("rounds", "another set", closed_in_disorder),
    ("rounds", "another set", closed_over_nobody),
    ("rounds", "not open", accepted_after_closing),
    ("rounds", "not open", accepted_before_opening),
    ("rounds", "in that order", summed_before_closing),
    ("rounds", "twice", opened_twice),
    ("rounds", "in that order", never_opened),
    ("rounds", "in that order", never_closed),
    ("rounds", "still running", never_summed),
    ("rounds", "in that order", summed_and_failed),
    ("rounds", "after one that failed", sum_after_a_failure),
    ("rounds", "1, 2, 3", second_round_only),
    ("rounds", "before the round before", rounds_entangled),
    ("rounds", "more rounds", one_round_too_many),
    ("rounds", "never opened", contribution_to_no_round),
    ("rounds", "another sum", another_sum),
    ("rounds", "other fields", a_sum_without_digest),
    ("rounds", "not about round", statements_swapped_between_rounds),
    ("rounds", "not about round", decryptor_statements_swapped_between_rounds),
    ("rounds", "kind", statements_swapped_between_custodians),
    ("rounds", "not signed", _restatement(Role.DECRYPTOR, Role.AGGREGATOR)),
    ("rounds", "not signed", _restatement("unmasker", Role.DECRYPTOR)),
    ("rounds", "another sum", _restatement(Role.DECRYPTOR, Role.DECRYPTOR, sum_digest=OTHER)),
    ("rounds", "not about round", _restatement(Role.DECRYPTOR, Role.DECRYPTOR, charter=OTHER)),
    ("rounds", "not about round", _restatement("unmasker", "unmasker", round=1)),
    ("rounds", "other fields", _restatement("unmasker", "unmasker", more=1)),
    ("rounds", "other fields", _restatement(Role.DECRYPTOR, Role.DECRYPTOR, version=2)),
    ("rounds", "other contributions", _unmasked(lambda listed: listed[:-1])),
    ("rounds", "other contributions", _unmasked(lambda listed: listed + listed[-1:])),
    ("rounds", "other contributions", _unmasked(lambda listed: listed[::-1])),
    ("rounds", "other contributions", _unmasked(lambda _: [])),
    ("rounds", "unmasker-2 lists other", _unmasked(lambda listed: listed[:-1], by="unmasker-2")),
    ("rounds", "names another unmasker", _restatement("unmasker-2", "unmasker-2", unmasker="x")),
    ("rounds", "not signed", _restatement("unmasker-2", "unmasker", unmasker="unmasker-2")),
    ("rounds", "not about round", _restatement("unmasker-2", "unmasker-2", charter=OTHER)),
    ("rounds", "not signed", statements_swapped_between_unmaskers),
    ("rounds", "not signed", one_unmasker_twice),
    ("rounds", "names 1 unmaskers' statements", one_unmasker_left_out),
    ("rounds", "names 3 unmaskers' statements", one_statement_more),
]


@pytest.mark.parametrize(("step", "reason", "change"), CASES)
def test_a_false_log_is_refused(
    story: Story, tmp_path: Path, step: str, reason: str, change: Callable[[Story], None]
) -> None:
    change(story)
    failed = failure(story, tmp_path)
    assert failed.title == step, failed
    assert reason in str(failed)


@pytest.mark.parametrize("round_number", [1, 2])
def test_a_failed_round_and_those_after_it_are_no_fault(
    story: Story, tmp_path: Path, round_number: int
) -> None:
    """A round that could not be summed, with all its contributions, is a true story."""
    for later in range(round_number, 3):
        summed = story.of("round_summed", later)[0]
        forget(story, *_statements(summed))
    cut = story.index("round_summed", round_number - 1)
    gone = {name for entry in story.entries[cut:] for name in named_objects(entry)}
    forget(story, *gone)
    story.entries = story.entries[:cut]
    for later in range(round_number, 3):
        failed = RoundFailed(charter_digest=story.charter.digest, round=later, code="custodian")
        story.add(LogEntry(round_failed=failed))
    story.report |= {"rounds": round_number - 1}
    # The hospitals' ledgers still say that the later rounds were opened.
    assert failure(story, tmp_path).title == "ledgers"
    shutil.rmtree(tmp_path / "bundle")
    story.ledgers = {
        name: b"".join(ledger.splitlines(keepends=True)[: 3 * round_number - 2])
        for name, ledger in story.ledgers.items()
    }
    verdict = verify_bundle(story.write(tmp_path / "bundle"))
    assert f"{round_number - 1} opened over a cohort" in verdict.steps[7].finding


def test_a_rejection_in_the_log_is_no_fault(story: Story, tmp_path: Path) -> None:
    event = ContributionRejected(
        charter_digest=story.charter.digest, round=0, hospital="small-1", code="malformed"
    )
    story.entries.insert(2, LogEntry(contribution_rejected=event))
    verify_bundle(story.write(tmp_path / "bundle"))


# The foundation model


def test_a_takeover_in_the_log_is_no_fault_and_a_warning(story: Story, tmp_path: Path) -> None:
    for times in (1, 3):
        event = SessionTakenOver(
            charter_digest=story.charter.digest, hospital="small-1", times=times
        )
        story.add(LogEntry(session_taken_over=event))
    verdict = verify_bundle(story.write(tmp_path / "bundle"))
    assert sum("two processes took part as small-1 (4 times" in each for each in verdict.warnings)


def test_a_takeover_of_nobody_is_refused(story: Story, tmp_path: Path) -> None:
    event = SessionTakenOver(charter_digest=story.charter.digest, hospital="\x1b[2J", times=1)
    story.add(LogEntry(session_taken_over=event))
    with pytest.raises(StepFailed):
        verify_bundle(story.write(tmp_path / "bundle"))


def test_two_calls_are_one_too_many(story: Story, tmp_path: Path) -> None:
    submit(
        story,
        Role.BROKER,
        "foundation-model-call",
        call_record(story.charter) | {"reason": "again"},
    )
    failed = failure(story, tmp_path)
    assert failed.title == "foundation model"
    assert "2 calls" in str(failed)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"charter": OTHER}, "charter"),
        ({"proxy_digest": OTHER}, "proxy_digest"),
        ({"purpose": "patients"}, "purpose"),
        ({"model": "other"}, "model"),
        ({"host": "127.0.0.1:9001"}, "host"),
        ({"provider": "openai-embeddings"}, "provider"),
        ({"batches": []}, "request_digest"),
        ({"requested_by": "spiffe://testfed/hospital/nobody"}, "no party"),
        ({"cost": "1"}, "cost"),
        ({"answer_digest": None}, "says answered"),
        ({"outcome": "indeterminate"}, "no final outcome"),
        ({"more": 1}, "form"),
    ],
)
def test_a_call_about_something_else_is_refused(
    story: Story, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    statement = story.of("statement_submitted")[0]
    key = key_of(story, Role.BROKER)
    name = statement.envelope_digest
    statement.envelope_digest = resign(story, name, "foundation-model-call", key, **change)
    failed = failure(story, tmp_path)
    assert failed.title == "foundation model"
    assert reason in str(failed)


def test_a_call_by_anyone_but_the_broker_is_refused(story: Story, tmp_path: Path) -> None:
    forget(story, story.of("statement_submitted")[0].envelope_digest)
    del story.entries[story.index("statement_submitted")]
    record = call_record(story.charter)
    submit(story, Role.HOSPITAL, "foundation-model-call", record, party="small-1")
    failed = failure(story, tmp_path)
    assert failed.title == "foundation model"
    assert "broker" in str(failed)


def test_no_call_at_all_is_no_fault(story: Story, tmp_path: Path) -> None:
    forget(story, story.of("statement_submitted")[0].envelope_digest)
    del story.entries[story.index("statement_submitted")]
    story.report["foundation_model_calls"] = 0
    verify_bundle(story.write(tmp_path / "bundle"))


def test_other_statements_of_members_are_evidence_too(story: Story, tmp_path: Path) -> None:
    submit(story, Role.AUDITOR, "report", {"rounds": 2})
    submit(story, Role.HOSPITAL, "ledger-head", {"head": OTHER}, party="small-1")
    assert Identity.from_uri(story.of("statement_submitted")[-1].submitter).name == "small-1"
    verify_bundle(story.write(tmp_path / "bundle"))
