"""Charts as SVG, the same for the HTML and the PDF: no library's version changes a byte."""

from __future__ import annotations

from html import escape

from fedhelp_secure.report.document import Chart

COLOURS = ("#1f5f8b", "#8aa9bb")
_LIMIT = "#9c2b39"
_INK = "#1b2a33"
_WIDTH, _LEFT, _RIGHT = 640, 110, 60
_BAR, _GAP = 13, 12
_LONGEST = 16
"""Characters of a label at the left; the table below has whole names."""


def chart_svg(chart: Chart, *, family: str) -> str:
    """Grouped horizontal bars, each with its figure, and a line at the limit."""
    groups = list(dict.fromkeys(bar.label for bar in chart.bars))
    largest = max(chart.limit, *(bar.value for bar in chart.bars)) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / largest
    group_height = _BAR * len(chart.series) + _GAP
    bottom = 26 + group_height * len(groups)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {bottom + 22}" '
        f'font-family="{escape(family)}" font-size="11" fill="{_INK}">'
    ]
    for place, name in enumerate(chart.series):
        left = _LEFT + 110 * place
        parts.append(f'<rect x="{left}" y="4" width="10" height="10" fill="{COLOURS[place]}"/>')
        parts.append(f'<text x="{left + 15}" y="13">{escape(name)}</text>')
    for bar in chart.bars:
        top = 26 + groups.index(bar.label) * group_height + bar.series * _BAR
        width = bar.value * scale
        parts.append(
            f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" '
            f'fill="{COLOURS[bar.series]}"/>'
        )
        parts.append(f'<text x="{_LEFT + width + 5:.1f}" y="{top + 9}">{bar.value:.6f}</text>')
    for place, label in enumerate(groups):
        middle = 26 + place * group_height + (group_height - _GAP) / 2 + 3
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(_short(label))}</text>'
        )
    at = _LEFT + chart.limit * scale
    parts.append(
        f'<line x1="{at:.1f}" y1="20" x2="{at:.1f}" y2="{bottom}" stroke="{_LIMIT}" '
        'stroke-width="1.4" stroke-dasharray="4 3"/>'
    )
    parts.append(
        f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="end" fill="{_LIMIT}">'
        f"{escape(chart.limit_label)}</text>"
    )
    return "".join([*parts, "</svg>"])


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
