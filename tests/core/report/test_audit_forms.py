"""The HTML and the PDF: accessible, self-contained, of text alone, the same every time."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from pypdf.generic import PdfObject

from fedhelp_secure.report.audit import build_report
from fedhelp_secure.report.audit_html import audit_html
from fedhelp_secure.report.audit_pdf import audit_pdf
from fedhelp_secure.report.document import Document, Evidence, Section, Statement, Table
from fedhelp_secure.report.facts import Facts, read_facts

HOSTILE = '<script>alert(1)</script> #panic("x") *b* $ x $ @y \\ " ] \u202e // /*'
PAIRS = (
    ("#1b2a33", "#ffffff"),
    ("#1b2a33", "#e8eff4"),
    ("#174d72", "#ffffff"),
    ("#5a4300", "#f7efd9"),
    ("#1f5f8b", "#ffffff"),
    ("#4a5f6b", "#ffffff"),
    ("#9c2b39", "#ffffff"),
)
"""Text and what it is on."""


class Page(HTMLParser):
    """What a reader's machine makes of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(document: Document) -> Page:
    return Page(audit_html(document))


@pytest.fixture(scope="module")
def pdf(document: Document) -> bytes:
    return audit_pdf(document)


def test_headings_are_in_order(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_tables_and_pictures_say_what_they_are(page: Page) -> None:
    assert page.attributes("html")[0]["lang"] == "en-GB"
    assert page.attributes("title")
    assert len(page.attributes("table")) == len(page.attributes("caption")) > 10
    assert all(item.get("scope") in ("col", "row") for item in page.attributes("th"))
    pictures = [item for item in page.attributes("div") if item.get("role") == "img"]
    assert len(pictures) == len(page.attributes("svg")) == 1
    assert all("epsilon" in str(item["aria-label"]) for item in pictures)


def test_a_keyboard_skips_to_the_findings(page: Page) -> None:
    first = page.attributes("a")[0]
    assert first == {"class": "skip", "href": "#main"}
    (main,) = page.attributes("main")
    # A target that takes the focus, or the next key would go on from the top.
    assert main == {"id": "main", "tabindex": "-1"}


def test_every_link_leads_to_its_row_and_nothing_elsewhere(page: Page) -> None:
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    targets = {item["href"] for item in page.attributes("a")}
    assert len(targets) > 20
    assert targets <= {f"#{name}" for name in names}
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if "src" in attributes]


@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_contrast(text: str, ground: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, success criterion 1.4.3)."""
    lighter, darker = sorted((luminance(text), luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_pdf_is_for_archives_and_for_everybody(document: Document, pdf: bytes) -> None:
    reader = PdfReader(io.BytesIO(pdf))
    root: Any = reader.trailer["/Root"]
    metadata = root["/Metadata"].get_data().decode()
    assert "<pdfaid:part>2</pdfaid:part>" in metadata
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in metadata
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert root["/Lang"] == "en-GB"
    assert root["/MarkInfo"]["/Marked"].value is True
    assert reader.metadata is not None
    assert reader.metadata.title == document.title
    created = reader.metadata.creation_date
    assert created is not None
    assert int(created.timestamp()) == document.unix_seconds
    # Colours by a profile inside the file; nothing that runs, nothing that is elsewhere.
    (intent,) = [one.get_object() for one in root["/OutputIntents"]]
    assert intent["/S"] == "/GTS_PDFA1"
    assert intent["/DestOutputProfile"].get_object().get_data()[36:40] == b"acsp"
    assert not reader.is_encrypted
    assert "/ID" in reader.trailer
    assert not {"/OpenAction", "/AA", "/AcroForm"} & root.keys()
    assert not {"/JavaScript", "/EmbeddedFiles"} & root["/Names"].keys()
    kinds = set(structure(root["/StructTreeRoot"]))
    assert {"/Document", "/H1", "/P", "/Table", "/TH", "/TD", "/Figure", "/Link"} <= kinds


def test_every_page_says_of_what_it_is(document: Document, pdf: bytes) -> None:
    pages = PdfReader(io.BytesIO(pdf)).pages
    for number, page in enumerate(pages, start=1):
        text = squeezed(page.extract_text())
        for part in (
            f"Charter {document.charter[7:23]}",
            f"Bundle {document.bundle[7:23]}",
            f"Log of {document.as_of}",
            f"Bundle signed by {document.signer}",
            f"Page {number} of {len(pages)}",
        ):
            assert squeezed(part) in text, number


def structure(node: object) -> list[str]:
    """The kinds of all elements of the structure tree."""
    found = node.get_object() if isinstance(node, PdfObject) else node
    if isinstance(found, list):
        return [kind for child in found for kind in structure(child)]
    if not isinstance(found, dict):
        return []
    own = [str(found["/S"])] if "/S" in found else []
    return own + (structure(found["/K"]) if "/K" in found else [])


def test_every_font_is_embedded(pdf: bytes) -> None:
    fonts: dict[str, bool] = {}
    for page in PdfReader(io.BytesIO(pdf)).pages:
        resources: Any = page["/Resources"]
        for font in resources.get("/Font", {}).values():
            (inner,) = font.get_object()["/DescendantFonts"]
            descriptor = inner.get_object()["/FontDescriptor"].get_object()
            embedded = any(name in descriptor for name in ("/FontFile2", "/FontFile3"))
            fonts[str(descriptor["/FontName"])] = embedded
    assert len(fonts) >= 3
    assert all(fonts.values()), fonts


def test_the_pdf_says_what_the_document_says(document: Document, pdf: bytes) -> None:
    pages = PdfReader(io.BytesIO(pdf)).pages
    text = squeezed("".join(page.extract_text() for page in pages))
    assert squeezed(document.charter) in text
    for part in document.sections:
        assert squeezed(part.title) in text
        for block in part.blocks:
            if isinstance(block, Table):
                assert all(squeezed(row.cells[0]) in text for row in block.rows), block.caption


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u200b\xad]+", "", text)


def test_hostile_text_stays_text(document: Document) -> None:
    part = Section("hostile", HOSTILE, (Statement(HOSTILE, basis="not-shown"),))
    other = replace(document, title=HOSTILE, sections=(part, *document.sections))
    assert "script" not in {tag for tag, _ in Page(audit_html(other)).tags}
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(audit_pdf(other))).pages)
    assert '#panic("x")' in text


def test_many_citations_are_counted(document: Document) -> None:
    many = tuple(item for item in document.cited() for _ in range(2))
    part = Section("many", "Many", (Statement("Many.", many),))
    page = audit_html(replace(document, sections=(part, *document.sections)))
    assert f"and {len(many) - 6} more in report.json".encode() in page


def test_the_same_bundle_gives_the_same_bytes(
    bundle: Path, facts: Facts, document: Document, pdf: bytes
) -> None:
    again = build_report(read_facts(bundle))
    assert again == document
    assert audit_html(again) == audit_html(document)
    assert audit_pdf(again) == pdf
    # A file system may list the same files in another order.
    other = replace(facts, files=dict(reversed(list(facts.files.items()))))
    assert build_report(other) == document


def test_labels_are_short(document: Document) -> None:
    assert Evidence("object", "sha256:" + "a" * 64).label == "object aaaaaaaa"
    assert all(len(item.label) < 60 for item in document.cited())
