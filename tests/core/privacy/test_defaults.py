"""The public defaults of the probe: always usable in a charter, monotone in the budget."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import pytest

from fedhelp_secure.charter import Probe
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.defaults import NoProbeDefaults, default_probe, default_rounds

Task = Literal["classification", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "segmentation")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("epsilon", ["0.1", "1", "3", "8", "100"])
@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5, 20])
def test_defaults_fit_a_charter(task: Task, epsilon: str, rounds: int) -> None:
    chosen = default_probe(task, epsilon, rounds)
    probe = Probe(
        dimension=chosen.dimension,
        ridge=chosen.ridge,
        step=chosen.step,
        nominal_patients=chosen.nominal,
    )
    assert probe.dimension == chosen.dimension
    assert 0 < Fraction(chosen.clip) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_a_larger_budget_never_affords_fewer_dimensions(task: Task) -> None:
    for rounds in range(1, 6):
        dimensions = [default_probe(task, Fraction(e, 2), rounds).dimension for e in range(1, 20)]
        assert dimensions == sorted(dimensions)
        assert dimensions[0] < dimensions[-1]


@pytest.mark.parametrize(("epsilon", "rounds"), [("0", 3), ("-1", 3), ("3", 0), ("3", -2)])
def test_impossible_plans_are_refused(epsilon: str, rounds: int) -> None:
    with pytest.raises(NoProbeDefaults, match="positive") as caught:
        default_probe("classification", epsilon, rounds)
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("epsilon", ["three", "", "1/0", "nan"])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_number_is_refused(task: Task, epsilon: str) -> None:
    with pytest.raises(NoProbeDefaults, match="decimal"):
        default_probe(task, epsilon, 3)
    with pytest.raises(NoProbeDefaults, match="decimal"):
        default_rounds(task, epsilon)


def test_no_more_dimensions_than_public_images_vary_in() -> None:
    free = default_probe("classification", "8", 3)
    assert default_probe("classification", "8", 3, images=free.dimension) == free
    few = default_probe("classification", "8", 3, images=free.dimension - 1)
    assert few.dimension == free.dimension - 1
    # A segmentation's rows are tokens, of which every image has hundreds.
    assert default_probe("segmentation", "8", 3, images=2) == default_probe("segmentation", "8", 3)
