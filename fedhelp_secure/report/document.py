"""The audit report as data: sections of statements, tables and charts, each with its evidence.

The three renderings (JSON, HTML, PDF) are made of this and add no sentence of their own but fixed
labels. A statement without evidence says what kind of sentence it is instead.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

from fedhelp_secure.errors import InternalError

Basis = Literal["evidence", "explanation", "not-shown"]
"""What a sentence rests on: the cited parts of the bundle; nothing, as it explains a term; or
nothing, as it says what the bundle does not show."""

BASIS_LABELS: dict[Basis, str] = {
    "evidence": "",
    "explanation": "Explanation",
    "not-shown": "Not shown by the bundle",
}


INDEX_SECTION = "evidence"
"""Name of the section that every citation links to."""


MOST_CITED = 6
"""Citations that a reader sees in one place; more are counted, and the JSON has them all."""


_HASH = re.compile("[0-9a-f]{64}")


class NoEvidence(InternalError):
    """A sentence was written without saying what it rests on."""

    code = "report-no-evidence"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A part of the bundle: an entry's index, an object's digest or a file's path."""

    kind: Literal["entry", "object", "file"]
    reference: str

    @property
    def label(self) -> str:
        """Short enough for a margin; the report's index has the whole of it."""
        if self.kind == "object":
            return f"object {self.reference.removeprefix('sha256:')[:8]}"
        return f"{self.kind} {_HASH.sub(lambda found: found[0][:8], self.reference)}"

    @property
    def anchor(self) -> str:
        """Of its row in the index."""
        return f"{self.kind}-{re.sub('[^a-z0-9]+', '-', self.reference)}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence or a few; raises NoEvidence if it cites nothing and does not say why."""

    text: str
    evidence: tuple[Evidence, ...] = ()
    basis: Basis = "evidence"

    def __post_init__(self) -> None:
        if (self.basis == "evidence") != bool(self.evidence):
            raise NoEvidence(f"a statement must cite or say why not: {self.text}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row; without evidence it is marked as not shown by the bundle, unless the table is."""

    cells: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column headings; the evidence is a last column of its own."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    widths: tuple[float, ...]
    """Relative, of the columns and of the evidence."""
    code: tuple[int, ...] = ()
    """Columns of digests and other text for machines."""
    numbers: tuple[int, ...] = ()
    """Columns to align at the right."""
    basis: Basis = "evidence"
    """Of the whole table; any but evidence has no citations and no column for them."""

    def __post_init__(self) -> None:
        if self.basis != "evidence" and (self.widths[-1] or any(row.evidence for row in self.rows)):
            raise NoEvidence(f"the table {self.caption!r} cites, but says that it does not.")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise NoEvidence(f"a row of the table {self.caption!r} has other columns.")
        if len(self.widths) != len(self.columns) + 1:
            raise NoEvidence(f"the table {self.caption!r} has other widths than columns.")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart."""

    label: str
    series: int
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Horizontal bars against a limit, with the same in words."""

    title: str
    alternative: str
    """What a reader who does not see the picture must know."""
    series: tuple[str, ...]
    bars: tuple[Bar, ...]
    limit: float
    limit_label: str
    evidence: tuple[Evidence, ...]


Block = Statement | Table | Chart


@dataclass(frozen=True, slots=True)
class Section:
    """A numbered part."""

    name: str
    """For links."""
    title: str
    blocks: tuple[Block, ...]
    wide: bool = False
    """Whether its tables need a page on its side."""


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report."""

    title: str
    software: str
    """Version that made the report: another may word it otherwise."""
    federation: str
    charter: str
    bundle: str
    """Digest of the bundle's signed index, and so of every file of the bundle."""
    signer: str
    """Name, and fingerprint of the key, of the auditor who signed that index."""
    as_of: str
    """When the log's last entry was made, by the log's clock: UTC."""
    unix_seconds: int
    sections: tuple[Section, ...]

    def cited(self) -> tuple[Evidence, ...]:
        """Everything that is cited, each once: entries by index, then objects, then files."""
        found: set[Evidence] = set()
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Table):
                    found.update(item for row in block.rows for item in row.evidence)
                else:
                    found.update(block.evidence)
        return tuple(sorted(found, key=_place))


def _place(item: Evidence) -> tuple[str, int, str]:
    number = int(item.reference) if item.kind == "entry" else 0
    return item.kind, number, item.reference


def shown(evidence: tuple[Evidence, ...]) -> tuple[tuple[Evidence, ...], str]:
    """What a reader sees of citations, and how many more there are, in words or not at all."""
    more = len(evidence) - MOST_CITED
    return evidence[:MOST_CITED], f"and {more} more in report.json" if more > 0 else ""


def document_json(document: Document) -> bytes:
    """The report for machines: the same sentences, rows and bars, the same evidence."""
    sections = [
        {
            "name": section.name,
            "title": section.title,
            "blocks": [_block(block) for block in section.blocks],
        }
        for section in document.sections
    ]
    facts = {
        "version": 1,
        "title": document.title,
        "software": document.software,
        "federation": document.federation,
        "charter": document.charter,
        "bundle": document.bundle,
        "signer": document.signer,
        "as_of": document.as_of,
        "sections": sections,
    }
    return json.dumps(facts, indent=2, ensure_ascii=False).encode() + b"\n"


def _block(block: Block) -> dict[str, object]:
    fields = asdict(block)
    for name in ("widths", "code", "numbers"):
        fields.pop(name, None)
    return {"type": type(block).__name__.lower(), **fields}
