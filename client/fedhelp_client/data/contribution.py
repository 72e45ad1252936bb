"""The cap on a patient's images: what is beyond it is left out, whoever else is in the data.

Which images stay depends on that patient's images alone, by the order of their digests: neither the
table's order nor another patient can change it, so that one patient more or less still changes a
release by that patient's contribution.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import DataError, Dataset


def image_digest(image: NDArray[np.uint8]) -> bytes:
    """SHA-256 of shape and pixels of ``image`` (uint8 [H, W])."""
    shape = ",".join(map(str, image.shape)).encode()
    return hashlib.sha256(shape + b"\n" + np.ascontiguousarray(image).tobytes()).digest()


def capped(dataset: Dataset, maximum: int) -> Dataset:
    """``dataset`` with at most ``maximum`` images of each patient, in its own order.

    Raises DataError unless ``maximum`` is positive.
    """
    if maximum < 1:
        raise DataError("at least one image of a patient must count; raise the maximum.")
    kept = _kept(dataset, maximum)
    examples = tuple(example for index, example in enumerate(dataset.examples) if index in kept)
    return replace(dataset, examples=examples)


def beyond_cap(dataset: Dataset, maximum: int) -> int:
    """How many images `capped` would leave out: for the hospital's own operator."""
    return len(dataset.examples) - len(capped(dataset, maximum).examples)


def _kept(dataset: Dataset, maximum: int) -> set[int]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(dataset.examples):
        rows[example.patient].append(index)
    kept: set[int] = set()
    for indices in rows.values():
        if len(indices) > maximum:
            indices.sort(key=lambda index: image_digest(dataset.examples[index].image))
        kept.update(indices[:maximum])
    return kept
