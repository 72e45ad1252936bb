"""``fedhelp audit budget``: every element changed, and the sentence that must name it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.evidence import Story
from support.ledgers import Change, Documents, at, rewrite
from support.sums import contribute
from typer.testing import CliRunner

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.budget import (
    BudgetAudit,
    BudgetRefused,
    audit_budget,
    budget_document,
)
from fedhelp_secure.evidence.commands import app
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.secure_sum.answers import DECRYPTOR_KIND, UNMASKER_KIND
from fedhelp_secure.secure_sum.contribution import KIND as MANIFEST_KIND
from fedhelp_secure.signing import SigningKey, VerifyingKey, peek_document, peek_kind
from fedhelp_secure.transport.identity import Role

NAME = "small-1"
OTHER = digest(b"something else")
LEDGERS = (layout.CHARTER, layout.GOVERNANCE_KEY, "ledgers")
"""The least that an auditor needs."""


def left_of(story: Story, out: Path, keep: tuple[str, ...]) -> Path:
    """Of the story's bundle the files and folders in ``keep``."""
    bundle = story.write(out / "whole")
    directory = out / "directory"
    directory.mkdir()
    for name in keep:
        if (bundle / name).is_dir():
            shutil.copytree(bundle / name, directory / name)
        else:
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copy(bundle / name, directory / name)
    return directory


def refusal(
    directory: Path, *, key: VerifyingKey | None = None, public_set: Path | None = None
) -> str:
    with pytest.raises(BudgetRefused) as caught:
        audit_budget(directory, governance_key=key, public_set=public_set)
    return str(caught.value)


def epsilons(audit: BudgetAudit) -> dict[str, tuple[Fraction, Fraction]]:
    return {
        budget.hospital: (budget.epsilon_aggregate, budget.epsilon_collusion)
        for budget in audit.budgets
    }


@pytest.mark.parametrize(
    ("keep", "unchecked"),
    [
        (LEDGERS, ["index", "public-set", "log", "objects", "report"]),
        ((*LEDGERS, "objects"), ["index", "public-set", "log", "report"]),
        ((*LEDGERS, "objects", "log"), ["index", "public-set", "receipts", "report"]),
        ((*LEDGERS, layout.REPORT_JSON), ["index", "public-set", "log", "objects"]),
    ],
)
def test_what_is_not_there_is_said_and_the_rest_recomputed(
    story: Story, tmp_path: Path, keep: tuple[str, ...], unchecked: list[str]
) -> None:
    audit = audit_budget(left_of(story, tmp_path, keep))
    assert len(audit.unchecked) == len(unchecked)
    for what, line in zip(unchecked, audit.unchecked, strict=True):
        assert line.startswith("no ")
        assert what in line
    assert epsilons(audit) == epsilons(audit_budget(tmp_path / "whole"))


def test_a_whole_bundle_is_recomputed_from_public_parameters(story: Story, bundle: Path) -> None:
    key, charter = story.federation.governance_key.public, story.charter
    audit = audit_budget(bundle, governance_key=key)
    (undeclared,) = audit.warnings
    assert "does not declare how dimension, rounds" in undeclared
    assert budget_document(audit)["public"]["tuning"] is None
    assert [line.split(":")[0] for line in audit.unchecked] == ["no --public-set"]
    assert {budget.hospital for budget in audit.budgets} == {
        hospital.name for hospital in charter.hospitals
    }
    for budget in audit.budgets:
        weight = charter.weight_of(budget.hospital)
        assert budget.sensitivity == weight * charter.privacy.clip_units
        assert (
            budget.aggregate.rho == Fraction(budget.sensitivity, charter.privacy.sigma_units) ** 2
        )
        assert budget.rounds == (1, 2)
        assert (budget.claimed_aggregate, budget.claimed_collusion) == (
            budget.epsilon_aggregate,
            budget.epsilon_collusion,
        )
        # One honest share alone is no better than the hospital's own, which is rounded up.
        ((honest, epsilon),) = budget.fewer_honest
        assert honest == 1
        assert budget.epsilon_aggregate < budget.epsilon_collusion <= epsilon


def test_another_governance_key_is_refused(bundle: Path) -> None:
    assert "governance key" in refusal(bundle, key=SigningKey.generate().public)


def half_the_loss(documents: Documents) -> None:
    loss = Fraction(documents[0]["rho_aggregate"]) / 2
    documents[0]["rho_aggregate"] = f"{loss.numerator}/{loss.denominator}"


def opened_by_two(documents: Documents) -> None:
    documents[2]["contributors"] = ["large-1", "small-1"]


def opened_by_others(documents: Documents) -> None:
    documents[2]["contributors"] = ["large-1", "small-2", "small-3"]


def of_another_charter(documents: Documents) -> None:
    for document in documents:
        document["charter"] = OTHER


CHANGES: list[tuple[str, Change]] = [
    ("entry 1 reserves a round a second time", lambda documents: [documents[0], documents[0]]),
    ("entry 0 does not follow", lambda documents: documents[1:3]),
    ("entry 2 does not follow", lambda documents: [*documents[:2], documents[1]]),
    ("entry 3 claims an epsilon (aggregate) of 0.100000, below", at(
        3, "totals", "epsilon_aggregate", value="0.100000")),
    ("entry 0 claims an epsilon (collusion) of 0.100000, below", at(
        0, "totals", "epsilon_collusion", value="0.100000")),
    ("entry 0 claims an epsilon (aggregate) with 1 honest shares of 0.100000, below", at(
        0, "totals", "epsilon_fewer_honest", value=["0.100000"])),
    ("entry 0 states another loss", half_the_loss),
    ("other parameters than the charter: sigma_units", at(0, "event", "sigma_units", value=1)),
    ("other parameters than the charter: proxy", at(0, "proxy", value=OTHER)),
    ("other parameters than the charter: public_set", at(0, "public_set", value=OTHER)),
    ("other parameters than the charter: tuning", at(0, "tuning", value=dict.fromkeys(
        ("dimension", "rounds", "ridge", "clip"), "public defaults"))),
    ("round 1 was opened without a cohort: the set has 2 contributions", opened_by_two),
    ("entry 2: a ledger entry is not valid", opened_by_others),
    ("another sum than other hospitals'", at(5, "sum", value=OTHER)),
    ("entry 3 follows from another sum", at(2, "sum", value=OTHER)),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), CHANGES, ids=[reason for reason, _ in CHANGES])
def test_a_false_ledger_alone_is_named(
    story: Story, tmp_path: Path, reason: str, change: Change
) -> None:
    rewrite(story, change, NAME)
    said = refusal(left_of(story, tmp_path, LEDGERS))
    assert said.startswith(f"ledgers/{NAME}.jsonl: ")
    assert reason in said


def test_a_removed_entry_breaks_the_chain(story: Story, tmp_path: Path) -> None:
    lines = story.ledgers[NAME].splitlines(keepends=True)
    story.ledgers[NAME] = b"".join([*lines[:1], *lines[2:]])
    said = refusal(left_of(story, tmp_path, LEDGERS))
    assert said == f"ledgers/{NAME}.jsonl: the chain is broken at entry 1."


def test_an_entry_that_another_key_signed_is_named(story: Story, tmp_path: Path) -> None:
    lines = story.ledgers[NAME].splitlines(keepends=True)
    forged = SigningKey.generate().sign_document(KIND, peek_document(KIND, lines[4]))
    story.ledgers[NAME] = b"".join([*lines[:4], forged + b"\n", *lines[5:]])
    said = refusal(left_of(story, tmp_path, LEDGERS))
    assert f"ledgers/{NAME}.jsonl: entry 4: the ledger-entry is not signed" in said


def test_a_release_without_a_debit_shows_in_the_others_ledgers(
    story: Story, tmp_path: Path
) -> None:
    story.ledgers[NAME] = b"".join(story.ledgers[NAME].splitlines(keepends=True)[:3])
    said = refusal(left_of(story, tmp_path, LEDGERS))
    assert f"round 2 was opened with a release of {NAME}, whose ledger has no debit" in said


def test_ledgers_of_another_charter_prove_nothing(story: Story, tmp_path: Path) -> None:
    for name in story.ledgers:
        rewrite(story, of_another_charter, name)
    assert "no ledger here has an entry under this charter" in refusal(
        left_of(story, tmp_path, LEDGERS)
    )


def test_one_ledger_of_another_charter_is_recomputed_as_it_says(
    story: Story, tmp_path: Path
) -> None:
    del story.ledgers["small-2"]
    for name in ("small-1", "small-3"):
        rewrite(story, of_another_charter, name)
    for name in ("large-1",):
        rewrite(story, lambda documents: documents[:2], name)
    audit = audit_budget(left_of(story, tmp_path, LEDGERS))
    stated = [budget for budget in audit.budgets if budget.charter == OTHER]
    assert [budget.hospital for budget in stated] == ["small-1", "small-3"]
    assert not any(budget.agreed for budget in stated)
    assert "no ledger: what small-2 spent" in audit.unchecked


def of_tuned_patients(paid: str) -> Callable[[Documents], None]:
    """A ledger of another charter, whose clip is said to be tuned on patients under ``paid``."""

    def change(documents: Documents) -> None:
        of_another_charter(documents)
        for document in documents:
            if document["status"] == "reserved":
                document["tuning"] = {
                    **dict.fromkeys(("dimension", "rounds", "ridge"), "public defaults"),
                    "clip": f"on patients, spent in {paid}",
                }

    return change


def test_what_was_tuned_on_patients_needs_its_debit(story: Story, tmp_path: Path) -> None:
    unpaid = digest(b"a charter that nobody debited")
    rewrite(story, of_tuned_patients(unpaid), NAME)
    for name in ("large-1", "small-2", "small-3"):
        rewrite(story, lambda documents: documents[:2], name)
    said = refusal(left_of(story, tmp_path, LEDGERS))
    assert f"clip was tuned on patients, and no ledger here debited {unpaid}" in said


def test_a_debit_pays_for_later_tuning_only(story: Story, tmp_path: Path) -> None:
    charter = story.charter.digest
    rewrite(story, of_tuned_patients(charter), NAME)
    for name in ("large-1", "small-2", "small-3"):
        rewrite(story, lambda documents: documents[:2], name)
    audit = audit_budget(left_of(story, tmp_path / "paid", LEDGERS))
    assert any(budget.charter == OTHER for budget in audit.budgets)
    rewrite(story, of_tuned_patients(OTHER), NAME)
    said = refusal(left_of(story, tmp_path / "itself", LEDGERS))
    assert f"no ledger here debited {OTHER} for it before {OTHER}" in said


def test_the_public_set_must_be_the_charters(story: Story, tmp_path: Path) -> None:
    embeddings = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    projection = fit_projection(embeddings, 2)
    images = np.zeros((2, 16, 16), dtype=np.uint8)
    PublicSet(images, projection.apply(embeddings), projection).save(tmp_path / "other.npz")
    directory = left_of(story, tmp_path, LEDGERS)
    assert "not the charter's public set" in refusal(directory, public_set=tmp_path / "other.npz")


# Objects without a log.


def second_release(story: Story) -> None:
    part = contribute(
        story.federation,
        NAME,
        Path(story.federation.root) / f"again-{len(story.objects)}-{id(story)}",
        ledger_entry_digest=digest(story.ledgers[NAME].splitlines()[0]),
    )
    story.objects.append(part.manifest)


def resigned(kind: str, party: str | Role, **changes: object) -> Callable[[Story], None]:
    """One more object of ``kind``: the first one of the party, changed and signed by it."""

    def change(story: Story) -> None:
        key = story.federation.state(party).signing_key()
        for envelope in _objects(story, kind):
            document = peek_document(kind, envelope)
            if _by(document, party):
                story.objects.append(key.sign_document(kind, document | changes))
                return

    return change


def _by(document: dict[str, Any], party: str | Role) -> bool:
    name = party.value if isinstance(party, Role) else party
    return bool(document.get("unmasker", document.get("hospital", name)) == name)


def a_smaller_set(story: Story) -> None:
    """One unmasker answered for two cohorts."""
    envelope = next(_objects(story, UNMASKER_KIND))
    document = peek_document(UNMASKER_KIND, envelope)
    document["contributions"] = document["contributions"][:3]
    key = story.federation.state(document["unmasker"]).signing_key()
    story.objects.append(key.sign_document(UNMASKER_KIND, document))


def two_in_the_set(story: Story) -> None:
    for envelope in list(_objects(story, UNMASKER_KIND)):
        document = peek_document(UNMASKER_KIND, envelope)
        if document["round"] == 1:
            document["contributions"] = document["contributions"][:2]
            key = story.federation.state(document["unmasker"]).signing_key()
            story.objects.remove(envelope)
            story.objects.append(key.sign_document(UNMASKER_KIND, document))


def cut_off(story: Story) -> None:
    """The others say nothing of opened sums, so that only the manifest tells of the release."""
    for name in story.ledgers:
        lines = story.ledgers[name].splitlines(keepends=True)
        story.ledgers[name] = b"".join(lines[:1] if name == NAME else lines[:2])


def nobody_signed(story: Story) -> None:
    document = peek_document(DECRYPTOR_KIND, next(_objects(story, DECRYPTOR_KIND)))
    story.objects.append(SigningKey.generate().sign_document(DECRYPTOR_KIND, document))


def _objects(story: Story, kind: str) -> Iterator[bytes]:
    return (envelope for envelope in list(story.objects) if peek_kind(envelope) == kind)


LOOSE: list[tuple[str, Callable[[Story], None]]] = [
    (f"a second release of {NAME} in round 1", second_release),
    ("round 2 was released without a debit", cut_off),
    ("does not name its debit", lambda story: rewrite(
        story, at(3, "software_version", value="9"), NAME)),
    ("round 1 was opened without a cohort", two_in_the_set),
    ("round 1: the decryptor opened two different sums", resigned(
        DECRYPTOR_KIND, Role.DECRYPTOR, sum_digest=OTHER)),
    ("round 1: two different sets were opened", a_smaller_set),
    ("is of another charter", resigned(UNMASKER_KIND, Role.UNMASKER, charter=OTHER)),
    ("is of another charter", resigned(DECRYPTOR_KIND, Role.DECRYPTOR, charter=OTHER)),
    ("is refused: a manifest is for another charter", resigned(
        MANIFEST_KIND, NAME, charter=OTHER)),
    ("not signed by a custodian", nobody_signed),
    ("other fields than it must", resigned(DECRYPTOR_KIND, Role.DECRYPTOR, more=1)),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "change"), LOOSE)
def test_a_false_object_without_a_log_is_named(
    story: Story, tmp_path: Path, reason: str, change: Callable[[Story], None]
) -> None:
    change(story)
    assert reason in refusal(left_of(story, tmp_path, (*LEDGERS, "objects")))


def test_an_object_must_hash_to_its_name(story: Story, tmp_path: Path) -> None:
    directory = left_of(story, tmp_path, (*LEDGERS, "objects"))
    path = sorted((directory / "objects").iterdir())[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert f"objects/{path.name} does not hash to its name" in refusal(directory)


def test_an_unmasker_may_not_have_opened_another_manifest(story: Story, tmp_path: Path) -> None:
    manifest = next(
        envelope
        for envelope in _objects(story, MANIFEST_KIND)
        if peek_document(MANIFEST_KIND, envelope)["hospital"] == NAME
    )
    story.objects.remove(manifest)
    second_release(story)
    directory = left_of(story, tmp_path, (*LEDGERS, "objects"))
    said = refusal(directory)
    assert f"an unmasker opened another manifest of {NAME}" in said


# The report, and a whole bundle.


@pytest.mark.parametrize("field", ["epsilon_aggregate", "epsilon_collusion"])
@pytest.mark.parametrize("keep", [(*LEDGERS, layout.REPORT_JSON), None])
def test_a_report_below_the_recomputed_is_named(
    story: Story, tmp_path: Path, field: str, keep: tuple[str, ...] | None
) -> None:
    claims = next(one for one in story.report["hospitals"] if one["name"] == NAME)
    claims[field] -= 0.001
    directory = story.write(tmp_path / "bundle") if keep is None else left_of(story, tmp_path, keep)
    assert f"the report's {field} of {NAME} is below" in refusal(directory)


@pytest.mark.parametrize(("field", "value"), [("charter", OTHER), ("rounds", 1)])
def test_a_report_of_something_else_is_named(
    story: Story, tmp_path: Path, field: str, value: object
) -> None:
    story.report[field] = value
    assert f"the report's {field} is not" in refusal(story.write(tmp_path / "bundle"))


def twice_in_the_log(story: Story) -> None:
    place = story.index("contribution_accepted")
    story.entries.insert(place, story.entries[place])


def closed_over_two(story: Story) -> None:
    for name in ("small-2", "small-3"):
        entry = next(
            entry
            for entry in story.entries
            if (entry.contribution_accepted.hospital, entry.contribution_accepted.round)
            == (name, 1)
        )
        story.entries.remove(entry)
        named = entry.contribution_accepted.manifest_digest
        story.objects = [one for one in story.objects if digest(one) != named]
    story.of("round_closed", 1)[0].hospitals[:] = ["large-1", "small-1"]


def other_sum(story: Story) -> None:
    story.of("round_summed", 1)[0].sum_digest = OTHER


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("twice to one round", twice_in_the_log),
        ("the set has 2 contributions, but the charter asks for 3", closed_over_two),
        ("the decryptor opened another sum than was logged", other_sum),
    ],
)
def test_a_false_log_is_named(
    story: Story, tmp_path: Path, reason: str, change: Callable[[Story], None]
) -> None:
    change(story)
    assert reason in refusal(story.write(tmp_path / "bundle"))


def test_a_file_changed_after_the_index_is_named(bundle: Path) -> None:
    path = bundle / layout.ledger_path(NAME)
    path.write_bytes(path.read_bytes()[:-1])
    assert f"ledgers/{NAME}.jsonl was changed after" in refusal(bundle)


def test_what_is_quoted_cannot_write_to_the_terminal(story: Story, tmp_path: Path) -> None:
    rewrite(story, at(0, "\x1b[2J\x07\n", value=1), NAME)
    assert refusal(left_of(story, tmp_path, LEDGERS)).isprintable()


# The command.


def test_json_goes_to_the_screen_or_to_a_file(bundle: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["budget", str(bundle), "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document == budget_document(audit_budget(bundle))
    assert document["verdict"] == "consistent"
    assert document["budgets"][0]["epsilon_aggregate"]["report"] is not None
    written = CliRunner().invoke(app, ["budget", str(bundle), "--json", str(tmp_path / "out.json")])
    assert written.exit_code == 0, written.output
    assert json.loads((tmp_path / "out.json").read_text()) == document
    assert "recomputed" in written.stdout


def test_a_refusal_is_json_too_and_fails(story: Story, tmp_path: Path) -> None:
    rewrite(story, half_the_loss, NAME)
    directory = left_of(story, tmp_path, LEDGERS)
    shown = CliRunner().invoke(app, ["budget", str(directory), "--json"])
    assert shown.exit_code == 1
    assert isinstance(shown.exception, BudgetRefused)
    document = json.loads(shown.stdout)
    assert document["verdict"] == "refused"
    assert document["why"] == str(shown.exception)


def test_a_file_without_json_is_a_mistake(bundle: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["budget", str(bundle), str(tmp_path / "out.json")])
    assert shown.exit_code == 1
    assert "--json" in str(shown.exception)
    assert not (tmp_path / "out.json").exists()
