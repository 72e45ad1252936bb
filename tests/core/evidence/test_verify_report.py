"""Reports that say something better than the evidence proves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.evidence import Story
from typer.testing import CliRunner

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.commands import app
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.evidence.verify_report import read_claims
from fedhelp_secure.report.complete import complete_bundle
from fedhelp_secure.report.model import Report
from fedhelp_secure.report.page import page_warning
from fedhelp_secure.transport.identity import Role

Document = dict[str, Any]
Place = tuple[tuple[str | int, ...], object]
"""Where in a report, and what is put there."""


def failure(bundle: Path) -> str:
    with pytest.raises(StepFailed) as caught:
        verify_bundle(bundle)
    assert caught.value.title == "report", caught.value
    return str(caught.value)


def rewritten(story: Story, bundle: Path, change: Callable[[Document], object]) -> Path:
    path = bundle / layout.REPORT_JSON
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    sign_index(bundle, story.federation.state(Role.AUDITOR))
    return bundle


def put(*path: str | int, value: object) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def lower(hospital: int, field: str) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        document["hospitals"][hospital][field] -= 0.000001

    return change


CASES: list[tuple[str, Callable[[Document], object]]] = [
    ("charter", put("charter", value=digest(b"another"))),
    ("task", put("task", value="segmentation")),
    ("rounds", put("rounds", value=1)),
    ("rounds", put("rounds", value=3)),
    ("foundation_model_calls", put("foundation_model_calls", value=0)),
    ("foundation_model_calls", put("foundation_model_calls", value=2)),
    ("not a beginning", put("log", "root", value="0" * 64)),
    ("not a beginning", put("log", "size", value=15)),
    ("not a beginning", put("log", "size", value=17)),
    ("below", lower(0, "epsilon_aggregate")),
    ("below", lower(2, "epsilon_aggregate")),
    ("below", lower(0, "epsilon_collusion")),
    ("below", lower(1, "epsilon_collusion")),
    ("below", put("hospitals", 1, "epsilon_aggregate", value=0)),
    ("each once", drop("hospitals", 1)),
    ("each once", put("hospitals", 1, "name", value="large-1")),
    ("each once", put("hospitals", 1, "name", value="stranger")),
    ("not so in the charter", put("hospitals", 1, "group", value="large")),
    (
        "not so in the charter",
        lambda document: document["hospitals"].append(
            document["hospitals"][0] | {"name": "stranger"}
        ),
    ),
    ("at charter", drop("charter")),
    ("at log", drop("log")),
    ("at log.size", put("log", "size", value=0)),
    ("at log.size", put("log", "size", value="16")),
    ("at log.root", put("log", "root", value="AA")),
    ("at rounds", put("rounds", value=2.5)),
    ("at rounds", put("rounds", value="2")),
    ("at hospitals", put("hospitals", value=[])),
    ("at hospitals", put("hospitals", value={})),
    ("at hospitals.0.epsilon_aggregate", drop("hospitals", 0, "epsilon_aggregate")),
    ("at hospitals.0.epsilon_aggregate", put("hospitals", 0, "epsilon_aggregate", value=None)),
    ("at hospitals.0.epsilon_aggregate", put("hospitals", 0, "epsilon_aggregate", value="9")),
    ("at hospitals.0.epsilon_aggregate", put("hospitals", 0, "epsilon_aggregate", value=-1)),
    ("at hospitals.0.epsilon_aggregate", put("hospitals", 0, "epsilon_aggregate", value=True)),
    ("federation is not", put("federation", value="another")),
    ("at federation", drop("federation")),
    ("privacy.epsilon_limit is not", put("privacy", "epsilon_limit", value="0.5")),
    ("privacy.delta is not", put("privacy", "delta", value="1e-9")),
    ("privacy.unit is not", put("privacy", "unit", value="hospital")),
    ("privacy.adjacency is not", put("privacy", "adjacency", value="replace-one")),
    ("privacy.mechanism is not", put("privacy", "mechanism", value="dp_sgd")),
    ("privacy.tuning is not", put("privacy", "tuning", value="on nothing")),
    ("secure_sum.values is not", put("secure_sum", "values", value=1)),
    ("secure_sum.bytes is not", put("secure_sum", "bytes", value=1)),
    ("secure_sum.upload_bytes is not", put("secure_sum", "upload_bytes", value=1)),
    ("secure_sum.custodian_bytes is not", put("secure_sum", "custodian_bytes", value=1)),
    ("secure_sum.answer_bytes is not", put("secure_sum", "answer_bytes", value=1)),
    ("secure_sum.seconds is not", put("secure_sum", "seconds", value=99.5)),
    ("at secure_sum", drop("secure_sum")),
    ("at privacy.note", put("privacy", "note", value="approved by everybody")),
    ("at hospitals.0.distilled", put("hospitals", 0, "distilled", value=1.5)),
    ("at evidence_verified", put("evidence_verified", value=True)),
    ("at version", put("version", value=2)),
    ("plain JSON", put("hospitals", 0, "epsilon_collusion", value=float("inf"))),
    ("plain JSON", put("hospitals", 0, "epsilon_collusion", value=float("nan"))),
]


@pytest.mark.parametrize(("reason", "change"), CASES)
def test_a_false_report_is_refused(
    story: Story, bundle: Path, reason: str, change: Callable[[Document], object]
) -> None:
    assert reason in failure(rewritten(story, bundle, change))


@pytest.mark.parametrize(
    "change",
    [
        put("hospitals", 0, "epsilon_aggregate", value=99),
        put("hospitals", 0, "epsilon_collusion", value=1e3),
        put("dataset", value="busi"),
        put("hospitals", 0, "distilled", value=0.9),
    ],
)
def test_a_report_may_say_worse_and_more(
    story: Story, bundle: Path, change: Callable[[Document], object]
) -> None:
    verify_bundle(rewritten(story, bundle, change))


FREE = {"dataset", "dataset_sentence", "seed", "seconds"}
"""What a demo says of itself."""
WORD = {"metric", "alone", "distilled", "head_alone", "head"}
"""What a hospital says of its own models."""


def _another(value: object) -> object:
    """Of the same type, so that the form alone does not refuse it."""
    if isinstance(value, int):
        return value + 1
    return value - 0.000001 if isinstance(value, float) else "other"


def _changes(value: object, path: tuple[str | int, ...] = ()) -> Iterator[Place]:
    members: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    else:
        yield path, _another(value)
    for key, member in members:
        yield from _changes(member, (*path, key))


def test_every_other_field_of_a_report_is_proved(story: Story, bundle: Path) -> None:
    """A field that is added to reports must be proved, or be named here."""
    true = (bundle / layout.REPORT_JSON).read_bytes()
    changes = list(_changes(Report.model_validate_json(true).model_dump(mode="json")))
    assert len(changes) > 40
    for place, value in changes:
        if place[0] in FREE or (place[0] == "hospitals" and place[-1] in WORD):
            continue
        (bundle / layout.REPORT_JSON).write_bytes(true)
        failure(rewritten(story, bundle, put(*place, value=value)))


def test_a_page_that_says_something_else_is_warned_of(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "bundle")
    auditor = story.federation.state(Role.AUDITOR)
    complete_bundle(bundle, auditor, {})
    assert page_warning(bundle) is None
    page = bundle / layout.REPORT_HTML
    page.write_bytes(page.read_bytes().replace(b"small-1", b"small-2", 1))
    sign_index(bundle, auditor)
    verify_bundle(bundle)
    assert "only report.json was verified" in str(page_warning(bundle))
    verified = CliRunner().invoke(app, ["verify", str(bundle)], catch_exceptions=False)
    assert verified.exit_code == 0
    assert "warning: report.html is not the page" in verified.output


def test_a_key_may_not_be_written_twice(true_bundle: Path) -> None:
    """Other readers take the first of two, Python the last."""
    text = (true_bundle / layout.REPORT_JSON).read_bytes()
    read_claims(text)
    with pytest.raises(BundleRefused, match="distinct keys"):
        read_claims(text.replace(b'"rounds": 2', b'"rounds": 9, "rounds": 2'))


@pytest.mark.parametrize("number", ["1e-999999999", "0.0", "3e-6"])
def test_a_tiny_epsilon_is_below_at_any_exponent(story: Story, bundle: Path, number: str) -> None:
    path = bundle / layout.REPORT_JSON
    document = json.loads(path.read_bytes())
    claimed = json.dumps(document["hospitals"][0]["epsilon_aggregate"])
    path.write_text(path.read_text().replace(claimed, number, 1))
    sign_index(bundle, story.federation.state(Role.AUDITOR))
    assert "below" in failure(bundle)


def test_a_report_made_before_the_last_entries_is_no_fault(story: Story, tmp_path: Path) -> None:
    bundle = story.write(tmp_path / "before")
    cited = json.loads((bundle / layout.REPORT_JSON).read_bytes())["log"]
    envelope = story.federation.state(Role.AUDITOR).signing_key().sign_document("report", {})
    story.objects.append(envelope)
    event = type(story.of("statement_submitted")[0])(
        submitter=story.federation.state(Role.AUDITOR).identity.uri,
        kind="report",
        envelope_digest=digest(envelope),
    )
    story.add(type(story.entries[0])(statement_submitted=event))
    story.report["log"] = cited
    verify_bundle(story.write(tmp_path / "after"))


def test_a_report_made_before_the_last_round_ended_is_refused(story: Story, tmp_path: Path) -> None:
    cut = story.copy()
    cut.entries, cut.objects, cut.ledgers, cut.receipts = cut.entries[:9], [], {}, {}
    cited = json.loads((cut.write(tmp_path / "cut") / layout.REPORT_JSON).read_bytes())["log"]
    story.report["log"] = cited
    assert "before its last round" in failure(story.write(tmp_path / "bundle"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"rounds": 2, "rounds": 3}',
        b"[" * 100_000,
        b'{"rounds": 1e999999999999999999999}',
    ],
)
def test_a_report_that_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused):
        read_claims(data)


def test_the_products_own_report_model_has_what_is_checked(true_bundle: Path) -> None:
    claims = read_claims((true_bundle / layout.REPORT_JSON).read_bytes())
    fields = set(type(claims).model_fields)
    assert fields <= set(Report.model_fields)
