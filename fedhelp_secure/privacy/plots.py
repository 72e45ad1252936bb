"""A ledger's status for people: bars for the terminal, a picture, a page.

matplotlib and jinja2 come with the ``report`` extra and are loaded only for a picture or a page.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.table import Table

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.status import PeriodStatus, PrivacyStatus
from fedhelp_secure.state import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELLS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPENT, _COLLUSION, _LIMIT = "#1f5f8b", "#9db4c0", "#b23a48"


class NoPlot(ConfigurationError):
    """A plot was asked for that cannot be made."""

    code = "plot"


def bar(spent: str, limit: str | None) -> str:
    """``spent`` of ``limit`` as a bar of 20 cells; empty where there is no limit."""
    if limit is None:
        return ""
    share = min(1.0, float(spent) / float(limit)) if float(limit) else 1.0
    eighths = round(share * _CELLS * 8)
    full, rest = divmod(eighths, 8)
    text = "█" * full + (_EIGHTHS[rest] if rest else "")
    return text.ljust(_CELLS, "·")


def table(status: PrivacyStatus) -> Table:
    """Every period, both epsilons against their limits; 80 columns wide at most."""
    title = f"{status.hospital}: what its patients have spent"
    grid = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    grid.add_column("period", no_wrap=True, max_width=22)
    grid.add_column("epsilon", no_wrap=True)
    grid.add_column("spent", justify="right", no_wrap=True)
    grid.add_column("limit", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True, min_width=_CELLS)
    for period in status.periods:
        pairs = (
            ("aggregate", period.epsilon_aggregate, period.limit_aggregate),
            ("collusion", period.epsilon_collusion, period.limit_collusion),
        )
        for number, (kind, spent, limit) in enumerate(pairs):
            label = "" if number else short(period.period)
            grid.add_row(label, kind, spent, limit or "none", bar(spent, limit))
    return grid


def fewer_honest_lines(status: PrivacyStatus) -> list[str]:
    """For each period, epsilon (aggregate) if fewer shares are honest than were counted on."""
    lines = []
    for period in status.periods:
        stated = [
            f"{number} fewer {epsilon}" for number, epsilon in period.epsilon_fewer_honest.items()
        ]
        if stated:
            lines.append(f"{short(period.period)}: {', '.join(stated)}")
    return lines


def short(period: str) -> str:
    """``period``, a charter by the first digits of its digest."""
    return period[:28].replace("sha256:", "") if period.startswith("charter:") else period


def _rows(period: PeriodStatus) -> list[tuple[bool, str, str, str | None]]:
    """(whether it is the first of its period, what is assumed, epsilon, limit), for the page."""
    rows: list[tuple[bool, str, str, str | None]] = [
        (
            True,
            "aggregate: at least one party is honest",
            period.epsilon_aggregate,
            period.limit_aggregate,
        )
    ]
    for missing, epsilon in period.epsilon_fewer_honest.items():
        rows.append((False, f"aggregate, honest shares fewer: {missing}", epsilon, None))
    collusion = (period.epsilon_collusion, period.limit_collusion)
    rows.append((False, "collusion: all parties work together", *collusion))
    return rows


def write_plot(status: PrivacyStatus, path: Path) -> None:
    """A picture (``.png``) or a page (``.html``) of ``status``; raises NoPlot for anything else."""
    if not status.periods:
        raise NoPlot("there is nothing to plot: no round was debited.")
    if path.suffix not in (".png", ".html"):
        raise NoPlot(f"{path} must end in .png or .html.")
    try:
        data = _png(status) if path.suffix == ".png" else _page(status).encode()
    except ModuleNotFoundError as error:
        raise NoPlot(
            f"{error.name} is not installed; install 'fedhelp-secure[report]' for plots."
        ) from error
    write_atomically(path, data)


def _figure(status: PrivacyStatus) -> Figure:
    from matplotlib.figure import Figure

    periods = status.periods[::-1]
    figure = Figure(figsize=(8, 1.2 + 0.8 * len(periods)), layout="constrained")
    axes = figure.subplots()
    largest = 0.0
    for row, period in enumerate(periods):
        pairs = (
            (row + 0.2, period.epsilon_aggregate, period.limit_aggregate, _SPENT),
            (row - 0.2, period.epsilon_collusion, period.limit_collusion, _COLLUSION),
        )
        for place, spent, limit, colour in pairs:
            axes.barh(place, float(spent), 0.36, color=colour)
            largest = max(largest, float(spent), float(limit or 0))
            if limit is not None:
                axes.plot([float(limit)] * 2, [place - 0.2, place + 0.2], color=_LIMIT, linewidth=2)
    axes.set_yticks(range(len(periods)), [short(period.period) for period in periods])
    axes.set_xlim(0, 1.05 * largest)
    axes.set_xlabel("epsilon (dark: aggregate, light: collusion, red: limit)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _png(status: PrivacyStatus) -> bytes:
    buffer = io.BytesIO()
    _figure(status).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _page(status: PrivacyStatus) -> str:
    import matplotlib
    from markupsafe import Markup

    from fedhelp_secure.templates import template

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedhelp"}):
        _figure(status).savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return template("fedhelp_secure.privacy", "status.html.j2").render(
        status=status,
        rows=_rows,
        plot=Markup(svg[svg.index("<svg") :]),  # noqa: S704  our own SVG
    )
