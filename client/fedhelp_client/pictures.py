"""Pictures of what a hospital learnt, for its own operator: curves, confusion matrices, masks.

A PNG file has the answers about public images; an HTML page has the curves and figures as well, and
everything in it. No patient's image is read or drawn. The curves follow from patients without
noise: a page stays in the hospital.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fedhelp_client.curve import STEPS, EpochLoss
from fedhelp_client.learnt import ALONE, DISTILLED, KEPT, Learnt, confusion, figures
from fedhelp_secure.privacy.plots import NoPlot
from fedhelp_secure.state import write_atomically

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

EXAMPLES = 8
"""Images of a segmentation that are shown."""

_TRUE = "#2f9e5b"
_COLOURS = {ALONE: "#e0a030", DISTILLED: "#b23a48", KEPT: "#3a7bd5"}
_LOSS, _TERMS = "#1b2a33", ("#1f5f8b", "#b23a48", "#a4762f", "#2f9e5b")


def check_drawable(path: Path) -> None:
    """Raises NoPlot unless `write_pictures` can make ``path``."""
    if path.suffix not in (".png", ".html"):
        raise NoPlot(f"{path} must end in .png or .html.")
    for name in ("matplotlib", "jinja2"):
        if find_spec(name) is None:
            raise NoPlot(f"{name} is not installed; install 'fedhelp-secure[report]' for pictures.")


def write_pictures(learnt: Learnt, path: Path) -> None:
    """Write the picture (``.png``) or page (``.html``) of ``learnt``, for its owner only.

    Raises NoPlot as `check_drawable` does.
    """
    check_drawable(path)
    content = _page(learnt).encode("utf-8") if path.suffix == ".html" else _png(_answers(learnt))
    write_atomically(path, content)


def _answers(learnt: Learnt) -> Figure:
    return _confusions(learnt) if learnt.record.task == "classification" else _masks(learnt)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _page(learnt: Learnt) -> str:
    from fedhelp_secure.templates import template

    return template("fedhelp_client", "pictures.html.j2").render(
        record=learnt.record,
        figures=figures(learnt),
        answers=_embedded(_answers(learnt)),
        curves=_embedded(_curves(learnt)) if learnt.curves else None,
    )


def _embedded(figure: Figure) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(figure)).decode('ascii')}"


def _curves(learnt: Learnt) -> Figure:
    """Loss by epoch, one plot a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, step in zip(figure.subplots(1, len(STEPS)), STEPS, strict=True):
        _curve(axes, step, [epoch for epoch in learnt.curves if epoch.step == step])
    return figure


def _curve(axes: Axes, step: str, epochs: list[EpochLoss]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(step, fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean loss")
    axes.spines[["top", "right"]].set_visible(False)
    if not epochs:
        return
    numbers = [epoch.epoch for epoch in epochs]
    terms = list(epochs[0].terms)
    # One term is the loss itself.
    for name, colour in zip(terms if len(terms) > 1 else (), _TERMS, strict=False):
        values = [epoch.terms[name] for epoch in epochs]
        axes.plot(numbers, values, color=colour, linewidth=1, label=name)
    losses = [epoch.loss for epoch in epochs]
    axes.plot(numbers, losses, color=_LOSS, linewidth=2, marker=".", label="loss")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)


def _confusions(learnt: Learnt) -> Figure:
    """The confusion matrix of every model, side by side."""
    from matplotlib.figure import Figure

    classes = len(learnt.public.classes)
    figure = Figure(
        figsize=((1.4 + classes) * len(learnt.judged), 2.0 + classes), layout="constrained"
    )
    places = figure.subplots(1, len(learnt.judged), squeeze=False)[0]
    for axes, (name, judged) in zip(places, learnt.judged.items(), strict=True):
        _matrix(axes, confusion(judged, learnt.public))
        axes.set_xticks(range(classes), learnt.public.classes)
        axes.set_yticks(range(classes), learnt.public.classes)
        axes.set_xlabel("the model says")
        axes.set_title(f"{name}: {judged.metrics.value:.3f}", fontsize=9)
    places[0].set_ylabel(f"the label says, of {len(learnt.public.examples)} images")
    return figure


def _matrix(axes: Axes, counts: NDArray[np.int64]) -> None:
    axes.imshow(counts, cmap="Blues")
    for row, of_label in enumerate(counts.tolist()):
        for column, count in enumerate(of_label):
            dark = count > counts.max() / 2
            axes.text(column, row, str(count), ha="center", color="white" if dark else "black")


def _masks(learnt: Learnt) -> Figure:
    """Images with the true contour and those of every model."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(10, 5.8), layout="constrained")
    places = figure.subplots(2, EXAMPLES // 2).flat
    examples = learnt.public.examples
    chosen = [index for index, example in enumerate(examples) if example.mask is not None]
    # There may be fewer images than places.
    for axes, index in zip(places, chosen[:EXAMPLES], strict=False):
        axes.imshow(examples[index].image, cmap="gray", vmin=0, vmax=255)
        found = {name: judged.masks[index] for name, judged in learnt.judged.items()}
        _contours(axes, {_TRUE: examples[index].mask})
        _contours(axes, {_COLOURS[name]: mask for name, mask in found.items()})
    for axes in figure.axes:
        axes.set_axis_off()
    shown = {"true mask": _TRUE} | {name: _COLOURS[name] for name in learnt.judged}
    lines = [Line2D([], [], color=colour, label=name) for name, colour in shown.items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)
    return figure


def _contours(axes: Axes, masks: Mapping[str, NDArray[np.uint8] | None]) -> None:
    for colour, mask in masks.items():
        if mask is not None and 0 < mask.mean() < 1:
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.3)
