"""Bounds against scipy's, and against experiments whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom
from support.gaussian import analytic_epsilon

from fedhelp_secure.privacy_audit.bounds import (
    BoundMisused,
    Guesses,
    OneRun,
    clopper_pearson,
    gaussian_epsilon,
    one_run,
    one_run_gaussian,
    two_worlds,
    two_worlds_gaussian,
)

DELTA = 1e-6
TAIL = 0.05


@given(st.integers(1, 3000), st.data(), st.sampled_from([0.05, 1e-3, 1e-6]))
def test_rates_are_those_of_the_beta_distribution(
    trials: int, data: st.DataObject, tail: float
) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials, tail)
    expected_low = beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    expected_high = beta.isf(tail, successes + 1, trials - successes) if successes < trials else 1.0
    assert low == pytest.approx(expected_low, rel=1e-9, abs=1e-15)
    assert high == pytest.approx(expected_high, rel=1e-9)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 3.0, 9.0])
def test_a_gaussian_epsilon_is_the_analytic_one_rounded_down(mu: float) -> None:
    exact = analytic_epsilon(mu, DELTA)
    assert exact - 1e-9 <= gaussian_epsilon(mu, DELTA) <= exact + 1e-9


@pytest.mark.parametrize("mu", [0.0, -1.0])
def test_no_separation_is_no_epsilon(mu: float) -> None:
    assert gaussian_epsilon(mu, DELTA) == 0


def test_rates_of_many_runs_come_close_to_the_truth() -> None:
    """The rates of a Gaussian mechanism with mu 1 at the middle: the Gaussian bound nears it."""
    runs = 10**5
    caught = round(runs * 0.6914624612740131)
    guesses = Guesses(caught, runs, runs - caught, runs)
    truth = analytic_epsilon(1.0, DELTA)
    assert truth - 0.2 < two_worlds_gaussian(guesses, DELTA, TAIL) < truth
    # Randomised response with this accuracy is an example that has no larger epsilon.
    response = math.log(caught / (runs - caught))
    assert response - 0.05 < two_worlds(guesses, DELTA, TAIL) < response


def test_either_world_may_give_the_patient_away() -> None:
    """Nobody is ever blamed, or nobody is ever missed: each is a large epsilon."""
    never_blamed = Guesses(500, 1000, 0, 1000)
    never_missed = Guesses(1000, 1000, 500, 1000)
    assert two_worlds(never_blamed, DELTA, TAIL) > 4
    assert two_worlds(never_missed, DELTA, TAIL) == pytest.approx(
        two_worlds(never_blamed, DELTA, TAIL)
    )


def test_guessing_nothing_shows_nothing() -> None:
    for guesses in (Guesses(0, 10, 0, 10), Guesses(10, 10, 10, 10), Guesses(3, 10, 9, 10)):
        assert two_worlds(guesses, DELTA, TAIL) == 0
        assert two_worlds_gaussian(guesses, DELTA, TAIL) == 0


def test_one_run_without_delta_is_a_binomial_test() -> None:
    run = OneRun(canaries=1000, guesses=200, correct=150)
    epsilon = one_run(run, 1e-300, TAIL)
    accuracy = 1 / (1 + math.exp(-epsilon))
    assert binom.sf(149, 200, accuracy) == pytest.approx(TAIL, rel=1e-6)


def test_delta_costs_a_little_of_the_bound() -> None:
    run = OneRun(canaries=1000, guesses=200, correct=150)
    without, small, large = (one_run(run, delta, TAIL) for delta in (1e-300, 1e-6, 1e-4))
    assert without > small > large > 0.3


@pytest.mark.parametrize("guesses", [200, 1000])
def test_one_run_bounds_hold_for_mechanisms_that_are_as_claimed(guesses: int) -> None:
    """Scores of a Gaussian mechanism with mu 0.7: bounds above the truth are as rare as stated."""
    # Not on the path of any noise: numbers that stand for an adversary's scores.
    generator = np.random.default_rng(7)
    canaries, mu, repeats = 1000, 0.7, 100
    truth = analytic_epsilon(mu, DELTA)
    above = {"any": 0, "gaussian": 0}
    gaussian = []
    for _ in range(repeats):
        inside = generator.integers(0, 2, canaries) == 1
        scores = mu * inside + generator.standard_normal(canaries)
        order = np.argsort(scores)
        half = guesses // 2
        correct = int(np.sum(~inside[order[:half]]) + np.sum(inside[order[canaries - half :]]))
        run = OneRun(canaries, guesses, correct)
        above["any"] += one_run(run, DELTA, TAIL) > truth
        gaussian.append(one_run_gaussian(run, DELTA, TAIL))
        above["gaussian"] += gaussian[-1] > truth
    # 5 expected at most; 16 or more once in 20,000 experiments.
    assert max(above.values()) < 16
    # Not vacuous: the bound comes within sight of the truth.
    assert float(np.mean(gaussian)) > truth / 4


def test_perfect_guesses_give_a_bound_that_grows_with_their_number() -> None:
    few, many = (one_run_gaussian(OneRun(1000, n, n), DELTA, TAIL) for n in (100, 1000))
    assert 3.27 < few < many


@pytest.mark.parametrize("counts", [(3, 2, 0, 1), (0, 0, 0, 1), (-1, 2, 0, 1), (0, 1, 3, 2)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(BoundMisused):
        Guesses(*counts)


def test_more_guesses_than_canaries_are_refused() -> None:
    with pytest.raises(BoundMisused):
        OneRun(10, 11, 5)
    with pytest.raises(BoundMisused):
        OneRun(10, 5, 6)
