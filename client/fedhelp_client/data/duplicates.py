"""Pictures that stand under two patient identifiers: one person counted as two.

A patient's guarantee holds for one identifier. Whoever stands under two has twice the loss, so that
identical pictures are refused and pictures that look alike are shown to the hospital's operator,
with the difference hash of `fedhelp_client.data.grouping`. Two persons' images can look alike, and
one person's need not: this finds mistakes, it does not prove that there are none.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from fedhelp_client.data.contribution import image_digest
from fedhelp_client.data.grouping import MAXIMUM_DISTANCE, difference_hash
from fedhelp_client.data.types import Dataset, PatientUnderTwoNames

_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class AlikePair:
    """Two examples, by their index, of two patient identifiers."""

    first: int
    second: int
    exact: bool
    """Whether every pixel is the same."""
    bits: int
    """Of 256 in which the difference hashes differ."""


def find_duplicates(dataset: Dataset) -> tuple[AlikePair, ...]:
    """Every pair across patients that is the same, or looks it, in the order of the table."""
    patients = np.array([example.patient for example in dataset.examples])
    digests = [image_digest(example.image) for example in dataset.examples]
    hashes = [difference_hash(example.image) for example in dataset.examples]
    signs = np.stack(hashes).astype(np.float32) * 2 - 1
    pairs = []
    for start in range(0, len(signs), _ROWS_AT_ONCE):
        block = signs[start : start + _ROWS_AT_ONCE]
        distances = (signs.shape[1] - block @ signs.T) / 2
        alike = distances <= MAXIMUM_DISTANCE
        alike &= patients[start : start + len(block), None] != patients[None, :]
        for row, second in np.argwhere(alike).tolist():
            first = start + row
            if first < second:
                exact = digests[first] == digests[second]
                pairs.append(AlikePair(first, second, exact, int(distances[row, second])))
    return tuple(pairs)


def check_no_duplicates(dataset: Dataset, where: str) -> None:
    """Raises PatientUnderTwoNames if one picture stands under two patient identifiers.

    ``where`` is what the error calls the folder; it names no patient, image or number.
    """
    owners: dict[bytes, set[str]] = defaultdict(set)
    for example in dataset.examples:
        owners[image_digest(example.image)].add(example.patient)
    if any(len(patients) > 1 for patients in owners.values()):
        raise PatientUnderTwoNames(
            f"{where} holds one picture under two patient identifiers, but privacy is counted per "
            f"patient; run 'fedhelp client data check {where}' to see which, and correct the table."
        )
