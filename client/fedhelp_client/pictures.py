"""What a hospital's network makes of public images, as one picture for its own operator.

Classification: the confusion matrix. Segmentation: images with the true contour and the network's.
Only the public test set is shown; no patient's image is read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.models import HospitalModel
from fedhelp_client.training import images_tensor, labels_tensor, mask_of, predict
from fedhelp_secure.privacy.plots import NoPlot
from fedhelp_secure.state import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 8
"""Images of a segmentation that are shown."""

_TRUE, _FOUND = "#2f9e5b", "#b23a48"


def write_pictures(model: HospitalModel, public: Dataset, path: Path, *, task: Task) -> None:
    """Draw ``model``'s answers about ``public`` into the PNG file ``path``, for its owner only.

    Raises NoPlot if the path has another ending or matplotlib is not installed, DataError without
    images.
    """
    if path.suffix != ".png":
        raise NoPlot(f"{path} must end in .png.")
    try:
        figure = _confusion(model, public) if task == "classification" else _masks(model, public)
    except ModuleNotFoundError as error:
        raise NoPlot(
            f"{error.name} is not installed; install 'fedhelp-secure[report]' for pictures."
        ) from error
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _confusion(model: HospitalModel, public: Dataset) -> Figure:
    from matplotlib.figure import Figure

    images = images_tensor([example.image for example in public.examples], model.side)
    found = predict(model, images).argmax(dim=1).numpy()
    classes = len(public.classes)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (labels_tensor(public).numpy(), found), 1)
    figure = Figure(figsize=(1.6 + classes, 1.4 + classes), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        dark = count > counts.max() / 2
        axes.text(column, row, str(count), ha="center", color="white" if dark else "black")
    axes.set_xticks(range(classes), public.classes)
    axes.set_yticks(range(classes), public.classes)
    axes.set_xlabel("the network says")
    axes.set_ylabel("the label says")
    axes.set_title(f"{len(public.examples)} public test images", fontsize=9)
    return figure


def _masks(model: HospitalModel, public: Dataset) -> Figure:
    from matplotlib.figure import Figure

    chosen = [example for example in public.examples if example.mask is not None][:EXAMPLES]
    logits = predict(model, images_tensor([example.image for example in chosen], model.side))
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    places = figure.subplots(2, EXAMPLES // 2).flat
    # There may be fewer images than places.
    for axes, example, answer in zip(places, chosen, logits, strict=False):
        axes.imshow(example.image, cmap="gray", vmin=0, vmax=255)
        found = mask_of(answer, example.image.shape)
        for mask, colour in ((example.mask, _TRUE), (found, _FOUND)):
            if mask is not None and 0 < mask.mean() < 1:
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.suptitle("public test images: green, the true mask; red, the network's", fontsize=10)
    return figure
