"""The audit report as PDF/A-2a and PDF/UA-1, set by Typst.

Typst comes as one wheel with its fonts; nothing of the system is used, so that the same bundle
gives the same bytes. The texts go in as data: none of them is read as markup.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import typst

from fedhelp_secure.errors import InternalError
from fedhelp_secure.report.chart import chart_svg
from fedhelp_secure.report.document import (
    BASIS_LABELS,
    INDEX_SECTION,
    Block,
    Chart,
    Document,
    Evidence,
    Row,
    Table,
    shown,
)

STANDARDS: list[typst.PDFStandard] = ["a-2a", "ua-1"]
_FAMILY = "Libertinus Serif"


class NotTypeset(InternalError):
    """Typst refused what this software gave it."""

    code = "report-pdf"


def audit_pdf(document: Document) -> bytes:
    """The PDF; fonts embedded, tagged, dated by the log's last entry. Raises NotTypeset."""
    source = files("fedhelp_secure.report").joinpath("audit.typ").read_bytes()
    fonts = typst.Fonts(include_system_fonts=False)
    data = json.dumps(_data(document), ensure_ascii=False)
    compiler = typst.Compiler(source, font_paths=fonts, sys_inputs={"data": data})
    try:
        pdf = compiler.compile(
            format="pdf", pdf_standards=STANDARDS, timestamp=document.unix_seconds
        )
    except typst.TypstError as error:
        raise NotTypeset(f"the PDF could not be made: {error.message}") from error
    if not isinstance(pdf, bytes):
        raise NotTypeset("the PDF could not be made: Typst gave no bytes.")
    return pdf


def _data(document: Document) -> dict[str, Any]:
    facts = {
        name: getattr(document, name)
        for name in ("title", "software", "federation", "charter", "bundle", "signer", "as_of")
    }
    sections = [
        {
            "name": section.name,
            "title": section.title,
            "wide": section.wide,
            "index": section.name == INDEX_SECTION,
            "blocks": [_block(block) for block in section.blocks],
        }
        for section in document.sections
    ]
    return facts | {"unix_seconds": document.unix_seconds, "sections": sections}


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, Chart):
        return {
            "type": "chart",
            "title": block.title,
            "alternative": block.alternative,
            "svg": chart_svg(block, family=_FAMILY),
            "evidence": _cited(block.evidence),
        }
    if isinstance(block, Table):
        fields = {"type": "table", "mark": BASIS_LABELS[block.basis]}
        return asdict(block) | fields | {"rows": [_row(row) for row in block.rows]}
    return {
        "type": "statement",
        "text": block.text,
        "mark": BASIS_LABELS[block.basis],
        "evidence": _cited(block.evidence),
    }


def _row(row: Row) -> dict[str, Any]:
    return {"cells": row.cells, "evidence": _cited(row.evidence)}


def _cited(evidence: tuple[Evidence, ...]) -> list[dict[str, str]]:
    first, more = shown(evidence)
    links = [{"label": item.label, "anchor": item.anchor} for item in first]
    return [*links, {"label": more, "anchor": ""}] if more else links
