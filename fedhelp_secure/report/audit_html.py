"""The audit report as one HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from markupsafe import Markup

from fedhelp_secure.report.chart import chart_svg
from fedhelp_secure.report.document import BASIS_LABELS, INDEX_SECTION, Chart, Document, shown
from fedhelp_secure.templates import template

_FAMILY = "system-ui, sans-serif"


def audit_html(document: Document) -> bytes:
    """The page for ``document``, in UTF-8."""
    page = template("fedhelp_secure.report", "audit.html.j2", trim=True).render(
        document=document,
        labels=BASIS_LABELS,
        index=INDEX_SECTION,
        kind=lambda block: type(block).__name__,
        shown=shown,
        svg=_svg,
    )
    return page.encode()


def _svg(chart: Chart) -> Markup:
    return Markup(chart_svg(chart, family=_FAMILY))  # noqa: S704  our own SVG, its texts escaped
