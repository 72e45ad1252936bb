"""The phantom's patients, and their pictures on any scanner."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.phantom.anatomy import Breast, draw_breast, draw_layers, draw_tissue
from fedhelp_client.data.phantom.lesion import Lesion, draw_lesion, insert, other_plane
from fedhelp_client.data.phantom.scanner import HEIGHT, WIDTH, Scanner, acquire
from fedhelp_client.data.types import Example

CLASSES = ("benign", "malignant", "normal")
SHARES = (0.5, 0.3, 0.2)
"""How often each class occurs among the patients, about as in BUSI."""

SUSPICION = ((1.4, 4.0), (4.0, 1.4))
"""Beta distribution of a benign and of a malignant lesion's suspicion: they overlap."""


@dataclass(frozen=True, slots=True)
class PhantomPatient:
    """One patient who never lived."""

    number: int
    label: int
    """Index into CLASSES."""
    images: int
    """How many pictures were taken, 1 to 3."""

    @property
    def identifier(self) -> str:
        """The pseudonym."""
        return f"phantom-{self.number:04d}"

    @property
    def has_lesion(self) -> bool:
        """Whether there is anything to find."""
        return self.label < len(SUSPICION)


def draw_patients(count: int, seed: int) -> tuple[PhantomPatient, ...]:
    """``count`` patients with the classes' shares, in random order."""
    random = np.random.default_rng([seed, 1])
    edges = np.rint(np.cumsum(SHARES) * count).astype(int)
    labels = random.permutation(np.searchsorted(edges, np.arange(count), side="right"))
    images = random.choice([1, 2, 3], size=count, p=[0.4, 0.5, 0.1])
    return tuple(
        PhantomPatient(number, int(label), int(planes))
        for number, (label, planes) in enumerate(zip(labels, images, strict=True))
    )


def examine(patient: PhantomPatient, scanner: Scanner, seed: int) -> tuple[Example, ...]:
    """The pictures of ``patient`` on ``scanner``; the same arguments give the same pictures."""
    random = np.random.default_rng([seed, 2, patient.number])
    breast = draw_breast(random)
    lesion = None
    if patient.has_lesion:
        lesion = _placed(draw_lesion(random.beta(*SUSPICION[patient.label]), random), breast)
    examples = []
    for plane in range(patient.images):
        if plane and lesion is not None:
            lesion = other_plane(lesion, random)
        image, mask = _picture(breast, lesion, scanner, random)
        examples.append(Example(image, patient.label, patient.identifier, mask))
    return tuple(examples)


def _placed(lesion: Lesion, breast: Breast) -> Lesion:
    """``lesion`` within the gland, where ``lesion.depth`` is a part of the room there."""
    top = breast.skin + breast.fat + 0.6 * lesion.height
    bottom = breast.skin + breast.fat + breast.gland - 0.8 * lesion.height
    return replace(lesion, depth=top + lesion.depth * max(bottom - top, 1.0))


def _picture(
    breast: Breast, lesion: Lesion | None, scanner: Scanner, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    tissue = draw_tissue(breast, draw_layers(breast, scanner, random), scanner, random)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    if lesion is not None:
        tissue, mask = insert(tissue, lesion, scanner, random)
    return acquire(tissue, scanner, random), mask
