"""Logs in which the custodians' keys are not what they should be; who changes a log signs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.evidence import Story
from support.federation import Federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.epochs import (
    BEGUN_KIND,
    DESTROYED_KIND,
    EPOCH_KIND,
    sign_begun,
    sign_destroyed,
    sign_epoch,
)
from fedhelp_secure.secure_sum.round_keys import round_keys_digest
from fedhelp_secure.signing import peek_document
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, StatementSubmitted

CUSTODIANS = ("decryptor", "unmasker", "unmasker-2")
OTHER = digest(b"another")


def at(story: Story, party: str, kind: str, place: int) -> int:
    """Index in the log of a custodian's ``place``-th statement of one kind."""
    uri = story.federation.state(party).identity.uri
    return [
        index
        for index, entry in enumerate(story.entries)
        if entry.statement_submitted.submitter == uri and entry.statement_submitted.kind == kind
    ][place]


def envelope_at(story: Story, index: int) -> bytes:
    named = story.entries[index].statement_submitted.envelope_digest
    return next(envelope for envelope in story.objects if digest(envelope) == named)


def replace(story: Story, index: int, envelope: bytes) -> None:
    """Let the log and the bundle have ``envelope`` in the place of a statement."""
    event = story.entries[index].statement_submitted
    story.objects = [one for one in story.objects if digest(one) != event.envelope_digest]
    for opened in story.of("round_opened"):
        names = [
            digest(envelope) if name == event.envelope_digest else name
            for name in opened.round_begun_digests
        ]
        opened.round_begun_digests[:] = names
    event.envelope_digest = digest(envelope)
    story.objects.append(envelope)


def remove(story: Story, index: int) -> None:
    named = story.entries[index].statement_submitted.envelope_digest
    story.objects = [one for one in story.objects if digest(one) != named]
    del story.entries[index]


def insert(story: Story, index: int, party: str, kind: str, envelope: bytes) -> None:
    """Log one more statement of ``party``, before entry ``index``."""
    identity = story.federation.state(party).identity
    event = StatementSubmitted(submitter=identity.uri, kind=kind, envelope_digest=digest(envelope))
    entry = LogEntry(unix_milliseconds=1_700_000_000_000, statement_submitted=event)
    story.entries.insert(index, entry)
    story.objects.append(envelope)


def resigned(
    story: Story, party: str, kind: str, place: int, *, signer: str | None = None, **changes: object
) -> None:
    index = at(story, party, kind, place)
    document = peek_document(kind, envelope_at(story, index)) | changes
    key = story.federation.state(signer or party).signing_key()
    replace(story, index, key.sign_document(kind, document))


def changed(party: str, kind: str, place: int, **changes: object) -> Callable[[Story], None]:
    return lambda story: resigned(story, party, kind, place, signer=None, **changes)


def signed_by_another(story: Story) -> None:
    resigned(story, "unmasker", EPOCH_KIND, 0, signer="unmasker-2")


def stated_by_a_hospital(story: Story) -> None:
    key = story.federation.state("small-1").signing_key()
    document = peek_document(EPOCH_KIND, envelope_at(story, at(story, "unmasker", EPOCH_KIND, 0)))
    insert(
        story, len(story.entries), "small-1", EPOCH_KIND, key.sign_document(EPOCH_KIND, document)
    )


def epoch_left_out(story: Story) -> None:
    remove(story, at(story, "decryptor", DESTROYED_KIND, 0))
    remove(story, at(story, "decryptor", EPOCH_KIND, 1))


def no_epochs(story: Story) -> None:
    remove(story, at(story, "unmasker-2", EPOCH_KIND, 1))
    remove(story, at(story, "unmasker-2", EPOCH_KIND, 0))


def beginning_left_out(story: Story) -> None:
    remove(story, at(story, "unmasker", BEGUN_KIND, 1))


def beginning_left_out_and_opened_so(story: Story) -> None:
    index = at(story, "unmasker", BEGUN_KIND, 1)
    named = story.entries[index].statement_submitted.envelope_digest
    remove(story, index)
    story.of("round_opened", 2)[0].round_begun_digests.remove(named)


def beginning_after_the_opening(story: Story) -> None:
    index = at(story, "unmasker", BEGUN_KIND, 0)
    entry = story.entries.pop(index)
    story.entries.insert(story.index("round_opened") + 1, entry)


def statements_in_disorder(story: Story) -> None:
    names = story.of("round_opened", 1)[0].round_begun_digests
    names[:] = list(names)[::-1]


def epoch_after_the_beginning(story: Story) -> None:
    remove(story, at(story, "unmasker", DESTROYED_KIND, 0))
    index = at(story, "unmasker", EPOCH_KIND, 1)
    entry = story.entries.pop(index)
    story.entries.insert(at(story, "unmasker", BEGUN_KIND, 1) + 1, entry)


def begun(story: Story, party: str, number: int, epoch: int) -> bytes:
    state = story.federation.state(party)
    return sign_begun(
        state.signing_key(),
        state.identity,
        charter_digest=story.charter.digest,
        round_number=number,
        epoch=epoch,
        epoch_envelope=envelope_at(story, at(story, party, EPOCH_KIND, epoch - 1)),
    )


def begun_twice(story: Story) -> None:
    """A custodian that begins a round anew could open two sets of it."""
    again = begun(story, "unmasker", 1, 1)
    insert(story, story.index("round_opened") + 1, "unmasker", BEGUN_KIND, again)


def begun_and_never_opened(story: Story) -> None:
    insert(story, len(story.entries), "unmasker", BEGUN_KIND, begun(story, "unmasker", 3, 2))


def begun_under_a_destroyed_epoch(story: Story) -> None:
    """Round 2 under the keys of round 1, whose end is in the log already."""
    index = at(story, "unmasker", BEGUN_KIND, 1)
    replace(story, index, begun(story, "unmasker", 2, 1))


def begun_under_an_earlier_epoch(story: Story) -> None:
    """Round 1 under epoch 2, then round 2 under epoch 1."""
    second = envelope_at(story, at(story, "unmasker", EPOCH_KIND, 1))
    remove(story, at(story, "unmasker", EPOCH_KIND, 1))
    remove(story, at(story, "unmasker", DESTROYED_KIND, 0))
    insert(story, at(story, "unmasker", EPOCH_KIND, 0) + 1, "unmasker", EPOCH_KIND, second)
    replace(story, at(story, "unmasker", BEGUN_KIND, 0), begun(story, "unmasker", 1, 2))
    replace(story, at(story, "unmasker", BEGUN_KIND, 1), begun(story, "unmasker", 2, 1))


def nonce_used_again(story: Story) -> None:
    first = peek_document(BEGUN_KIND, envelope_at(story, at(story, "unmasker", BEGUN_KIND, 0)))
    resigned(story, "unmasker", BEGUN_KIND, 1, nonce=first["nonce"])


def another_beginning_of_the_same_round(story: Story) -> None:
    """All is signed, but the hospitals' manifests name the statement that was there before."""
    replace(story, at(story, "unmasker", BEGUN_KIND, 0), begun(story, "unmasker", 1, 1))


def manifest_for_another_beginning(story: Story) -> None:
    event = story.of("contribution_accepted", 1)[0]
    manifest = next(one for one in story.objects if digest(one) == event.manifest_digest)
    first = story.of("round_opened", 2)[0]
    envelopes = [
        next(one for one in story.objects if digest(one) == name)
        for name in first.round_begun_digests
    ]
    document = peek_document("manifest", manifest)
    document["round_keys_digest"] = round_keys_digest(envelopes)
    signed = (
        story.federation.state(event.hospital).signing_key().sign_document("manifest", document)
    )
    story.objects.remove(manifest)
    story.objects.append(signed)
    # The unmaskers' statements name the manifest: they lie along.
    for summed in story.of("round_summed", 1):
        for place, name in enumerate(summed.unmasker_statement_digests):
            old = next(one for one in story.objects if digest(one) == name)
            statement = peek_document("unmasker-statement", old)
            for member in statement["contributions"]:
                if member["manifest_digest"] == event.manifest_digest:
                    member["manifest_digest"] = digest(signed)
            key = story.federation.state(statement["unmasker"]).signing_key()
            new = key.sign_document("unmasker-statement", statement)
            story.objects.remove(old)
            story.objects.append(new)
            summed.unmasker_statement_digests[place] = digest(new)
    event.manifest_digest = digest(signed)


def destroyed(story: Story, party: str, epoch: int, *, abandoned: bool = False) -> bytes:
    state = story.federation.state(party)
    return sign_destroyed(
        state.signing_key(),
        state.identity,
        epoch=epoch,
        epoch_envelope=envelope_at(story, at(story, party, EPOCH_KIND, epoch - 1)),
        reason="a reason",
        abandoned=abandoned,
        now=utc_now(),
    )


def opened_after_its_destruction(story: Story) -> None:
    """The record that epoch 1 was abandoned comes before round 1, under it, was opened."""
    remove(story, at(story, "unmasker", DESTROYED_KIND, 0))
    third = envelope_at(story, at(story, "unmasker", EPOCH_KIND, 1))
    remove(story, at(story, "unmasker", EPOCH_KIND, 1))
    record_at = story.index("round_closed")
    insert(story, record_at, "unmasker", EPOCH_KIND, third)
    gone = destroyed(story, "unmasker", 1, abandoned=True)
    insert(story, record_at + 1, "unmasker", DESTROYED_KIND, gone)


def destroyed_too_early(story: Story) -> None:
    """It says that every round was answered, before round 1 was."""
    record = envelope_at(story, at(story, "unmasker", DESTROYED_KIND, 0))
    epoch = envelope_at(story, at(story, "unmasker", EPOCH_KIND, 1))
    remove(story, at(story, "unmasker", DESTROYED_KIND, 0))
    remove(story, at(story, "unmasker", EPOCH_KIND, 1))
    place = story.index("round_closed")
    insert(story, place, "unmasker", EPOCH_KIND, epoch)
    insert(story, place + 1, "unmasker", DESTROYED_KIND, record)


def destroyed_twice(story: Story) -> None:
    again = destroyed(story, "unmasker", 1)
    insert(story, len(story.entries), "unmasker", DESTROYED_KIND, again)


def the_present_epoch_destroyed(story: Story) -> None:
    insert(story, len(story.entries), "unmasker", DESTROYED_KIND, destroyed(story, "unmasker", 2))


def forked(story: Story) -> None:
    """Two different second epochs: what a restored outdated backup would make."""
    state = story.federation.state("unmasker")
    fork = sign_epoch(
        state.signing_key(),
        state.identity,
        epoch=2,
        key=UnsealingKey.generate().public.to_base64(),
        previous=envelope_at(story, at(story, "unmasker", EPOCH_KIND, 0)),
        now=utc_now(),
    )
    insert(story, len(story.entries), "unmasker", EPOCH_KIND, fork)


FALSE: list[tuple[str, str, Callable[[Story], None]]] = [
    ("entries", "not signed", signed_by_another),
    ("key epochs", "no custodian", stated_by_a_hospital),
    ("key epochs", "not stated", epoch_left_out),
    ("key epochs", "not stated", no_epochs),
    ("key epochs", "not stated", epoch_after_the_beginning),
    ("key epochs", "pins", forked),
    ("key epochs", "pins", changed("unmasker", EPOCH_KIND, 0, epoch=2)),
    ("key epochs", "pins", changed("decryptor", EPOCH_KIND, 0, key=OTHER)),
    ("key epochs", "pins", changed("unmasker", EPOCH_KIND, 1, previous=OTHER)),
    ("key epochs", "pins", changed("unmasker", EPOCH_KIND, 1, epoch=3)),
    ("key epochs", "another custodian", changed("unmasker", EPOCH_KIND, 0, name="unmasker-2")),
    ("key epochs", "other fields", changed("unmasker", EPOCH_KIND, 0, version=2)),
    ("key epochs", "before every custodian", beginning_left_out),
    ("key epochs", "before every custodian", beginning_left_out_and_opened_so),
    ("key epochs", "before every custodian", beginning_after_the_opening),
    ("key epochs", "before every custodian", statements_in_disorder),
    ("key epochs", "a second time", begun_twice),
    ("key epochs", "never opened", begun_and_never_opened),
    ("key epochs", "began round 2 under epoch 1", begun_under_a_destroyed_epoch),
    ("key epochs", "went back", begun_under_an_earlier_epoch),
    ("key epochs", "nonce twice", nonce_used_again),
    ("key epochs", "another charter", changed("unmasker", BEGUN_KIND, 0, charter=OTHER)),
    ("key epochs", "another name", changed("unmasker", BEGUN_KIND, 0, epoch=2)),
    ("key epochs", "not stated", changed("unmasker", BEGUN_KIND, 0, epoch_statement=OTHER)),
    ("key epochs", "second time", changed("unmasker", BEGUN_KIND, 1, round=1)),
    ("key epochs", "other keys", another_beginning_of_the_same_round),
    ("key epochs", "other keys", manifest_for_another_beginning),
    ("key epochs", "which it had destroyed", opened_after_its_destruction),
    ("key epochs", "was not opened", destroyed_too_early),
    ("key epochs", "wrongly", destroyed_twice),
    ("key epochs", "wrongly", the_present_epoch_destroyed),
    ("key epochs", "wrongly", changed("unmasker", DESTROYED_KIND, 0, epoch=2)),
    ("key epochs", "not stated", changed("unmasker", DESTROYED_KIND, 0, epoch_statement=OTHER)),
]


@pytest.mark.parametrize(("title", "match", "lie"), FALSE)
def test_a_false_log_is_refused(
    story: Story, tmp_path: Path, title: str, match: str, lie: Callable[[Story], None]
) -> None:
    lie(story)
    with pytest.raises(StepFailed, match=match) as caught:
        verify_bundle(story.write(tmp_path / "bundle"))
    assert caught.value.title == title


def test_every_custodian_changed_its_keys_between_the_rounds(
    federation: Federation, true_bundle: Path
) -> None:
    step = verify_bundle(true_bundle).steps[8]
    assert step.title == "key epochs"
    count = len(CUSTODIANS)
    assert step.finding == (
        f"2 rounds under the {2 * count} key epochs of the custodians, {count} of them destroyed"
    )
