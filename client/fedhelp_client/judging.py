"""What a model says of labelled images, and how good that is.

Segmentation is measured at each image's own size, whatever the size at which a model outlines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.metrics import Metrics, accuracy, dice
from fedhelp_client.models import HospitalModel
from fedhelp_client.training import images_tensor, labels_tensor, mask_of, predict


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One model's answers about every image of a data set."""

    metrics: Metrics
    classes: NDArray[np.int64]
    """[N], which class each image is said to be; empty for segmentation."""
    masks: tuple[NDArray[np.uint8], ...] = ()
    """The lesion found in each image, 0 and 1 in its own size; empty for classification."""


def judge_network(model: HospitalModel, dataset: Dataset, *, task: Task) -> Judged:
    """A network's answers; it is left in evaluation mode.

    Raises DataError if there is nothing to measure on.
    """
    images = images_tensor([example.image for example in dataset.examples], model.side)
    logits = predict(model, images)
    if task == "classification":
        return judge_classes(logits.numpy(), dataset)
    return _judge_maps(logits, dataset)


def judge_classes(scores: NDArray[np.floating], dataset: Dataset) -> Judged:
    """Answers from ``scores`` [N, C], the higher the likelier; raises DataError without images."""
    found: NDArray[np.int64] = scores.argmax(axis=1)
    return Judged(accuracy(found, labels_tensor(dataset).numpy()), found)


def judge_masks(soft: NDArray[np.float32], dataset: Dataset) -> Judged:
    """Answers from soft masks [N, S, S, 2]; raises DataError if no image has a lesion."""
    return _judge_maps(torch.from_numpy(soft).permute(0, 3, 1, 2), dataset)


def _judge_maps(maps: Iterable[torch.Tensor], dataset: Dataset) -> Judged:
    masks = tuple(
        mask_of(of_image, example.image.shape)
        for of_image, example in zip(maps, dataset.examples, strict=True)
    )
    metrics = dice(
        (mask, example.mask)
        for mask, example in zip(masks, dataset.examples, strict=True)
        if example.mask is not None
    )
    return Judged(metrics, np.zeros(0, dtype=np.int64), masks)
