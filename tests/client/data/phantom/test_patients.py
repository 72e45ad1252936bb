from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedhelp_client.data.phantom.patients import CLASSES, draw_patients, examine
from fedhelp_client.data.phantom.scanner import HEIGHT, WIDTH, draw_scanner
from fedhelp_client.data.types import Dataset

SCANNER = draw_scanner(np.random.default_rng(3))


@pytest.mark.parametrize("count", [1, 10, 101, 420])
def test_shares_of_the_classes(count: int) -> None:
    patients = draw_patients(count, seed=0)
    labels = Counter(patient.label for patient in patients)
    assert len(patients) == count
    assert len({patient.identifier for patient in patients}) == count
    for label, share in enumerate((0.5, 0.3, 0.2)):
        assert abs(labels[label] - share * count) <= 1
    assert {patient.images for patient in patients} <= {1, 2, 3}


def test_pictures_follow_the_seed_alone() -> None:
    patient = draw_patients(5, seed=1)[2]
    first, second = examine(patient, SCANNER, 1), examine(patient, SCANNER, 1)
    other = examine(patient, SCANNER, 2)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].image, other[0].image)


def test_the_same_patient_on_another_scanner() -> None:
    patient = next(patient for patient in draw_patients(20, seed=1) if patient.label == 0)
    here = examine(patient, SCANNER, 1)
    there = examine(patient, draw_scanner(np.random.default_rng(4)), 1)
    assert len(here) == len(there) == patient.images
    assert here[0].patient == there[0].patient
    assert not np.array_equal(here[0].image, there[0].image)


def test_pictures_masks_and_labels(phantom: Dataset) -> None:
    assert {example.label for example in phantom.examples} == set(range(len(CLASSES)))
    assert len(phantom.examples) > len(phantom.patients())
    for example in phantom.examples:
        assert example.mask is not None
        assert example.image.shape == example.mask.shape == (HEIGHT, WIDTH)
        assert example.image.dtype == example.mask.dtype == np.uint8
        share = float(example.mask.mean())
        assert share == 0.0 if CLASSES[example.label] == "normal" else 0.005 < share < 0.35


def test_lesions_are_darker_than_what_surrounds_them(phantom: Dataset) -> None:
    contrasts = []
    for example in phantom.with_lesions().examples:
        inside = np.asarray(example.mask, dtype=bool)
        rows = np.asarray(inside.any(axis=1))
        outside = np.logical_not(inside) & rows[:, None] & (example.image > 0)
        contrasts.append(example.image[inside].mean() - example.image[outside].mean())
    assert np.mean(contrasts) < -15
    assert np.mean(np.array(contrasts) < 0) > 0.85
