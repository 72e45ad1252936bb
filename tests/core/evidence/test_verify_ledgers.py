"""A dishonest hospital: ledgers that it signed, but that do not account for its releases."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from support.evidence import Story
from support.ledgers import Documents, at, rewrite

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.evidence.verify_ledgers import check_ledgers
from fedhelp_secure.evidence.verify_rounds import Rounds
from fedhelp_secure.privacy.events import KIND
from fedhelp_secure.signing import PAYLOAD_TYPE_PREFIX, SigningKey, peek_document

NAME = "small-1"
OTHER = digest(b"something else")


def failure(story: Story, directory: Path) -> str:
    with pytest.raises(StepFailed) as caught:
        verify_bundle(story.write(directory / "bundle"))
    assert caught.value.title == "ledgers", caught.value
    return str(caught.value)


def less_noise_stated(documents: Documents) -> None:
    documents[0]["event"]["sigma_units"] *= 2
    documents[0]["event"]["share_units"] *= 2


def half_the_loss(documents: Documents) -> None:
    loss = Fraction(documents[0]["rho_aggregate"]) / 2
    documents[0]["rho_aggregate"] = f"{loss.numerator}/{loss.denominator}"


def half_the_total(documents: Documents) -> None:
    loss = Fraction(documents[3]["totals"]["rho_aggregate"]) / 2
    documents[3]["totals"]["rho_aggregate"] = f"{loss.numerator}/{loss.denominator}"


def half_the_lifetime(documents: Documents) -> None:
    loss = Fraction(documents[3]["totals"]["lifetime_rho_aggregate"]) / 2
    documents[3]["totals"]["lifetime_rho_aggregate"] = f"{loss.numerator}/{loss.denominator}"


def same_round_twice(documents: Documents) -> Documents:
    return [documents[0], documents[0]]


def second_round_not_reserved(documents: Documents) -> Documents:
    return documents[:3]


def sent_without_reserving(documents: Documents) -> Documents:
    return [*documents[1:3], documents[0]]


def opened_without_sending(documents: Documents) -> Documents:
    return [documents[0], documents[2]]


def sent_twice(documents: Documents) -> Documents:
    return [*documents[:2], documents[1]]


def opened_twice(documents: Documents) -> Documents:
    return [*documents[:3], documents[2]]


def half_the_year(documents: Documents) -> None:
    loss = Fraction(documents[3]["totals"]["year_rho_aggregate"]) / 2
    documents[3]["totals"]["year_rho_aggregate"] = f"{loss.numerator}/{loss.denominator}"


def another_sum_opened(documents: Documents) -> None:
    documents[5]["sum"] = OTHER


def aborted_after_opened(documents: Documents) -> Documents:
    kept = {name: documents[2][name] for name in ("version", "hospital", "charter", "round")}
    late = {"recorded_at": documents[2]["recorded_at"]}
    return [*documents[:3], kept | late | {"status": "aborted", "code": "round-failed"}]


def sent_after_aborted(documents: Documents) -> Documents:
    aborted = aborted_after_opened(documents)[3]
    # Of one moment, so that only the order is wrong.
    return [documents[0], aborted, documents[1] | {"recorded_at": aborted["recorded_at"]}]


def a_year_that_is_spent(documents: Documents) -> None:
    for place in ("site", "limits"):
        documents[0][place]["year_epsilon"] = "1"


def smaller_clip(documents: Documents) -> None:
    documents[0]["event"].update(clip_units=1, sensitivity="1/1")


def a_small_lifetime(documents: Documents) -> None:
    for name in ("limits", "site"):
        documents[0][name]["lifetime_epsilon"] = "1"


def third_round(documents: Documents) -> None:
    documents[3]["round"] = 3


def everything_of_another_charter(documents: Documents) -> None:
    for document in documents:
        document["charter"] = OTHER


def dated_otherwise(documents: Documents) -> None:
    """Nothing wrong in itself: but not the entry that the manifest names."""
    documents[0]["reserved_at"] = documents[0]["reserved_at"][:4] + "-01-01T00:00:00Z"


CASES: list[tuple[str, Callable[[Documents], Documents | None]]] = [
    ("another hospital", at(1, "hospital", value="small-2")),
    ("second time", same_round_twice),
    ("other parameters", less_noise_stated),
    ("other parameters", at(0, "federation", value="other")),
    ("other parameters", at(0, "group", value="large")),
    ("other parameters", at(0, "delta", value="1e-5")),
    ("other parameters", at(0, "event", "values", value=4)),
    ("other parameters", smaller_clip),
    ("not those of the mechanism", at(0, "event", "clip_units", value=1)),
    ("round that the charter lacks", third_round),
    ("another loss", half_the_loss),
    ("another loss", at(0, "rho_collusion", value="0/1")),
    ("another loss", half_the_total),
    ("another loss", half_the_lifetime),
    ("another loss", at(3, "totals", "rho_collusion", value="0/1")),
    (
        "claims an epsilon (aggregate) of 0.000001, below",
        at(3, "totals", "epsilon_aggregate", value="0.000001"),
    ),
    (
        "claims an epsilon (collusion) of 0.000001, below",
        at(3, "totals", "epsilon_collusion", value="0.000001"),
    ),
    ("another loss", at(3, "totals", "epsilon_aggregate", value="9.000000")),
    ("above its limits", at(0, "limits", "epsilon", value="9")),
    ("above its limits", at(0, "limits", "epsilon", value="1")),
    ("above its limits", at(0, "limits", "epsilon_collusion", value="1")),
    ("another limit than site", at(0, "limits", "lifetime_epsilon", value="1")),
    ("above its limits", a_small_lifetime),
    ("above its limits", a_year_that_is_spent),
    ("another limit", at(0, "limits", "data_set_epsilon", value="900")),
    ("another delta", at(0, "limits", "lifetime_delta", value="1e-5")),
    ("loosens the site's lifetime_delta", at(3, "site", "lifetime_delta", value="1e-5")),
    ("another loss", half_the_year),
    ("another loss", at(3, "totals", "data_set_rho_collusion", value="0/1")),
    ("another loss", at(3, "totals", "epsilon_fewer_honest", value=[])),
    ("older than the one before", at(1, "recorded_at", value="2020-01-01T00:00:00Z")),
    ("other parameters", at(0, "shape", value=[1, 8])),
    ("other parameters", at(0, "fraction_bits", value=13)),
    ("other parameters", at(0, "hospitals", value=2)),
    ("other parameters", at(0, "proxy", value=OTHER)),
    ("other parameters", at(0, "public_set", value=OTHER)),
    ("another sum than was opened", at(3, "previous_aggregate", value=OTHER)),
    ("another sum than other hospitals", another_sum_opened),
    ("others than the log has", at(5, "contributors", value=["large-1", "small-1"])),
    ("does not follow", aborted_after_opened),
    ("does not follow", sent_after_aborted),
    ("does not follow", sent_without_reserving),
    ("does not follow", opened_without_sending),
    ("does not follow", sent_twice),
    ("does not follow", opened_twice),
    ("does not follow", at(2, "contribution", value=OTHER)),
    ("does not name its debit", second_round_not_reserved),
    ("does not name its debit", everything_of_another_charter),
    ("does not name its debit", dated_otherwise),
    ("another loss", at(0, "rho_aggregate", value="9" * 5000 + "/1")),
    ("not valid", at(0, "more", value=1)),
    ("not valid", at(0, "event", "mechanism", value="none")),
]


@pytest.mark.parametrize(("reason", "change"), CASES)
def test_a_false_ledger_is_refused(
    story: Story, tmp_path: Path, reason: str, change: Callable[[Documents], Documents | None]
) -> None:
    rewrite(story, change, NAME)
    assert reason in failure(story, tmp_path)


def test_another_manifest_than_was_sent_is_refused(story: Story, tmp_path: Path) -> None:
    # The last reservation stays as it is: only what came after it is signed again.
    lines = story.ledgers[NAME].splitlines(keepends=True)
    key = story.federation.state(NAME).signing_key()
    sent = key.sign_document(KIND, peek_document(KIND, lines[4]) | {"contribution": OTHER})
    story.ledgers[NAME] = b"".join(lines[:4]) + sent + b"\n"
    assert "another manifest" in failure(story, tmp_path)


@pytest.mark.parametrize("keep", [slice(1, 6), slice(0, 3), slice(0, 0)])
def test_a_debit_cannot_be_cut_off(story: Story, tmp_path: Path, keep: slice) -> None:
    lines = story.ledgers[NAME].splitlines(keepends=True)
    story.ledgers[NAME] = b"".join(lines[keep])
    failure(story, tmp_path)


def test_outcomes_need_not_be_recorded(story: Story, tmp_path: Path) -> None:
    story.ledgers[NAME] = b"".join(story.ledgers[NAME].splitlines(keepends=True)[:4])
    verify_bundle(story.write(tmp_path / "bundle"))


def test_an_entry_by_another_key_is_refused(story: Story, tmp_path: Path) -> None:
    lines = story.ledgers[NAME].splitlines()
    forged = SigningKey.generate().sign_document(KIND, peek_document(KIND, lines[5]))
    story.ledgers[NAME] = b"".join(line + b"\n" for line in [*lines[:5], forged])
    assert "not signed" in failure(story, tmp_path)


def test_an_entry_of_another_kind_is_refused(story: Story, tmp_path: Path) -> None:
    lines = story.ledgers[NAME].splitlines()
    key = story.federation.state(NAME).signing_key()
    other = key.sign_document("manifest", peek_document(KIND, lines[5]))
    story.ledgers[NAME] = b"".join(line + b"\n" for line in [*lines[:5], other])
    assert "another kind" in failure(story, tmp_path)


def test_another_hospitals_ledger_is_refused(story: Story, tmp_path: Path) -> None:
    story.ledgers[NAME] = story.ledgers["small-2"]
    assert "not signed" in failure(story, tmp_path)


def test_a_ledger_of_nobody_is_refused(story: Story, tmp_path: Path) -> None:
    story.ledgers["stranger"] = story.ledgers[NAME]
    assert "nobody" in failure(story, tmp_path)


def test_a_contributor_without_a_ledger_is_refused(story: Story, tmp_path: Path) -> None:
    del story.ledgers[NAME]
    assert "is missing" in failure(story, tmp_path)


def test_a_debit_without_a_release_still_counts(story: Story) -> None:
    """A node that crashed after its debit sits the round out; its patients have paid."""
    charter = story.charter
    lines = story.ledgers[NAME].splitlines(keepends=True)
    files = {layout.ledger_path(NAME): lines[0]}
    spent = check_ledgers(files, charter, (), rounds=Rounds((), (), 0))[NAME]
    totals = peek_document(KIND, lines[0])["totals"]
    assert spent.epsilon_aggregate == Fraction(totals["epsilon_aggregate"])
    assert spent.epsilon_collusion == Fraction(totals["epsilon_collusion"])
    assert spent.epsilon_collusion > spent.epsilon_aggregate > 0


def test_the_reported_losses_are_the_ledgers(story: Story) -> None:
    (claimed,) = [one for one in story.report["hospitals"] if one["name"] == NAME]
    totals = peek_document(KIND, story.ledgers[NAME].splitlines()[3])["totals"]
    assert float(totals["epsilon_aggregate"]) == claimed["epsilon_aggregate"]
    assert float(totals["epsilon_collusion"]) == claimed["epsilon_collusion"]


def test_what_is_quoted_cannot_write_to_the_terminal(story: Story, tmp_path: Path) -> None:
    rewrite(story, at(0, "\x1b[2J\x07\n", value=1), NAME)
    assert failure(story, tmp_path).isprintable()


@pytest.mark.parametrize("payload", [b'{"round":' + b"9" * 30 + b"}", b'{"round":NaN}'])
def test_a_number_without_a_canonical_form_is_refused(
    story: Story, tmp_path: Path, payload: bytes
) -> None:
    """A hospital can sign any bytes; the verifier still names the step."""
    key = story.federation.state(NAME).signing_key()
    payload_type = f"{PAYLOAD_TYPE_PREFIX}{KIND}+json"
    header = b"DSSEv1 %d %s %d " % (len(payload_type), payload_type.encode(), len(payload))
    envelope = json.loads(key.sign_document(KIND, {}))
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(header + payload)).decode()
    story.ledgers[NAME] = canonical_json(envelope) + b"\n"
    failure(story, tmp_path)
