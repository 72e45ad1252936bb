from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho, rho_of_gaussian
from fedhelp_secure.privacy.loss import NOTHING, Loss
from fedhelp_secure.privacy.renyi import ORDERS

gaussians = st.builds(
    Loss.of_gaussian, sensitivity=st.integers(1, 10**5), sigma=st.integers(10**4, 10**7)
)
sampled = st.builds(
    Loss.of_sampled_gaussian,
    rate=st.sampled_from([Fraction(1, 100), Fraction(1, 8), Fraction(1)]),
    steps=st.integers(1, 500),
    sensitivity=st.integers(800, 1200),
    sigma=st.sampled_from([1000, 2500, 4000]),
)
losses = st.one_of(gaussians, sampled)
deltas = st.sampled_from(["1e-3", "1e-6", "1e-9"])


@given(losses, st.integers(0, 60), deltas)
@settings(deadline=None, max_examples=40)
def test_composing_n_times_is_n_compositions(loss: Loss, times: int, delta: str) -> None:
    summed = sum([loss] * times, NOTHING)
    assert summed == loss.times(times)
    assert summed.epsilon(delta) == loss.times(times).epsilon(delta)


@given(st.lists(losses, min_size=1, max_size=6), st.randoms(use_true_random=False), deltas)
@settings(deadline=None, max_examples=40)
def test_the_order_does_not_matter(parts: list[Loss], shuffler: random.Random, delta: str) -> None:
    shuffled = list(parts)
    shuffler.shuffle(shuffled)
    assert sum(parts, NOTHING) == sum(shuffled, NOTHING)
    half = len(parts) // 2
    grouped = sum(parts[:half], NOTHING) + sum(parts[half:], NOTHING)
    assert grouped.epsilon(delta) == sum(shuffled, NOTHING).epsilon(delta)


@given(losses, losses, deltas)
@settings(deadline=None, max_examples=40)
def test_more_never_costs_less(first: Loss, second: Loss, delta: str) -> None:
    both = first + second
    assert both.epsilon(delta) >= max(first.epsilon(delta), second.epsilon(delta))


@given(gaussians, deltas)
def test_a_gaussian_loss_stays_rational(loss: Loss, delta: str) -> None:
    assert loss.curve == ()
    assert loss.text() == f"{loss.rho.numerator}/{loss.rho.denominator}"
    assert loss.epsilon(delta) == epsilon_of_rho(loss.rho, delta)


@given(gaussians, st.integers(1, 50), deltas)
@settings(deadline=None, max_examples=40)
def test_a_curve_beside_a_rho_costs_what_the_rho_costs_at_every_order(
    loss: Loss, steps: int, delta: str
) -> None:
    """Without sampling both are the same Gaussian, once as rho and once as a curve."""
    sigma = 4000
    as_rho = Loss(steps * rho_of_gaussian(sensitivity=1000, sigma=sigma)) + loss
    as_curve = loss + Loss.of_sampled_gaussian(
        rate=Fraction(1), steps=steps, sensitivity=1000, sigma=sigma
    )
    assert as_curve.epsilon(delta) >= as_rho.epsilon(delta) - Fraction(2, 10**6)
    if as_rho.epsilon(delta) < 10:
        # Above, the best order lies between whole ones.
        assert as_curve.epsilon(delta) <= as_rho.epsilon(delta) * Fraction(11, 10)


@given(losses, losses)
@settings(deadline=None, max_examples=40)
def test_texts_hold_a_loss_exactly(first: Loss, second: Loss) -> None:
    loss = first + second
    assert Loss.parse(loss.text()) == loss


def test_a_curve_as_text_has_fifteen_decimals_an_order() -> None:
    loss = Loss(Fraction(1, 3), (10**15 + 1, *[7] * (len(ORDERS) - 1)))
    assert loss.text().split()[:4] == ["1/3", "renyi", "1.000000000000001", "0.000000000000007"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1/0",
        "-1/2",
        "1/2 renyi",
        "1/2 renyi 1.0",
        "1/2 renyi -1.000000000000000",
        "1/2 renyi 1.000000000000000",
        "1/2 renyi 1,000000000000000",
        "1/2 " + " ".join(["1.000000000000000"] * len(ORDERS)),
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(AccountingError):
        Loss.parse(text)


@pytest.mark.parametrize(
    ("rho", "curve"),
    [(Fraction(-1), ()), (Fraction(0), (1,)), (Fraction(0), (-1, *[1] * (len(ORDERS) - 1)))],
)
def test_what_is_no_loss_is_refused(rho: Fraction, curve: tuple[int, ...]) -> None:
    with pytest.raises(AccountingError):
        Loss(rho, curve)


@pytest.mark.parametrize(("steps", "sensitivity"), [(0, 1), (-1, 1), (1, 0)])
def test_steps_that_are_none_are_refused(steps: int, sensitivity: int) -> None:
    with pytest.raises(AccountingError):
        Loss.of_sampled_gaussian(rate=Fraction(1, 2), steps=steps, sensitivity=sensitivity, sigma=4)


def test_a_negative_number_of_releases_is_refused() -> None:
    with pytest.raises(AccountingError):
        Loss(Fraction(1)).times(-1)
