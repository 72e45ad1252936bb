from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhelp_client.data.cohort import Cohort, ImageCohort, PhantomCohort
from fedhelp_client.data.types import Dataset


@pytest.fixture(params=["images", "phantom"])
def cohort(request: pytest.FixtureRequest, phantom: Dataset) -> Cohort:
    if request.param == "images":
        return ImageCohort(phantom, seed=1)
    return PhantomCohort(24, seed=1, task="classification")


def test_every_patient_once(cohort: Cohort) -> None:
    patients = cohort.patients()
    assert len({patient.identifier for patient in patients}) == len(patients) == 24
    assert {patient.label for patient in patients} <= set(range(len(cohort.classes)))


def test_each_hospital_has_its_own_look(cohort: Cohort) -> None:
    chosen = [patient.identifier for patient in cohort.patients()[:3]]
    first, second = cohort.at_hospital(chosen, 0), cohort.at_hospital(chosen, 1)
    again = cohort.at_hospital(chosen, 0)
    assert {example.patient for example in first} == set(chosen)
    for ours, theirs, same in zip(first, second, again, strict=True):
        assert np.array_equal(ours.image, same.image)
        assert not np.array_equal(ours.image, theirs.image)


def test_nobodys_images_keep_patients_and_labels(cohort: Cohort) -> None:
    labels = {patient.identifier: patient.label for patient in cohort.patients()}
    examples = cohort.at_nobody(labels)
    assert {example.patient for example in examples} == set(labels)
    assert all(example.label == labels[example.patient] for example in examples)


def test_published_images_stay_as_they_are(phantom: Dataset) -> None:
    examples = ImageCohort(phantom, seed=1).at_nobody(sorted(phantom.patients()))
    published = {id(example.image) for example in phantom.examples}
    assert {id(example.image) for example in examples} == published


def test_a_patient_with_several_labels_counts_by_most_images(phantom: Dataset) -> None:
    one = phantom.examples[0]
    labels = [(0, 1, 1), (2, 1), (1,)]
    examples = tuple(
        replace(one, patient=f"p{number}", label=label)
        for number, of_patient in enumerate(labels)
        for label in of_patient
    )
    cohort = ImageCohort(replace(phantom, examples=examples), seed=0)
    assert [patient.label for patient in cohort.patients()] == [1, 1, 1]


def test_the_phantom_has_no_normal_breasts_to_segment() -> None:
    labels = {
        patient.label for patient in PhantomCohort(40, seed=0, task="segmentation").patients()
    }
    assert labels == {0, 1}
