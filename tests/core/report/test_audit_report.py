"""Every sentence of the audit report cites a part of the bundle, or says that it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.evidence import Story

from fedhelp_secure.charter import SignedParty
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import text_of
from fedhelp_secure.evidence.verify_log import fingerprint
from fedhelp_secure.report.audit import FRAMEWORKS, NOTHING, build_report
from fedhelp_secure.report.audit_html import audit_html
from fedhelp_secure.report.document import (
    Chart,
    Document,
    Evidence,
    NoEvidence,
    Row,
    Section,
    Statement,
    Table,
    document_json,
)
from fedhelp_secure.report.facts import TOPICS, Facts, read_facts, signer_of
from fedhelp_secure.report.mapping import Framework
from fedhelp_secure.report.mapping_hipaa import HIPAA
from fedhelp_secure.report.mapping_privacy import SP_800_226
from fedhelp_secure.report.residual import residual_risks
from fedhelp_secure.report.words import WORDS
from fedhelp_secure.wire.v1.evidence_pb2 import (
    ContributionRejected,
    LogEntry,
    SessionTakenOver,
)

ROOT = Path(__file__).parents[3]
VERDICTS = re.compile(
    r"complian|complies|conform|certified|fulfils|satisfies|guarantees that", re.I
)
"""Words of a verdict, which evidence is not."""

PROVISIONS = {
    "hipaa": "164.308(a)(1) 164.308(a)(8) 164.308(b) 164.312(a) 164.312(b) 164.312(c) 164.312(d) "
    "164.312(e)",
    "gdpr": "5(1)(a) 5(1)(b) 5(1)(c) 5(1)(d) 5(1)(e) 5(1)(f) 5(2) 25(1) 25(2) 30(1) 32(1) 35(7)",
    "ai-act": "4a(1) 10(2)(a) 10(2)(c) 10(2)(d) 10(2)(e) 10(2)(f) 10(2)(h) 10(3) 10(4) 12(1) "
    "12(2)(a) 12(2)(b) 12(3) 15(1) 15(2) 15(3) 15(4) 15(5)",
    "sp-800-226": "2.1 2.2 2.3 2.4 2.5 2.6 3.1 3.2 3.3 3.4 3.5 3.6 3.7 4",
    "iso-27001": "5.28 5.33 5.34 8.10 8.15 8.24",
}


HIPAA_STATUS = {
    "required": "308(a)(1)(ii)(A) 308(a)(1)(ii)(B) 308(a)(1)(ii)(C) 308(a)(1)(ii)(D) "
    "308(a)(4)(ii)(A) 308(a)(6)(ii) 308(a)(7)(ii)(A)-(C) 308(b)(1),(3) 312(a)(2)(i) "
    "312(a)(2)(ii)",
    "addressable": "308(a)(3)(ii)(A)-(C) 308(a)(4)(ii)(B),(C) 308(a)(5)(ii)(A)-(D) "
    "308(a)(7)(ii)(D),(E) 312(a)(2)(iii) 312(a)(2)(iv) 312(c)(1),(2) 312(e)(2)(i) 312(e)(2)(ii)",
    "standard": "308(a)(2) 308(a)(8) 312(b) 312(d)",
}
"""As 45 CFR 164.308 and 164.312 have them; a standard has no specification of its own."""


def section(document: Document, name: str) -> Section:
    return next(item for item in document.sections if item.name == name)


def tables(part: Section) -> list[Table]:
    return [block for block in part.blocks if isinstance(block, Table)]


def rows(document: Document) -> Iterator[Row]:
    for part in document.sections:
        for table in tables(part):
            yield from table.rows


def check_resolves(facts: Facts, item: Evidence) -> None:
    if item.kind == "entry":
        assert 0 <= int(item.reference) < len(facts.record.entries)
    elif item.kind == "object":
        assert item.reference in facts.record.objects
    else:
        assert item.reference in {*facts.files, layout.INDEX}


def test_every_citation_is_in_the_bundle_and_in_the_index(facts: Facts, document: Document) -> None:
    cited = document.cited()
    assert {item.kind for item in cited} == {"entry", "object", "file"}
    for item in cited:
        check_resolves(facts, item)
    indexed = [row.evidence[0] for row in tables(section(document, "evidence"))[0].rows]
    assert indexed == list(cited)
    assert len({item.anchor for item in indexed}) == len(indexed)


def test_a_sentence_without_evidence_cannot_be_written() -> None:
    with pytest.raises(NoEvidence):
        Statement("All is well.")
    with pytest.raises(NoEvidence):
        Statement("All is well.", (Evidence("entry", "0"),), "not-shown")
    with pytest.raises(NoEvidence):
        Table("caption", ("one",), (Row(("a", "b")),), (1, 1))
    cited = Row(("a",), (Evidence("entry", "0"),))
    with pytest.raises(NoEvidence):
        Table("caption", ("one",), (cited,), (1, 0), basis="explanation")
    with pytest.raises(NoEvidence):
        Table("caption", ("one",), (Row(("a",)),), (1, 1), basis="not-shown")


def test_rows_without_evidence_are_only_in_mappings_and_say_so(document: Document) -> None:
    mapped = {framework.name for framework in FRAMEWORKS}
    for part in document.sections:
        for table in tables(part):
            for row in table.rows:
                if table.basis != "evidence":
                    assert part.name in ("risks", "words", "sources")
                elif part.name in mapped:
                    assert bool(row.evidence) == (row.cells[2] != NOTHING), row
                else:
                    assert row.evidence, row


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda item: item.name)
def test_a_mapping_is_whole(framework: Framework) -> None:
    numbers = [item.number for item in framework.provisions]
    assert len(set(numbers)) == len(numbers)
    for wanted in PROVISIONS[framework.name].split():
        assert any(number.startswith(wanted) for number in numbers), wanted
    for item in framework.provisions:
        assert bool(item.shown) == bool(item.topics), item
        assert set(item.topics) <= set(TOPICS)
        assert item.left, item


def test_hipaa_says_required_and_addressable_as_the_rule_does() -> None:
    told = {
        item.number.removeprefix("164.").replace(" ", ""): item.subject.rsplit("(", 1)[1].strip(")")
        for item in HIPAA.provisions
    }
    wanted = {number: status for status, all_ in HIPAA_STATUS.items() for number in all_.split()}
    assert told == wanted


def test_every_privacy_hazard_is_asked_once() -> None:
    """SP 800-226 numbers fourteen."""
    hazards = re.findall(r"\(H(\d+)\)", " ".join(item.number for item in SP_800_226.provisions))
    assert hazards == [str(number) for number in range(1, 15)]
    for item in SP_800_226.provisions:
        assert item.subject.endswith("?"), item
        assert item.shown or item.left.startswith(("Outside this system", "Any", "What", "Both"))


def test_every_framework_names_its_source(document: Document) -> None:
    (table,) = tables(section(document, "sources"))
    assert [row.cells[1] for row in table.rows] == [one.source for one in FRAMEWORKS]
    for row, framework in zip(table.rows, FRAMEWORKS, strict=True):
        assert framework.title.startswith(row.cells[0])
        assert re.search(r"https://\S+$", framework.source)
        assert re.search(r"\b20\d\d\b", framework.source)
        # Who had no text says so.
        if "not at hand" in framework.checked:
            assert "check against the text" in " ".join(framework.checked.split())


def test_words_are_in_order_and_each_is_used(document: Document) -> None:
    names = [word for word, _ in WORDS]
    assert names == sorted(names)
    page = audit_html(document).decode().lower()
    for name in names:
        stem = name.lower().rstrip("s")
        assert page.count(stem) > 1, name


def test_every_topic_is_found_in_a_whole_bundle(facts: Facts) -> None:
    found = {topic for topic in TOPICS if facts.cite(topic)}
    assert found == set(TOPICS) - {"incidents"}


def test_evidence_is_no_verdict(document: Document) -> None:
    for words in (document_json(document).decode(), audit_html(document).decode()):
        assert not VERDICTS.search(words), VERDICTS.search(words)
    sources = sorted((ROOT / "fedhelp_secure" / "report").iterdir())
    checked = [path for path in sources if path.suffix in (".py", ".typ", ".j2", ".md")]
    assert len(checked) > 20
    for path in checked:
        assert not VERDICTS.search(path.read_text()), path
    for framework in FRAMEWORKS:
        assert "evidence bearing on" in framework.title


def test_residual_risks_are_those_of_the_threat_model() -> None:
    """If it fails, copy the list of section 5 to fedhelp_secure/report/residual_risks.md."""
    model = (ROOT / "threat_model.md").read_text()
    listed = model.split("\n## 5. ")[1].split("\n## 6. ")[0].split("\n", 1)[1]
    own = (ROOT / "fedhelp_secure" / "report" / "residual_risks.md").read_text()
    assert own.split() == listed.split()
    assert len(residual_risks()) == len(re.findall(r"^\d+\. ", listed, re.MULTILINE)) > 3


def test_the_signer_is_the_auditor_whose_signature_it_is(
    facts: Facts, bundle: Path, document: Document
) -> None:
    charter = facts.charter
    (auditor,) = charter.auditors
    assert document.signer == f"{auditor.name} ({fingerprint(auditor.verifying_key())})"
    index = (bundle / layout.INDEX).read_bytes()
    other = SignedParty(name=charter.aggregator.name, signing_key=charter.aggregator.signing_key)
    first = charter.model_copy(update={"auditors": (other, auditor)})
    assert signer_of(index, first) == auditor
    with pytest.raises(BundleRefused, match="no auditor"):
        signer_of(index, charter.model_copy(update={"auditors": (other,)}))


def test_losses_are_the_recomputed_ones(facts: Facts, story: Story, document: Document) -> None:
    part = section(document, "privacy")
    told = {row.cells[0]: row.cells[3:5] for row in tables(part)[0].rows}
    claimed = {item["name"]: item for item in story.report["hospitals"]}
    assert told.keys() == claimed.keys()
    for name, (aggregate, collusion) in told.items():
        (budget,) = facts.budgets[name]
        assert aggregate == text_of(budget.epsilon_aggregate)
        assert float(aggregate) == pytest.approx(claimed[name]["epsilon_aggregate"], abs=2e-6)
        assert float(collusion) == pytest.approx(claimed[name]["epsilon_collusion"], abs=2e-6)
    (chart,) = [block for block in part.blocks if isinstance(block, Chart)]
    assert all(text in chart.alternative for pair in told.values() for text in pair)


def test_what_happened_is_told(facts: Facts, document: Document) -> None:
    rounds = tables(section(document, "cohorts"))[0].rows
    assert [row.cells[0] for row in rounds] == [str(number) for number in facts.rounds.summed]
    assert all(row.cells[2] == "opened" for row in rounds)
    assert facts.call is not None
    record, batches = tables(section(document, "call"))
    assert ("Digest of the requests", facts.call.request_digest) in [r.cells for r in record.rows]
    assert len(batches.rows) == len(facts.call.batches)
    stated = [row.cells[2] for row in tables(section(document, "keys"))[0].rows]
    assert sum("destroyed" in text for text in stated) > 0
    steps = tables(section(document, "verification"))[0].rows
    assert [row.cells[1] for row in steps] == [step.title for step in facts.verdict.steps]


def test_incidents_are_listed_and_cited(story: Story, tmp_path: Path) -> None:
    other = story.copy()
    digest, name = other.charter.digest, other.charter.hospitals[0].name
    place = other.index("round_closed")
    taken = SessionTakenOver(charter_digest=digest, hospital=name, times=2)
    refused = ContributionRejected(
        charter_digest=digest, round=1, hospital=name, code="contribution-wrong-length"
    )
    for entry in (LogEntry(session_taken_over=taken), LogEntry(contribution_rejected=refused)):
        entry.unix_milliseconds = other.entries[place].unix_milliseconds
        other.entries.insert(place, entry)
    document = build_report(read_facts(other.write(tmp_path / "bundle")))
    listed = tables(section(document, "incidents"))[0].rows
    assert [row.cells[1:] for row in listed] == [
        ("contribution refused", name, "round 1: contribution-wrong-length"),
        ("session taken over", name, "2 times"),
    ]
    wanted = {item for row in listed for item in row.evidence}
    assert {item.reference for item in wanted} == {str(place), str(place + 1)}
    response = next(row for row in rows(document) if row.cells[0].startswith("164.308(a)(6)"))
    assert set(response.evidence) == wanted


def test_the_json_has_every_sentence_with_its_evidence(document: Document) -> None:
    told = json.loads(document_json(document))
    blocks = [block for part in told["sections"] for block in part["blocks"]]
    statements = [block for block in blocks if block["type"] == "statement"]
    assert len(statements) > 20
    for block in statements:
        assert bool(block["evidence"]) == (block["basis"] == "evidence")
