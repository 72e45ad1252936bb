"""What a hospital's models say of public test images, and how they came to it: for itself only.

The loss of each epoch follows from patients without noise, and so do the models. None of this is
part of a result, a report or a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fedhelp_client.curve import EpochLoss, curves_folder, read_curves
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.export.record import ModelRecord
from fedhelp_client.judging import Judged, judge_network
from fedhelp_client.node.kept import judge_head, load_kept
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.state import StateDirectory

ALONE, DISTILLED, KEPT = "network alone", "network distilled", "kept"
"""The models, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """Everything that pictures, page and JSON are made from."""

    record: ModelRecord
    public: Dataset
    """The labelled public images."""
    judged: Mapping[str, Judged]
    """Of each model, by its name."""
    curves: tuple[EpochLoss, ...]


class ModelFigures(BaseModel):
    """How good one model is on the public images."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: Literal["accuracy", "dice"]
    value: float
    balanced: float
    images: int
    confusion: tuple[tuple[int, ...], ...] | None
    """Rows: the label, columns: what the model says; None for segmentation."""


class Figures(BaseModel):
    """The same for machines."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants"
    )

    version: Literal[1] = 1
    hospital: str
    task: Task
    classes: tuple[str, ...]
    models: dict[str, ModelFigures]
    curves: tuple[EpochLoss, ...]


def read_learnt(
    state: StateDirectory,
    record: ModelRecord,
    public: Dataset,
    store: EmbeddingStore,
    progress: ProgressCallback | None = None,
) -> Learnt:
    """Ask the models that a node left in ``state`` about ``public``; it left ``record`` too.

    ``store`` is of what the backbone says of public images. Raises DataError if a model is missing.
    """
    # Not above: a node, which asks its models itself, needs nothing of what exports do.
    from fedhelp_client.export.student import load_network

    task = record.task
    judged = {
        ALONE: judge_network(load_network(state, record, "alone"), public, task=task),
        DISTILLED: judge_network(load_network(state, record, "distilled"), public, task=task),
    }
    if record.head is not None:
        embeddings = store.embed(public.examples, progress)
        judged[KEPT] = judge_head(load_kept(state, task), public, embeddings)
    return Learnt(record, public, judged, tuple(read_curves(curves_folder(state))))


def confusion(judged: Judged, public: Dataset) -> NDArray[np.int64]:
    """How often an image of a class (row) was said to be of a class (column)."""
    counts = np.zeros((len(public.classes), len(public.classes)), dtype=np.int64)
    for example, found in zip(public.examples, judged.classes, strict=True):
        counts[example.label, found] += 1
    return counts


def figures(learnt: Learnt) -> Figures:
    """``learnt`` for machines."""
    return Figures(
        hospital=learnt.record.hospital,
        task=learnt.record.task,
        classes=learnt.record.classes,
        models={name: _figures(judged, learnt) for name, judged in learnt.judged.items()},
        curves=learnt.curves,
    )


def _figures(judged: Judged, learnt: Learnt) -> ModelFigures:
    metrics = judged.metrics
    counts = None
    if learnt.record.task == "classification":
        counts = tuple(tuple(row) for row in confusion(judged, learnt.public).tolist())
    return ModelFigures(
        metric=metrics.name,
        value=metrics.value,
        balanced=metrics.balanced,
        images=metrics.images,
        confusion=counts,
    )
