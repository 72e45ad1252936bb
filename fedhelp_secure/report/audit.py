"""The audit report of a verified bundle: every section, the mappings and the index of evidence."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.verify_log import fingerprint
from fedhelp_secure.report.document import (
    INDEX_SECTION,
    Document,
    Evidence,
    Row,
    Section,
    Statement,
    Table,
)
from fedhelp_secure.report.facts import Facts, utc
from fedhelp_secure.report.mapping import Framework, Provision
from fedhelp_secure.report.mapping_ai_act import AI_ACT
from fedhelp_secure.report.mapping_gdpr import GDPR
from fedhelp_secure.report.mapping_hipaa import HIPAA
from fedhelp_secure.report.mapping_iso import ISO_27001
from fedhelp_secure.report.mapping_privacy import SP_800_226
from fedhelp_secure.report.parts_federation import cohorts, federation, summary
from fedhelp_secure.report.parts_privacy import privacy
from fedhelp_secure.report.parts_record import call, incidents, keys, tests_of_the_log
from fedhelp_secure.report.residual import residual_risks
from fedhelp_secure.report.words import words

FRAMEWORKS = (HIPAA, GDPR, AI_ACT, SP_800_226, ISO_27001)
NOTHING = "The bundle holds nothing on this."


def build_report(facts: Facts) -> Document:
    """The whole report; the same for the same bundle, byte for byte."""
    sections = (
        summary(facts),
        federation(facts),
        privacy(facts),
        cohorts(facts),
        call(facts),
        keys(facts),
        incidents(facts),
        tests_of_the_log(facts),
        _residual(),
        words(),
        *(_mapped(facts, framework) for framework in FRAMEWORKS),
        _sources(),
    )
    document = Document(
        title=f"Evidence report: {facts.charter.name}",
        software=version("fedhelp-secure"),
        federation=facts.charter.federation,
        charter=facts.charter.digest,
        bundle=facts.index_digest,
        signer=f"{facts.index_signer.name} ({fingerprint(facts.index_signer.verifying_key())})",
        as_of=utc(facts.unix_seconds),
        unix_seconds=facts.unix_seconds,
        sections=sections,
    )
    return _with_index(facts, document)


def _residual() -> Section:
    intro = Statement(
        "Limits of the software as its threat model states them (section 5); numbers in brackets "
        "are sections of it. They hold for every federation; the bundle neither shows nor rules "
        "them out.",
        basis="explanation",
    )
    table = Table(
        "Limits, word for word",
        ("No.", "Limit"),
        tuple(Row((str(place), risk)) for place, risk in enumerate(residual_risks(), start=1)),
        (0.5, 9.5, 0.0),
        numbers=(0,),
        basis="not-shown",
    )
    return Section("risks", "Residual risks", (intro, table))


def _sources() -> Section:
    intro = Statement(
        "Subjects are paraphrased and short; only the published texts count, and they may have "
        "changed since. Compare before you rely on a row.",
        basis="explanation",
    )
    table = Table(
        "Which texts, and what the rows were compared with",
        ("Section", "Source", "How the rows were checked"),
        tuple(Row((one.title.partition(":")[0], one.source, one.checked)) for one in FRAMEWORKS),
        (1.5, 4.8, 5.4, 0.0),
        basis="explanation",
    )
    return Section("sources", "Sources of the mapped provisions", (intro, table))


def _mapped(facts: Facts, framework: Framework) -> Section:
    note = Statement(
        f"{framework.note} The rows say which parts of the bundle are evidence bearing on a "
        "provision, and what must be shown otherwise. They are no judgement that it is met. Which "
        "text they were compared with is said in the section on sources.",
        basis="explanation",
    )
    table = Table(
        "Provision by provision",
        (
            "Provision",
            "Subject",
            "What the bundle holds that bears on it",
            "Not shown by the bundle",
        ),
        tuple(_row(facts, mapped) for mapped in framework.provisions),
        (2.1, 2.5, 4.0, 3.3, 2.7),
    )
    return Section(framework.name, framework.title, (note, table), wide=True)


def _row(facts: Facts, mapped: Provision) -> Row:
    # That nothing happened is what the log as a whole shows.
    per_topic = [
        facts.cite(topic) or (facts.cite("log") if topic == "incidents" else ())
        for topic in mapped.topics
    ]
    if not per_topic or not all(per_topic):
        return Row((mapped.number, mapped.subject, NOTHING, mapped.left))
    # One of each topic before a second of any: what a reader sees first is then of all of them.
    longest = max(len(cited) for cited in per_topic)
    ordered = [
        cited[place] for place in range(longest) for cited in per_topic if place < len(cited)
    ]
    evidence = tuple(dict.fromkeys(ordered))
    return Row((mapped.number, mapped.subject, mapped.shown, mapped.left), evidence)


def _with_index(facts: Facts, document: Document) -> Document:
    rows = tuple(_indexed(facts, item) for item in document.cited())
    table = Table(
        "Everything that this report cites",
        ("Cited as", "What it is", "SHA-256"),
        rows,
        (2.3, 2.0, 6.2, 0.0),
        code=(2,),
    )
    how = Statement(
        "An entry is a line of log/entries.jsonl, counted from 0; its digest is that of the "
        "entry's bytes. An object is the file of that name under objects/.",
        basis="explanation",
    )
    index = Section(INDEX_SECTION, "Index of evidence", (how, table))
    return replace(document, sections=(*document.sections, index))


def _indexed(facts: Facts, item: Evidence) -> Row:
    if item.kind == "entry":
        number = int(item.reference)
        what = str(facts.record.entries[number].WhichOneof("event")).replace("_", " ")
        hashed = digest(facts.record.tree.leaves[number])
    elif item.kind == "object":
        what, hashed = "signed envelope", item.reference
    else:
        what = "file of the bundle"
        hashed = (
            facts.index_digest
            if item.reference == layout.INDEX
            else digest(facts.files[item.reference])
        )
    return Row((item.label, what, hashed.removeprefix("sha256:")), (item,))
