from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_client.data.split import (
    PatientRecord,
    Split,
    SplitImpossible,
    SplitPlan,
    split_patients,
)
from fedhelp_client.data.types import PatientAtTwoPlaces


def patients(*counts: int) -> list[PatientRecord]:
    return [
        PatientRecord(f"{label}-{number:04d}", label)
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def places(split: Split) -> list[tuple[str, ...]]:
    return [split.test, split.proxy, *split.hospitals.values()]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(40, 90), min_size=2, max_size=4),
    large=st.integers(0, 3),
    small=st.integers(0, 4),
    alpha=st.sampled_from([0.05, 1.0, 50.0]),
    seed=st.integers(0, 2**32),
)
def test_every_patient_is_at_one_place(
    counts: list[int], large: int, small: int, alpha: float, seed: int
) -> None:
    records = patients(*counts)
    plan = SplitPlan(large=large, small=small, alpha=alpha)
    if large + small == 0:
        with pytest.raises(SplitImpossible):
            split_patients(records, plan, seed=seed)
        return
    split = split_patients(records, plan, seed=seed)
    everyone = [patient for place in places(split) for patient in place]
    assert sorted(everyone) == sorted(record.identifier for record in records)
    assert tuple(split.hospitals) == plan.hospitals()
    for members in split.hospitals.values():
        classes = Counter(patient.split("-")[0] for patient in members)
        assert all(classes[str(label)] >= 2 for label in range(len(counts)))


def test_shares_and_sizes() -> None:
    split = split_patients(patients(273, 162, 77), SplitPlan(), seed=0)
    assert len(split.test) == len(split.proxy) == 55 + 32 + 15
    sizes = [len(members) for members in split.hospitals.values()]
    assert sizes == [96, 95, 30, 29, 29, 29]
    assert Counter(patient[0] for patient in split.test) == {"0": 55, "1": 32, "2": 15}


def test_the_seed_alone_decides() -> None:
    records = patients(60, 60)
    assert split_patients(records, SplitPlan(), seed=3) == split_patients(
        records[::-1], SplitPlan(), seed=3
    )
    assert split_patients(records, SplitPlan(), seed=3) != split_patients(
        records, SplitPlan(), seed=4
    )


def unevenness(alpha: float) -> float:
    """Mean distance of a hospital's share of class 0 from the common one."""
    distances = []
    for seed in range(5):
        split = split_patients(patients(300, 300), SplitPlan(alpha=alpha), seed=seed)
        for members in split.hospitals.values():
            share = sum(patient.startswith("0") for patient in members) / len(members)
            distances.append(abs(share - 0.5))
    return sum(distances) / len(distances)


def test_a_small_alpha_makes_hospitals_differ() -> None:
    assert unevenness(0.1) > 2 * unevenness(1000.0)
    assert unevenness(1.0) > 0.05


@pytest.mark.parametrize("counts", [(100, 10), (12, 12), (1, 1), ()])
def test_too_few_patients(counts: tuple[int, ...]) -> None:
    with pytest.raises(SplitImpossible, match="too few patients"):
        split_patients(patients(*counts), SplitPlan(), seed=0)


def test_a_patient_listed_twice() -> None:
    records = patients(60, 60)
    for seed in range(5):
        with pytest.raises((PatientAtTwoPlaces, SplitImpossible)):
            split_patients([*records, records[0]], SplitPlan(), seed=seed)


def test_negative_numbers_of_hospitals() -> None:
    with pytest.raises(SplitImpossible, match="at least one"):
        split_patients(patients(60, 60), SplitPlan(large=-1, small=2), seed=0)
