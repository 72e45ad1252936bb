"""The report as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import io
from importlib.resources import files

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from fedhelp_secure.report.model import HospitalResult, Report, SecureSumCost

_BEFORE, _AFTER, _LIMIT = "#9db4c0", "#1f5f8b", "#b23a48"


def render(report: Report) -> str:
    """The page for ``report``, in UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.BaseLoader(), autoescape=True, undefined=jinja2.StrictUndefined
    )
    source = files("fedhelp_secure.report").joinpath("report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(
        report=report,
        metric_plot=Markup(_metric_plot(report.hospitals)),  # noqa: S704  our own SVG
        budget_plot=Markup(_budget_plot(report)),  # noqa: S704  our own SVG
        bytes_plot=Markup(_bytes_plot(report.secure_sum)),  # noqa: S704  our own SVG
    )


def _metric_plot(hospitals: tuple[HospitalResult, ...]) -> str:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    positions = range(len(hospitals))
    alone = [hospital.alone for hospital in hospitals]
    distilled = [hospital.distilled for hospital in hospitals]
    left = axes.bar([p - 0.2 for p in positions], alone, 0.4, color=_BEFORE, label="alone")
    right = axes.bar([p + 0.2 for p in positions], distilled, 0.4, color=_AFTER, label="distilled")
    axes.bar_label(left, fmt="%.2f", fontsize=8)
    axes.bar_label(right, fmt="%.2f", fontsize=8)
    axes.set_xticks(list(positions), [hospital.name for hospital in hospitals])
    axes.set_ylim(0, 1.2)
    axes.set_ylabel(f"{hospitals[0].metric} on the public test set")
    axes.legend(loc="upper right", frameon=False, ncols=2)
    return _svg(figure)


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
