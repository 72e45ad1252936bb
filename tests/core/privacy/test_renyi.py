"""The sampled Gaussian's Renyi losses against exact sums, other libraries, other closed forms."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from fractions import Fraction

import dp_accounting
import mpmath
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gaussian import analytic_epsilon

from fedhelp_secure.privacy import renyi
from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho
from fedhelp_secure.privacy.renyi import (
    LEAST_NOISE,
    ORDERS,
    UNITS,
    epsilon_of_renyi,
    sampled_gaussian,
    sigma_for_sampled_budget,
)

NEIGHBOURS = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
"""Never REPLACE_ONE: dp-accounting's RDP and PLD disagree there by a factor of two."""

rates = st.fractions(min_value=Fraction(1, 10_000), max_value=1, max_denominator=10**6)
multipliers = st.fractions(min_value=Fraction(3, 10), max_value=50, max_denominator=10**4)
deltas = st.sampled_from(["1e-3", "1e-5", "1e-6", "1e-9"])

SCHEDULES = [
    (Fraction(1, 100), Fraction(1), 1000),
    (Fraction(1, 10), Fraction(2), 300),
    (Fraction(1, 50), Fraction(4, 5), 500),
    (Fraction(1, 4), Fraction(4), 400),
    (Fraction(1), Fraction(5), 10),
]
"""(q, noise multiplier, T)."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """dp-accounting says of each fractional order that it leaves out that it does."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def exact(rate: Fraction, multiplier: Fraction, order: int) -> mpmath.mpf:
    """The formula in 120 digits."""
    q, z = mpmath.mpf(rate.numerator) / rate.denominator, mpmath.mpf(multiplier.numerator)
    z /= multiplier.denominator
    moment = mpmath.fsum(
        mpmath.binomial(order, k)
        * (1 - q) ** (order - k)
        * q**k
        * mpmath.exp(k * (k - 1) / (2 * z**2))
        for k in range(order + 1)
    )
    return mpmath.log(moment) / (order - 1)


@given(rates, multipliers, st.sampled_from([0, 1, 2, 9, 40, 63, 68, len(ORDERS) - 1]))
@settings(deadline=None, max_examples=20)
def test_a_loss_is_the_formulas_rounded_up(
    rate: Fraction, multiplier: Fraction, index: int
) -> None:
    with mpmath.workdps(120):
        true = exact(rate, multiplier, ORDERS[index]) * UNITS
        stated = sampled_gaussian(rate=rate, noise_multiplier=multiplier)[index]
        assert true <= stated <= true * (1 + mpmath.mpf("1e-40")) + 1


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6, max_denominator=10**9))
@settings(deadline=None, max_examples=40)
def test_every_step_of_the_arithmetic_rounds_upward(value: Fraction) -> None:
    with mpmath.workdps(130):
        true = mpmath.mpf(value.numerator) / value.denominator
        pairs = (
            (renyi._decimal(value), true),
            (renyi._exp(value), mpmath.exp(true)),
            (renyi._ln(renyi._decimal(value)), mpmath.log(true)),
            (renyi._powers(value, 9)[9], true**9),
        )
        for rounded, exactly in pairs:
            excess = mpmath.mpf(str(rounded)) - exactly
            # Down to what the comparison itself rounds; the others round at the 60th digit.
            below, above = mpmath.mpf("1e-110"), mpmath.mpf("1e-50")
            assert -below * abs(exactly) <= excess <= above * abs(exactly) + mpmath.mpf("1e-58")


@pytest.mark.parametrize("order", [2, 3, 8, 30])
@pytest.mark.parametrize(("shift", "sigma"), [(1, 1), (3, 2), (5, 4)])
def test_the_formula_holds_for_the_discrete_gaussian_in_both_directions(
    order: int, shift: int, sigma: int
) -> None:
    """Sums over the integers themselves: no continuous Gaussian in sight."""
    q = mpmath.mpf("0.3")
    with mpmath.workdps(60):
        reach = 2 * (20 * sigma + order * shift)
        weights = {x: mpmath.exp(-mpmath.mpf(x * x) / (2 * sigma**2)) for x in range(-reach, reach)}
        total = mpmath.fsum(weights.values())

        def zero(x: int) -> mpmath.mpf:
            return weights.get(x, mpmath.mpf(0)) / total

        def mixed(x: int) -> mpmath.mpf:
            return (1 - q) * zero(x) + q * zero(x - shift)

        points = range(-reach // 2, reach // 2)
        forward = mpmath.fsum(mixed(x) ** order / zero(x) ** (order - 1) for x in points)
        backward = mpmath.fsum(zero(x) ** order / mixed(x) ** (order - 1) for x in points)
        expected = exact(Fraction(3, 10), Fraction(sigma, shift), order) * (order - 1)
        assert abs(mpmath.log(forward) - expected) < mpmath.mpf("1e-12")
        assert backward <= forward


@given(multipliers)
@settings(deadline=None, max_examples=20)
def test_without_sampling_it_is_the_gaussians_own_loss(multiplier: Fraction) -> None:
    curve = sampled_gaussian(rate=Fraction(1), noise_multiplier=multiplier)
    for order, units in zip(ORDERS, curve, strict=True):
        true = order / (2 * multiplier**2)
        assert true <= Fraction(units, UNITS) <= true + Fraction(2, UNITS)


@given(rates, multipliers)
@settings(deadline=None, max_examples=20)
def test_sampling_more_or_noising_less_never_costs_less(
    rate: Fraction, multiplier: Fraction
) -> None:
    curve = sampled_gaussian(rate=rate, noise_multiplier=multiplier)
    for more in (
        sampled_gaussian(rate=min(Fraction(1), rate * 2), noise_multiplier=multiplier),
        sampled_gaussian(rate=rate, noise_multiplier=multiplier * Fraction(9, 10)),
    ):
        assert all(less <= larger for less, larger in zip(curve, more, strict=True))
    # Renyi divergence does not fall with the order.
    assert list(curve) == sorted(curve)


@given(st.fractions(min_value=0, max_value=20, max_denominator=10**6), rates, multipliers, deltas)
@settings(deadline=None, max_examples=20)
def test_epsilon_is_never_below_what_its_gaussian_part_alone_must_cost(
    rho: Fraction, rate: Fraction, multiplier: Fraction, delta: str
) -> None:
    curve = sampled_gaussian(rate=rate, noise_multiplier=multiplier)
    epsilon = float(epsilon_of_renyi(curve, rho, delta))
    assert epsilon >= analytic_epsilon(float(2 * rho) ** 0.5, float(delta))
    assert epsilon_of_renyi(curve, rho + 1, delta) >= epsilon_of_renyi(curve, rho, delta)


@given(multipliers, st.integers(1, 300), deltas)
@settings(deadline=None, max_examples=20)
def test_epsilon_without_sampling_is_never_below_the_analytic_gaussian(
    multiplier: Fraction, steps: int, delta: str
) -> None:
    step = sampled_gaussian(rate=Fraction(1), noise_multiplier=multiplier)
    epsilon = float(epsilon_of_renyi([steps * units for units in step], Fraction(0), delta))
    assert epsilon >= analytic_epsilon(steps**0.5 / float(multiplier), float(delta))
    # Finitely many orders: never better than the best of all.
    assert epsilon >= float(epsilon_of_rho(steps / (2 * multiplier**2), delta)) - 2e-6


@given(rates, multipliers, st.integers(1, 1000), deltas)
@settings(deadline=None, max_examples=20)
def test_epsilon_is_the_best_order_rounded_up(
    rate: Fraction, multiplier: Fraction, steps: int, delta: str
) -> None:
    curve = [steps * units for units in sampled_gaussian(rate=rate, noise_multiplier=multiplier)]
    epsilon = epsilon_of_renyi(curve, Fraction(0), delta)
    assert (epsilon * 10**6).denominator == 1
    with mpmath.workdps(60):
        best = min(
            mpmath.mpf(units) / UNITS
            + (-mpmath.log(order * mpmath.mpf(delta))) / (order - 1)
            + mpmath.log(1 - mpmath.mpf(1) / order)
            for order, units in zip(ORDERS, curve, strict=True)
        )
        stated = mpmath.mpf(epsilon.numerator) / epsilon.denominator
        assert max(0, best) <= stated <= max(0, best) + mpmath.mpf("1.0001e-6")


@pytest.mark.parametrize(("rate", "multiplier", "steps"), SCHEDULES)
@pytest.mark.parametrize("delta", ["1e-5", "1e-6"])
def test_dp_accounting_agrees_and_loss_distributions_are_tighter(
    rate: Fraction, multiplier: Fraction, steps: int, delta: str
) -> None:
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(
            float(rate), dp_accounting.GaussianDpEvent(float(multiplier))
        ),
        steps,
    )
    step = sampled_gaussian(rate=rate, noise_multiplier=multiplier)
    epsilon = float(epsilon_of_renyi([steps * units for units in step], Fraction(0), delta))
    same_orders = RdpAccountant(list(ORDERS), neighboring_relation=NEIGHBOURS)
    same_orders.compose(event)
    theirs = same_orders.get_epsilon(float(delta))
    assert theirs <= epsilon * (1 + 1e-9)
    assert epsilon == pytest.approx(theirs, rel=1e-5)
    loss_distribution = PLDAccountant(NEIGHBOURS)
    loss_distribution.compose(event)
    tight = loss_distribution.get_epsilon(float(delta))
    assert tight <= epsilon * (1 + 1e-4)
    assert epsilon <= 1.25 * tight


@pytest.mark.parametrize(("rate", "multiplier", "steps"), SCHEDULES)
def test_opacus_agrees(rate: Fraction, multiplier: Fraction, steps: int) -> None:
    with warnings.catch_warnings():
        # Importing it warns about its own use of torch; and it warns that a better order may exist.
        warnings.simplefilter("ignore")
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(float(multiplier), float(rate), steps)]
        theirs = accountant.get_epsilon(1e-6, alphas=list(ORDERS))
    step = sampled_gaussian(rate=rate, noise_multiplier=multiplier)
    ours = float(epsilon_of_renyi([steps * units for units in step], Fraction(0), "1e-6"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours >= theirs * (1 - 1e-9)


def test_known_values() -> None:
    """Whole orders only, delta 1e-5: the study behind the design, its column autodp RDP."""
    known = [
        (("0.01", "1", 1000), 2.1078),
        (("0.1", "2", 300), 4.5738),
        (("0.5", "6", 200), 5.8363),
    ]
    for (rate, multiplier, steps), epsilon in known:
        step = sampled_gaussian(rate=Fraction(rate), noise_multiplier=Fraction(multiplier))
        ours = epsilon_of_renyi([steps * units for units in step], Fraction(0), "1e-5")
        assert float(ours) == pytest.approx(epsilon, abs=1e-4)


@pytest.mark.parametrize("epsilon", ["0.5", "3", "20"])
def test_the_noise_of_a_budget_is_enough_and_the_least(epsilon: str) -> None:
    rate, steps, clip = Fraction(1, 20), 150, 3276
    sigma = sigma_for_sampled_budget(
        epsilon=epsilon, delta="1e-6", clip_units=clip, rate=rate, steps=steps
    )

    def cost(units: int) -> Fraction:
        step = sampled_gaussian(rate=rate, noise_multiplier=Fraction(units, clip))
        return epsilon_of_renyi([steps * value for value in step], Fraction(0), "1e-6")

    assert cost(sigma) <= Fraction(epsilon) < cost(sigma - 1)


def test_an_epsilon_under_every_orders_conversion_is_refused() -> None:
    with pytest.raises(AccountingError, match="no noise keeps"):
        sigma_for_sampled_budget(
            epsilon="0.001", delta="1e-9", clip_units=1, rate=Fraction(1, 2), steps=1
        )


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_a_rate_that_is_no_probability_is_refused(rate: Fraction) -> None:
    with pytest.raises(AccountingError):
        sampled_gaussian(rate=rate, noise_multiplier=Fraction(1))


@pytest.mark.parametrize("multiplier", [Fraction(0), Fraction(-1), Fraction(1, 10**30)])
def test_steps_without_noise_are_refused(multiplier: Fraction) -> None:
    with pytest.raises(AccountingError):
        sampled_gaussian(rate=Fraction(1, 2), noise_multiplier=multiplier)


@pytest.mark.parametrize("multiplier", [LEAST_NOISE, Fraction(10**30)])
def test_the_least_and_the_most_noise_have_a_loss(multiplier: Fraction) -> None:
    curve = sampled_gaussian(rate=Fraction(999_999, 10**6), noise_multiplier=multiplier)
    assert all(units > 0 for units in curve)


@pytest.mark.parametrize(
    ("curve", "rho", "delta"),
    [
        ([1] * (len(ORDERS) - 1), Fraction(0), "1e-6"),
        ([-1, *[1] * (len(ORDERS) - 1)], Fraction(0), "1e-6"),
        ([1] * len(ORDERS), Fraction(-1), "1e-6"),
        ([1] * len(ORDERS), Fraction(0), "0"),
        ([1] * len(ORDERS), Fraction(0), "1"),
    ],
)
def test_what_is_no_loss_has_no_epsilon(curve: list[int], rho: Fraction, delta: str) -> None:
    with pytest.raises(AccountingError):
        epsilon_of_renyi(curve, rho, delta)
