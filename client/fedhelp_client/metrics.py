"""How good a model is on labelled images: accuracy, balanced accuracy, AUC, Dice, Hausdorff."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from numpy.typing import NDArray
from scipy.stats import rankdata

from fedhelp_client.data.types import DataError


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a model reached on a labelled set. Stays with the operator who measured it."""

    name: Literal["accuracy", "dice"]
    value: float
    """From 0 to 1; the higher the better."""
    balanced: float
    """Accuracy averaged over the classes that occur; for Dice the same as ``value``."""
    images: int
    """On how many images it was measured."""


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> Metrics:
    """Share of right answers; both [N]. Raises DataError if there is nothing to measure on."""
    if labels.size == 0:
        raise DataError("There is no image to measure on; give a folder with labelled images.")
    right = predicted == labels
    of_class = [float(right[labels == label].mean()) for label in np.unique(labels)]
    return Metrics("accuracy", float(right.mean()), float(np.mean(of_class)), len(labels))


def one_vs_rest_auc(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve of each class against the rest, averaged over classes that occur.

    ``scores`` [N, C]: the higher, the likelier the class; ``labels`` [N]. Raises DataError unless
    at least two classes occur.
    """
    occurring = np.unique(labels)
    if occurring.size < 2:
        raise DataError("An AUC needs images of two classes; give a folder with more of them.")
    areas = []
    for label in occurring:
        of_class = labels == label
        hits = int(of_class.sum())
        above = rankdata(scores[:, label])[of_class].sum() - hits * (hits + 1) / 2
        areas.append(above / (hits * (len(labels) - hits)))
    return float(np.mean(areas))


def dice(pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Metrics:
    """Mean Dice of the lesion over images, from (predicted, true) masks of 0 and 1, each [H, W].

    An image whose true mask is empty is left out, because Dice of an empty mask says nothing (as
    MONAI's ``ignore_empty`` does). Raises DataError if no image is left.
    """
    values = [_dice(predicted, true) for predicted, true in pairs if true.any()]
    if not values:
        raise DataError("No image to measure on has a lesion; give a folder with masks.")
    mean = float(np.mean(values))
    return Metrics("dice", mean, mean, len(values))


def hausdorff(
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], *, percentile: float = 95
) -> float:
    """Mean Hausdorff distance in pixels of the lesions' contours, from pairs as for `dice`.

    The ``percentile`` of the distances, so that one stray pixel does not decide (Huttenlocher et
    al. 1993). A lesion that was not found at all counts as far as the image's diagonal. Raises
    DataError if no image has a lesion.
    """
    values = []
    for predicted, true in pairs:
        if not true.any():
            continue
        if not predicted.any():
            values.append(float(np.hypot(*true.shape)))
            continue
        first, second = (
            torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (predicted, true)
        )
        with warnings.catch_warnings():
            # MONAI 1.6 passes an argument to itself that it has deprecated.
            warnings.filterwarnings("ignore", "monai.metrics.utils get_mask_edges", FutureWarning)
            distance = compute_hausdorff_distance(
                first, second, include_background=True, percentile=percentile
            )
        values.append(float(distance[0, 0]))
    if not values:
        raise DataError("No image to measure on has a lesion; give a folder with masks.")
    return float(np.mean(values))


def _dice(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> float:
    first, second = (
        torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (predicted, true)
    )
    return float(compute_dice(first, second, include_background=True)[0, 0])
