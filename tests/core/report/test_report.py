"""The report's figures follow from the evidence, and its page holds nothing but text."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.evidence import tell
from support.federation import make_federation

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.report.build import secure_sum_cost
from fedhelp_secure.report.html import render
from fedhelp_secure.report.model import (
    HospitalResult,
    LogHead,
    PrivacyTerms,
    Report,
    SecureSumCost,
)
from fedhelp_secure.sealing import SEALED_OVERHEAD
from fedhelp_secure.secure_sum.bodies import body_bytes

SEALED = SEALED_OVERHEAD + 32


def _report(**changes: object) -> Report:
    facts: dict[str, object] = {
        "federation": "example",
        "charter": "sha256:" + "0" * 64,
        "task": "classification",
        "dataset": "phantom",
        "dataset_sentence": "invented images",
        "seed": 0,
        "seconds": 1.5,
        "rounds": 3,
        "privacy": PrivacyTerms(
            epsilon_limit="3",
            delta="1e-6",
            unit="patient",
            adjacency="add-remove-one",
            mechanism="probe",
        ),
        "secure_sum": SecureSumCost(
            values=8, bytes=60, seconds=0.5, upload_bytes=10, custodian_bytes=20, answer_bytes=30
        ),
        "foundation_model_calls": 1,
        "log": LogHead(size=9, root="0" * 64),
        "hospitals": (
            HospitalResult(
                name="small-1",
                group="small",
                metric="accuracy",
                alone=0.5,
                distilled=0.75,
                epsilon_aggregate=2.9,
                epsilon_collusion=6.5,
            ),
        ),
    }
    return Report.model_validate(facts | changes)


def test_bytes_are_those_of_the_messages(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "parties", large=1, small=2, unmaskers=2)
    story = tell(federation, tmp_path / "scratch")
    files = layout.read_files(story.write(tmp_path / "bundle"))
    entries = [parse_entry(leaf) for leaf in layout.leaves(files)]
    objects = layout.objects(files)
    charter = federation.charter
    cost = secure_sum_cost(charter, entries, objects)

    accepted = [e.contribution_accepted for e in entries if e.HasField("contribution_accepted")]
    summed = [e.round_summed for e in entries if e.HasField("round_summed")]
    assert len(accepted) > 2
    assert len(summed) == charter.rounds.count
    manifests = sum(len(objects[event.manifest_digest]) for event in accepted)
    each = charter.secure_sum.ciphertext_bytes + 2 * SEALED
    assert cost.upload_bytes == len(accepted) * each + manifests
    sums = len(summed) * charter.secure_sum.ciphertext_bytes
    assert cost.custodian_bytes == sums + 2 * (manifests + len(accepted) * SEALED)
    statements = sum(
        len(objects[event.decryptor_statement_digest])
        + sum(len(objects[name]) for name in event.unmasker_statement_digests)
        for event in summed
    )
    answers = statements + len(summed) * 3 * (3 * SEALED + body_bytes(charter.secure_sum))
    assert cost.answer_bytes == 4 * answers
    assert cost.bytes == cost.upload_bytes + cost.custodian_bytes + cost.answer_bytes
    assert cost.values == charter.secure_sum.values

    missing = {name: data for name, data in objects.items() if name != accepted[0].manifest_digest}
    with pytest.raises(MalformedMessage, match="does not hold"):
        secure_sum_cost(charter, entries, missing)


def test_the_page_says_both_epsilons_and_the_limit() -> None:
    page = render(_report())
    for text in ("2.9000", "6.5000", "epsilon 3", "1e-6", "0.750", "patient"):
        assert text in page


def test_hostile_text_stays_text() -> None:
    page = render(_report(dataset_sentence="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_loads_nothing() -> None:
    page = render(_report())
    for attribute in ("src=", "<link", "<iframe", "@import", "url(http"):
        assert attribute not in page
    assert page.count("<svg") == 3


def test_heads_are_shown_where_there_are_any() -> None:
    plain = _report()
    assert "head kept" not in render(plain)
    with_heads = [
        hospital.model_copy(update={"head_alone": 0.611, "head": 0.722})
        for hospital in plain.hospitals
    ]
    page = render(plain.model_copy(update={"hospitals": tuple(with_heads)}))
    # In the table and in the plot's legend.
    assert page.count("head kept") == 2
    assert ">0.72<" in page
    assert "0.611" in page
    assert "0.722" in page
