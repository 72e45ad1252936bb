from __future__ import annotations

import pytest
from support.federation import Federation

from fedhelp_secure.secure_sum.cohort import CohortTooSmall, check_cohort

LARGE = ["large-1", "large-2"]
SMALL = ["small-1", "small-2", "small-3", "small-4"]


@pytest.mark.parametrize("missing", [None, *LARGE, *SMALL])
def test_accepts_every_set_that_meets_the_minima(
    federation: Federation, missing: str | None
) -> None:
    check_cohort(federation.charter, [name for name in LARGE + SMALL if name != missing])


@pytest.mark.parametrize(
    "hospitals",
    [
        [],
        LARGE,
        ["large-1", *SMALL[:3]],
        [*LARGE, *SMALL[:3], "small-3"],
        [*LARGE, *SMALL[:3], "small-9"],
        [*LARGE, *SMALL, "small-9"],
    ],
    ids=["empty", "two", "one-short", "twice", "unknown-instead", "unknown-besides"],
)
def test_refuses_every_other_set(federation: Federation, hospitals: list[str]) -> None:
    with pytest.raises(CohortTooSmall):
        check_cohort(federation.charter, hospitals)


@pytest.mark.parametrize(
    ("minima", "hospitals"),
    [
        ({"minimum_large": 2}, ["large-1", *SMALL]),
        ({"minimum_small": 4}, [*LARGE, *SMALL[:3]]),
    ],
)
def test_each_group_has_a_minimum_of_its_own(
    federation: Federation, minima: dict[str, int], hospitals: list[str]
) -> None:
    charter = federation.charter
    check_cohort(charter, hospitals)
    cohort = charter.cohort.model_copy(update=minima)
    stricter = charter.model_copy(update={"cohort": cohort})
    with pytest.raises(CohortTooSmall):
        check_cohort(stricter, hospitals)
