from __future__ import annotations

import warnings
from decimal import Decimal, localcontext
from fractions import Fraction
from math import sqrt
from typing import Any

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opendp.combinators import make_composition, make_zCDP_to_approxDP
from support.gaussian import analytic_epsilon

from fedhelp_secure.privacy.accountant import (
    AccountingError,
    epsilon_of_rho,
    rho_of_epsilon,
    rho_of_gaussian,
    sigma_for_budget,
)
from fedhelp_secure.privacy.noise import gaussian

NEIGHBOURS = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
"""Never REPLACE_ONE: dp-accounting's RDP and PLD disagree there by a factor of two."""

deltas = st.sampled_from(["1e-3", "1e-5", "1e-6", "1e-9", "1e-12"])
rhos = st.fractions(min_value=Fraction(1, 10**5), max_value=200, max_denominator=10**9)

SCHEDULES = [(3276, 20_000, 1), (3276, 9_000, 3), (3276, 6_552, 5), (1, 2, 10), (5, 4, 1)]
"""(sensitivity, sigma, rounds)."""


def total_rho(sensitivity: int, sigma: int, rounds: int) -> Fraction:
    return rounds * rho_of_gaussian(sensitivity=sensitivity, sigma=sigma)


@given(st.integers(1, 10**7), st.integers(1, 10**9), st.integers(1, 60), deltas)
def test_composing_n_times_is_n_compositions(
    sensitivity: int, sigma: int, times: int, delta: str
) -> None:
    one = rho_of_gaussian(sensitivity=sensitivity, sigma=sigma)
    total = sum([one] * times, Fraction(0))
    assert total == times * one
    # n releases cost what one with sigma / sqrt(n) costs: exactly, when n is a square.
    assert rho_of_gaussian(sensitivity=times * sensitivity, sigma=sigma) == times * total
    if total < 10**4:
        assert epsilon_of_rho(total, delta) == epsilon_of_rho(times * one, delta)


@given(rhos, deltas)
@settings(deadline=None)
def test_epsilon_is_never_below_the_analytic_gaussian_and_close_to_it(
    rho: Fraction, delta: str
) -> None:
    """rho-zCDP contains the continuous Gaussian with mu = sqrt(2 rho)."""
    epsilon = float(epsilon_of_rho(rho, delta))
    exact = analytic_epsilon(sqrt(2 * rho), float(delta))
    assert epsilon >= exact
    if rho >= Fraction(1, 100):
        assert epsilon <= 1.2 * exact


@given(rhos, rhos, deltas)
def test_epsilon_grows_with_rho_and_falls_with_delta(a: Fraction, b: Fraction, delta: str) -> None:
    low, high = sorted((a, b))
    assert epsilon_of_rho(low, delta) <= epsilon_of_rho(high, delta)
    assert epsilon_of_rho(a, "1e-9") >= epsilon_of_rho(a, "1e-6") >= epsilon_of_rho(a, "1e-3")


@given(rhos, deltas)
@settings(deadline=None, max_examples=40)
def test_epsilon_is_the_minimum_of_the_bound_rounded_up(rho: Fraction, delta: str) -> None:
    """Against 50 digits: not under the true minimum, and not over it by more than the rounding."""
    epsilon = epsilon_of_rho(rho, delta)
    assert (epsilon * 10**6).denominator == 1
    with localcontext() as context:
        context.prec = 50
        minimum = max(
            Decimal(0), _minimum(Decimal(rho.numerator) / rho.denominator, Decimal(delta))
        )
        stated = Decimal(epsilon.numerator) / epsilon.denominator
        assert stated >= minimum
        assert stated <= minimum * (1 + Decimal("1e-8")) + Decimal("1.01e-6")


def _minimum(rho: Decimal, delta: Decimal) -> Decimal:
    """By golden-section search over log(alpha - 1), in the precision of the context."""

    def bound(log_excess: Decimal) -> Decimal:
        excess = log_excess.exp()
        alpha = 1 + excess
        return rho * alpha - (alpha * delta).ln() / excess + (excess / alpha).ln()

    low, high = Decimal(-20), Decimal(40)
    ratio = (Decimal(5).sqrt() - 1) / 2
    for _ in range(120):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if bound(left) < bound(right):
            high = right
        else:
            low = left
    return bound(low)


@pytest.mark.parametrize(("sensitivity", "sigma", "rounds"), SCHEDULES)
@pytest.mark.parametrize("delta", ["1e-5", "1e-6"])
def test_dp_accounting_agrees(sensitivity: int, sigma: int, rounds: int, delta: str) -> None:
    epsilon = float(epsilon_of_rho(total_rho(sensitivity, sigma, rounds), delta))
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.GaussianDpEvent(sigma / sensitivity), rounds
    )
    loss_distribution = PLDAccountant(NEIGHBOURS)
    loss_distribution.compose(event)
    exact = loss_distribution.get_epsilon(float(delta))
    assert exact <= epsilon * (1 + 1e-4)
    assert epsilon <= 1.15 * exact
    closed = dp_accounting.get_epsilon_gaussian(sigma / sensitivity / sqrt(rounds), float(delta))
    assert closed <= epsilon
    # The same conversion, minimised over finitely many orders: never better than ours.
    renyi = RdpAccountant(neighboring_relation=NEIGHBOURS)
    renyi.compose(event)
    assert epsilon == pytest.approx(renyi.get_epsilon(float(delta)), rel=0.01)


@pytest.mark.parametrize(("sensitivity", "sigma", "rounds"), SCHEDULES)
def test_opacus_agrees(sensitivity: int, sigma: int, rounds: int) -> None:
    with warnings.catch_warnings():
        # Importing it warns about its own use of torch; and it warns that a better order may exist.
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        for _ in range(rounds):
            accountant.step(noise_multiplier=sigma / sensitivity, sample_rate=1.0)
        theirs = accountant.get_epsilon(1e-6)
    ours = float(epsilon_of_rho(total_rho(sensitivity, sigma, rounds), "1e-6"))
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(("sensitivity", "sigma", "rounds"), SCHEDULES)
def test_opendp_agrees(sensitivity: int, sigma: int, rounds: int) -> None:
    measurement: Any = gaussian(sigma)
    rho = rho_of_gaussian(sensitivity=sensitivity, sigma=sigma)
    assert measurement.map(float(sensitivity)) == pytest.approx(float(rho), rel=1e-12)
    converted: Any = make_zCDP_to_approxDP(make_composition([measurement] * rounds))
    theirs = converted.map(float(sensitivity)).epsilon(1e-6)
    ours = float(epsilon_of_rho(rounds * rho, "1e-6"))
    assert ours == pytest.approx(theirs, rel=1e-4)


@given(st.integers(1, 2000), deltas)
@settings(deadline=None, max_examples=40)
def test_the_rho_of_an_epsilon_is_the_largest_that_keeps_it(hundredths: int, delta: str) -> None:
    limit = Fraction(hundredths, 100)
    rho = rho_of_epsilon(limit, delta)
    assert epsilon_of_rho(rho, delta) <= limit
    assert epsilon_of_rho(rho * (1 + Fraction(1, 10**5)) + Fraction(1, 10**6), delta) > limit


@given(st.sampled_from(["0.5", "1", "3", "8"]), st.integers(100, 10**6), st.integers(1, 20), deltas)
@settings(deadline=None, max_examples=40)
def test_the_sigma_of_a_budget_is_enough_and_hardly_more(
    epsilon: str, sensitivity: int, rounds: int, delta: str
) -> None:
    sigma = sigma_for_budget(epsilon=epsilon, delta=delta, sensitivity=sensitivity, rounds=rounds)
    assert epsilon_of_rho(total_rho(sensitivity, sigma, rounds), delta) <= Fraction(epsilon)
    less = sigma - 1 - sigma // 10**4
    assert epsilon_of_rho(total_rho(sensitivity, less, rounds), delta) > Fraction(epsilon)


def test_known_values() -> None:
    """Notes of the study behind the design: rho of epsilon 1, 3 and 8 at delta 1e-5."""
    for epsilon, rho in (("1", 0.03055), ("3", 0.22425), ("8", 1.22971)):
        assert float(rho_of_epsilon(epsilon, "1e-5")) == pytest.approx(rho, rel=1e-3)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon_of_rho(Fraction(0), "1e-6") == 0


@pytest.mark.parametrize("delta", ["0", "1", "-1e-6", "2"])
def test_a_delta_that_is_no_probability_is_refused(delta: str) -> None:
    with pytest.raises(AccountingError):
        epsilon_of_rho(Fraction(1), delta)


def test_a_negative_rho_is_refused() -> None:
    with pytest.raises(AccountingError):
        epsilon_of_rho(Fraction(-1), "1e-6")


@pytest.mark.parametrize(("sensitivity", "sigma"), [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_a_gaussian_without_noise_or_sensitivity_is_refused(sensitivity: int, sigma: int) -> None:
    with pytest.raises(AccountingError):
        rho_of_gaussian(sensitivity=sensitivity, sigma=sigma)


@pytest.mark.parametrize("epsilon", ["0", "-1"])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: str) -> None:
    with pytest.raises(AccountingError):
        rho_of_epsilon(epsilon, "1e-6")
