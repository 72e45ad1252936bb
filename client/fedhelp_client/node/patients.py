"""From a hospital's images to what the probe needs of each patient. None of it leaves the site."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import resize_masks, token_targets
from fedhelp_client.data.types import DataError, Dataset, Task
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.public_set import PublicSet


@dataclass(frozen=True, slots=True, eq=False)
class OwnFeatures:
    """What a hospital computes of its own images; it never leaves the site."""

    projected: NDArray[np.float64]
    """[N, T, D]: public features; T is 1 for classification, 256 patch tokens for segmentation."""
    embeddings: NDArray[np.float32]
    """[N, T, E], of which they are projections: what the hospital's own head learns from."""


def own_features(
    dataset: Dataset,
    public_set: PublicSet,
    store: EmbeddingStore,
    *,
    progress: ProgressCallback,
) -> OwnFeatures:
    """Features of every image of ``dataset``, each computed by itself.

    Images that share a matrix product may be rounded differently when one of them is missing, and
    one patient's numbers must not depend on another's, not even in their last bits: the sensitivity
    of the release is exact only so.
    """
    embedded = store.embed(dataset.examples, progress)
    projected = [public_set.projection.apply(one).astype(np.float64) for one in embedded]
    return OwnFeatures(np.stack(projected), embedded)


def patient_examples(
    dataset: Dataset, features: NDArray[np.float64], *, task: Task
) -> list[PatientExamples]:
    """One entry a patient: all rows (images, or tokens of images) with targets and weights."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(dataset.examples):
        rows[example.patient].append(index)
    return [
        _examples_of(dataset, features, indices, task=task) for _, indices in sorted(rows.items())
    ]


def _examples_of(
    dataset: Dataset, features: NDArray[np.float64], indices: list[int], *, task: Task
) -> PatientExamples:
    width = features.shape[-1]
    selected = features[indices].reshape(-1, width)
    if task == "classification":
        labels = [dataset.examples[index].label for index in indices]
        targets = np.eye(len(dataset.classes))[labels]
        weights = np.ones(len(indices))
    else:
        masks = [_mask_of(dataset, index) for index in indices]
        targets = token_targets(resize_masks(masks)).reshape(-1, len(dataset.classes))
        weights = _class_balanced(targets)
    return PatientExamples(features=selected, targets=targets, weights=weights)


def _mask_of(dataset: Dataset, index: int) -> NDArray[np.uint8]:
    mask = dataset.examples[index].mask
    if mask is None:
        raise DataError("a segmentation data set needs a mask for every image; add it to the CSV.")
    return mask


def _class_balanced(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row weights that give each class present in one patient the same total weight."""
    totals = targets.sum(axis=0)
    shares = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
    weights: NDArray[np.float64] = targets @ shares
    return weights
