"""What every loader yields: examples of patients, and the errors of this package.

No message holds a pixel, a patient identifier or a cell of a table; file names and line numbers may
be named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import ConfigurationError

Task = Literal["classification", "segmentation"]

SEGMENTATION_CLASSES = ("background", "lesion")
"""The classes of a pixel: what is not the lesion, and the lesion."""


class DataError(ConfigurationError):
    """The data given cannot be used as it is."""

    code = "data"


class ImageRefused(DataError):
    """An image or a mask cannot be read, or has a shape that no model here takes."""

    code = "image"


class FolderRefused(DataError):
    """A data folder does not have the form that it must have."""

    code = "data-folder"


class PatientAtTwoPlaces(DataError):
    """One patient appears at more than one hospital, or in the test or the proxy set as well."""

    code = "patient-at-two-places"


class PatientUnderTwoNames(DataError):
    """One picture stands under two patient identifiers: they are one person, or one is wrong."""

    code = "patient-under-two-names"


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image of one patient.

    ``image``: uint8 [H, W], grey. ``label``: index into the classes of its dataset.
    ``patient``: pseudonym; all images of a person share it. ``mask``: uint8 [H, W] of 0 and 1,
    1 inside the lesion, or None where nobody drew one.
    """

    image: NDArray[np.uint8]
    label: int
    patient: str
    mask: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples and the names of their classes, in the order that the labels count."""

    name: str
    classes: tuple[str, ...]
    examples: tuple[Example, ...]

    def patients(self) -> frozenset[str]:
        """The pseudonyms of all patients."""
        return frozenset(example.patient for example in self.examples)

    def with_lesions(self) -> Dataset:
        """Only the examples whose mask marks a lesion; raises DataError if none has one."""
        kept = tuple(
            example
            for example in self.examples
            if example.mask is not None and bool(example.mask.any())
        )
        if not kept:
            raise DataError(
                f"No image of {self.name} has a mask, which segmentation needs; "
                "choose --task classification, or data with masks."
            )
        return replace(self, examples=kept)

    def for_segmentation(self) -> Dataset:
        """The same images with the classes of a pixel; an example's label says if it has a lesion.

        Raises DataError if an example has no mask.
        """
        examples = []
        for example in self.examples:
            if example.mask is None:
                raise DataError(
                    f"An image of {self.name} has no mask, which segmentation needs; "
                    "add the masks, or choose --task classification."
                )
            examples.append(replace(example, label=int(example.mask.any())))
        return replace(self, classes=SEGMENTATION_CLASSES, examples=tuple(examples))


def check_disjoint(places: Mapping[str, frozenset[str]]) -> None:
    """Every patient is at exactly one of ``places`` (name to pseudonyms).

    Raises PatientAtTwoPlaces naming the places and how many patients they share; DataError if there
    is no place at all.
    """
    if not places:
        raise DataError("There is no hospital to check; give at least one data folder.")
    counts = Counter(patient for patients in places.values() for patient in patients)
    shared = {patient for patient, count in counts.items() if count > 1}
    if shared:
        names = sorted(name for name, patients in places.items() if patients & shared)
        raise PatientAtTwoPlaces(
            f"{len(shared)} patient(s) appear at more than one of {', '.join(names)}; "
            "give each patient to one place only, because privacy is counted per patient."
        )
