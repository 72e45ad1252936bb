"""Who is treated where: patients, never images, go to the hospitals, the proxy set or the test set.

Hospitals differ in size and in what they see. Their mixture of classes is half the common one and
half drawn from a Dirichlet distribution (Hsu, Qi, Brown 2019, arXiv:1909.06335), so that a small
``alpha`` makes them less alike. The seed serves a simulation only; it never reaches noise or keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import DataError, check_disjoint

MINIMUM_PER_CLASS = 2
"""Patients of each class that every hospital has at least."""


class SplitImpossible(DataError):
    """There are too few patients for so many hospitals."""

    code = "split-impossible"


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """One patient as the split sees them; ``label`` indexes the diagnosis classes."""

    identifier: str
    label: int


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How the patients are to be spread."""

    large: int = 2
    """Large hospitals."""
    small: int = 4
    """Small hospitals."""
    test_share: float = 0.2
    proxy_share: float = 0.2
    """Of all patients; both sets are drawn class by class and belong to no hospital."""
    large_share: float = 0.62
    """Of the hospitals' patients, what the large group treats together, if both groups exist."""
    large_patients: int | None = None
    """Of each large hospital, in place of ``large_share``; the small ones share the rest."""
    alpha: float = 1.0
    """Concentration of the Dirichlet distribution; small is uneven."""

    def hospitals(self) -> tuple[str, ...]:
        """Names: large-1, large-2, ..., small-1, ..."""
        return (
            *(f"large-{number}" for number in range(1, self.large + 1)),
            *(f"small-{number}" for number in range(1, self.small + 1)),
        )


STATED = SplitPlan(test_share=0.14, proxy_share=0.14, large_patients=125)
"""The setting in which the goals of ``fedhelp bench utility`` were stated: two large hospitals of
125 patients each, four small ones that share the rest. It says nothing of proxies and test images:
of BUSI's 504 patients these shares leave the small ones 28, as many as `SplitPlan` does."""


@dataclass(frozen=True, slots=True)
class Split:
    """Pseudonyms of the patients at each place, sorted."""

    test: tuple[str, ...]
    proxy: tuple[str, ...]
    hospitals: dict[str, tuple[str, ...]]


def split_patients(patients: Sequence[PatientRecord], plan: SplitPlan, *, seed: int) -> Split:
    """Spread ``patients`` after ``plan``; the same arguments give the same split.

    Raises SplitImpossible if a hospital would lack two patients of a class, and
    PatientAtTwoPlaces if a patient is listed twice.
    """
    if plan.large < 0 or plan.small < 0 or plan.large + plan.small < 1:
        raise SplitImpossible("A federation needs at least one hospital; raise --large or --small.")
    random = np.random.default_rng([seed, 3])
    by_class = _shuffled_by_class(patients, random)
    test, proxy = [], []
    for members in by_class.values():
        tested, asked = (
            round(share * len(members)) for share in (plan.test_share, plan.proxy_share)
        )
        test += members[:tested]
        proxy += members[tested : tested + asked]
        del members[: tested + asked]
    hospitals = _spread(by_class, plan, random)
    places = {"the test set": frozenset(test), "the proxy set": frozenset(proxy)}
    places |= {name: frozenset(members) for name, members in hospitals.items()}
    check_disjoint(places)
    if sum(len(members) for members in places.values()) != len(patients):
        # Sets drop what a list would repeat within one place.
        raise SplitImpossible("A patient is listed twice; list each patient once.")
    if not test or not proxy:
        raise SplitImpossible("There are too few patients for a test and a proxy set; add data.")
    return Split(
        test=tuple(sorted(test)),
        proxy=tuple(sorted(proxy)),
        hospitals={name: tuple(sorted(members)) for name, members in hospitals.items()},
    )


def _shuffled_by_class(
    patients: Sequence[PatientRecord], random: np.random.Generator
) -> dict[int, list[str]]:
    by_class: dict[int, list[str]] = defaultdict(list)
    ordered = sorted(patients, key=lambda patient: patient.identifier)
    for index in random.permutation(len(ordered)):
        by_class[ordered[index].label].append(ordered[index].identifier)
    return dict(sorted(by_class.items()))


def _capacities(total: int, plan: SplitPlan) -> NDArray[np.int64]:
    """Patients of each hospital, large ones first; within a group they differ by one at most."""
    if plan.small == 0 or plan.large == 0:
        groups = [(total, plan.large + plan.small)]
    else:
        in_large = (
            round(plan.large_share * total)
            if plan.large_patients is None
            else plan.large_patients * plan.large
        )
        groups = [(in_large, plan.large), (total - in_large, plan.small)]
    sizes = [
        patients // count + (index < patients % count)
        for patients, count in groups
        for index in range(count)
    ]
    return np.array(sizes, dtype=np.int64)


def _spread(
    by_class: dict[int, list[str]], plan: SplitPlan, random: np.random.Generator
) -> dict[str, list[str]]:
    """Every remaining patient to one hospital: first the minimum of each class, then by mixture."""
    names = plan.hospitals()
    totals = np.array([len(members) for members in by_class.values()], dtype=np.int64)
    room = _capacities(int(totals.sum()), plan) - MINIMUM_PER_CLASS * len(totals)
    if totals.size == 0 or int(totals.min()) < MINIMUM_PER_CLASS * len(names) or room.min() < 0:
        raise SplitImpossible(
            f"There are too few patients to give each of {len(names)} hospitals "
            f"{MINIMUM_PER_CLASS} of every class; ask for fewer or smaller hospitals, or add data."
        )
    common = totals / totals.sum()
    drawn = random.dirichlet(plan.alpha * len(totals) * common, size=len(names))
    mixture = 0.5 + 0.5 * drawn / common
    hospitals: dict[str, list[str]] = {name: [] for name in names}
    rest: list[tuple[int, str]] = []
    for column, members in enumerate(by_class.values()):
        for name in names:
            hospitals[name] += members[:MINIMUM_PER_CLASS]
            del members[:MINIMUM_PER_CLASS]
        rest += [(column, patient) for patient in members]
    for index in random.permutation(len(rest)):
        column, patient = rest[index]
        weights = mixture[:, column] * room
        chosen = int(random.choice(len(names), p=weights / weights.sum()))
        hospitals[names[chosen]].append(patient)
        room[chosen] -= 1
    return hospitals
