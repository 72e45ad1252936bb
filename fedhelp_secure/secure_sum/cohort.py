"""The rule that keeps small sums closed: who must be in a set before it may be opened."""

from __future__ import annotations

from collections.abc import Collection

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PolicyError


class CohortTooSmall(PolicyError):
    """A set of hospitals does not meet the charter's minimum, or is no set of its hospitals."""

    code = "cohort"


def check_cohort(charter: Charter, hospitals: Collection[str]) -> None:
    """Raises CohortTooSmall unless ``hospitals`` may be summed and opened.

    They must be distinct, all in the charter, at least ``cohort.minimum`` in total and at least the
    minimum of each group.
    """
    names = list(hospitals)
    groups = {hospital.name: hospital.group for hospital in charter.hospitals}
    if len(set(names)) != len(names):
        raise CohortTooSmall("a hospital is in the set twice; send each contribution once.")
    if not set(names) <= groups.keys():
        raise CohortTooSmall("the set names a hospital that the charter does not; leave it out.")
    present = [groups[name] for name in names]
    rules = (
        ("contributions", len(present), charter.cohort.minimum),
        ("large hospitals", present.count("large"), charter.cohort.minimum_large),
        ("small hospitals", present.count("small"), charter.cohort.minimum_small),
    )
    for what, count, minimum in rules:
        if count < minimum:
            raise CohortTooSmall(
                f"the set has {count} {what}, but the charter asks for {minimum}; "
                "wait for more, or run the round again."
            )
