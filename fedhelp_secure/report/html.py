"""The report as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from fedhelp_secure.report.model import HospitalResult, Report, SecureSumCost
from fedhelp_secure.templates import template

_BEFORE, _AFTER, _LIMIT = "#9db4c0", "#1f5f8b", "#b23a48"
_HEAD_BEFORE, _HEAD_AFTER = "#d8cbb0", "#a4762f"


def render(report: Report) -> str:
    """The page for ``report``, in UTF-8 HTML."""
    told = [hospital for hospital in report.hospitals if hospital.metric is not None]
    return template("fedhelp_secure.report", "report.html.j2").render(
        report=report,
        figure=_figure,
        measured=told[0].metric if told else None,
        heads=any(hospital.head is not None for hospital in told),
        metric_plot=Markup(_metric_plot(told) if told else ""),  # noqa: S704  our own SVG
        budget_plot=Markup(_budget_plot(report)),  # noqa: S704  our own SVG
        bytes_plot=Markup(_bytes_plot(report.secure_sum)),  # noqa: S704  our own SVG
    )


def _figure(value: float | None) -> str:
    return "not given" if value is None else f"{value:.3f}"


def _metric_plot(hospitals: Sequence[HospitalResult]) -> str:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    positions = range(len(hospitals))
    series = _metric_series(hospitals)
    width = 0.84 / len(series)
    for number, (label, colour, values) in enumerate(series):
        offset = (number - (len(series) - 1) / 2) * width
        places = [position + offset for position in positions]
        bars = axes.bar(places, values, width, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8 if len(series) == 2 else 6)
    axes.set_xticks(list(positions), [hospital.name for hospital in hospitals])
    axes.set_ylim(0, 1.2)
    axes.set_ylabel(f"{hospitals[0].metric} on the public test set")
    axes.legend(loc="upper right", frameon=False, ncols=len(series))
    return _svg(figure)


def _metric_series(hospitals: Sequence[HospitalResult]) -> list[tuple[str, str, list[float]]]:
    """Label, colour and values of every bar of a hospital; the heads' where there are any."""
    series = [
        ("network alone", _BEFORE, [hospital.alone or 0.0 for hospital in hospitals]),
        ("distilled", _AFTER, [hospital.distilled or 0.0 for hospital in hospitals]),
    ]
    heads = [
        (hospital.head_alone, hospital.head)
        for hospital in hospitals
        if hospital.head_alone is not None and hospital.head is not None
    ]
    if len(heads) == len(hospitals):
        series += [
            ("head alone", _HEAD_BEFORE, [alone for alone, _ in heads]),
            ("head kept", _HEAD_AFTER, [kept for _, kept in heads]),
        ]
    return series


def _budget_plot(report: Report) -> str:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    positions = range(len(report.hospitals))
    aggregate = [hospital.epsilon_aggregate for hospital in report.hospitals]
    collusion = [hospital.epsilon_collusion for hospital in report.hospitals]
    axes.bar([p - 0.2 for p in positions], aggregate, 0.4, color=_AFTER, label="aggregate")
    axes.bar([p + 0.2 for p in positions], collusion, 0.4, color=_BEFORE, label="collusion")
    limit = float(report.privacy.epsilon_limit)
    axes.axhline(limit, color=_LIMIT, linewidth=1.2, label="limit (aggregate)")
    axes.set_xticks(list(positions), [hospital.name for hospital in report.hospitals])
    axes.set_ylabel(f"epsilon at delta {report.privacy.delta}")
    axes.legend(loc="upper right", frameon=False, ncols=3)
    axes.set_ylim(0, 1.3 * max(limit, *collusion))
    return _svg(figure)


def _bytes_plot(cost: SecureSumCost) -> str:
    figure = Figure(figsize=(8, 1.6), layout="constrained")
    axes = figure.subplots()
    legs = ["answers to recipients", "to the custodians", "uploads"]
    sizes = [cost.answer_bytes, cost.custodian_bytes, cost.upload_bytes]
    bars = axes.barh(legs, [size / 1024 for size in sizes], color=_AFTER)
    axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_xlabel("KiB on the wire, all rounds")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fedhelp"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    # The XML prologue and doctype have no place inside an HTML page.
    return svg[svg.index("<svg") :]
