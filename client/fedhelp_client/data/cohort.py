"""Patients that can be examined: those of a published dataset, or those of the phantom.

A simulation first decides where each patient is treated and only then takes their pictures, because
the pictures depend on the scanner there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import numpy as np

from fedhelp_client.data.phantom.patients import CLASSES as PHANTOM_CLASSES
from fedhelp_client.data.phantom.patients import PhantomPatient, draw_patients, examine
from fedhelp_client.data.phantom.scanner import draw_scanner
from fedhelp_client.data.split import PatientRecord
from fedhelp_client.data.style import apply_style, draw_style
from fedhelp_client.data.types import Dataset, Example, Task

PHANTOM_PATIENTS = 240
"""Patients of the phantom by default: about 410 pictures."""


class Cohort(Protocol):
    """Patients with a diagnosis, and their pictures on a given scanner."""

    @property
    def name(self) -> str:
        """What the data is called."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The diagnoses."""

    def patients(self) -> tuple[PatientRecord, ...]:
        """Every patient, once."""

    def at_hospital(self, patients: Iterable[str], number: int) -> tuple[Example, ...]:
        """Their pictures on the scanner of hospital ``number``, counted from 0."""

    def at_nobody(self, patients: Iterable[str]) -> tuple[Example, ...]:
        """Their pictures as the public sees them: on the scanners of many places."""


class ImageCohort:
    """A published dataset: each hospital's scanner style is applied to its images."""

    def __init__(self, dataset: Dataset, *, seed: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self._examples: dict[str, list[Example]] = defaultdict(list)
        for example in dataset.examples:
            self._examples[example.patient].append(example)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self._dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The dataset's classes."""
        return self._dataset.classes

    def patients(self) -> tuple[PatientRecord, ...]:
        """Every patient with the label that most of their images have, the lower one in a tie."""
        records = []
        for patient, examples in self._examples.items():
            counts = Counter(example.label for example in examples)
            label = min(counts, key=lambda value: (-counts[value], value))
            records.append(PatientRecord(patient, label))
        return tuple(records)

    def at_hospital(self, patients: Iterable[str], number: int) -> tuple[Example, ...]:
        """The patients' images in the style of that hospital."""
        style = draw_style(np.random.default_rng([self._seed, 4, number]))
        return tuple(
            replace(example, image=apply_style(example.image, style))
            for example in self.at_nobody(patients)
        )

    def at_nobody(self, patients: Iterable[str]) -> tuple[Example, ...]:
        """The patients' images as published."""
        return tuple(example for patient in patients for example in self._examples[patient])


class PhantomCohort:
    """The phantom's patients: each hospital has a scanner of its own."""

    name = "phantom"
    classes = PHANTOM_CLASSES

    def __init__(self, count: int, *, seed: int, task: Task) -> None:
        self._seed = seed
        # A normal breast has nothing to outline, and Dice of an empty mask says nothing.
        self._patients: dict[str, PhantomPatient] = {
            patient.identifier: patient
            for patient in draw_patients(count, seed)
            if task == "classification" or patient.has_lesion
        }

    def patients(self) -> tuple[PatientRecord, ...]:
        """Every patient with their diagnosis."""
        return tuple(
            PatientRecord(identifier, patient.label)
            for identifier, patient in self._patients.items()
        )

    def at_hospital(self, patients: Iterable[str], number: int) -> tuple[Example, ...]:
        """The patients examined on that hospital's scanner."""
        scanner = draw_scanner(np.random.default_rng([self._seed, 5, number]))
        return tuple(
            example
            for patient in patients
            for example in examine(self._patients[patient], scanner, self._seed)
        )

    def at_nobody(self, patients: Iterable[str]) -> tuple[Example, ...]:
        """The patients examined on a scanner each."""
        examples: list[Example] = []
        for identifier in patients:
            patient = self._patients[identifier]
            scanner = draw_scanner(np.random.default_rng([self._seed, 6, patient.number]))
            examples.extend(examine(patient, scanner, self._seed))
        return tuple(examples)
