"""The auditor's arithmetic beside the accountant's, with which it shares nothing."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import check_claim, epsilon_of, fewer_honest, rho_of, text_of
from fedhelp_secure.privacy.accountant import epsilon_of_rho, rho_of_gaussian

RHOS = st.builds(Fraction, st.integers(1, 10**9), st.integers(1, 10**12))
DELTAS = st.integers(1, 15).map(lambda digits: f"1e-{digits}")


@given(RHOS.filter(lambda rho: rho < 500), DELTAS)
def test_two_ways_to_one_epsilon(rho: Fraction, delta: str) -> None:
    """The accountant pads before it rounds up: it is never below, and hardly above."""
    ours, accountant = epsilon_of(rho, delta), epsilon_of_rho(rho, delta)
    assert ours <= accountant <= ours * (1 + Fraction(1, 10**8)) + Fraction(2, 10**6)
    check_claim(0, "epsilon", text_of(accountant), ours)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_two_ways_to_one_loss(sensitivity: int, deviation: int) -> None:
    assert rho_of(sensitivity, deviation) == rho_of_gaussian(
        sensitivity=sensitivity, sigma=deviation
    )


def test_no_loss_is_no_epsilon() -> None:
    assert epsilon_of(Fraction(0), "1e-6") == 0


@pytest.mark.parametrize(
    ("rho", "delta"), [(Fraction(-1), "1e-6"), (Fraction(1), "1e-0"), (Fraction(1), "0")]
)
def test_what_is_no_loss_or_no_delta_is_refused(rho: Fraction, delta: str) -> None:
    with pytest.raises(BundleRefused):
        epsilon_of(rho, delta)


@pytest.mark.parametrize(("sensitivity", "deviation"), [(0, 1), (1, 0), (-1, 1)])
def test_no_noise_is_refused(sensitivity: int, deviation: int) -> None:
    with pytest.raises(BundleRefused, match="nothing is protected"):
        rho_of(sensitivity, deviation)


def test_a_claim_may_not_be_below_nor_far_above() -> None:
    check_claim(3, "epsilon", "1.000000", Fraction(1))
    check_claim(3, "epsilon", "1.000001", Fraction(1))
    with pytest.raises(BundleRefused, match=r"entry 3 claims an epsilon of 0\.999999, below"):
        check_claim(3, "epsilon", "0.999999", Fraction(1))
    with pytest.raises(BundleRefused, match="another loss"):
        check_claim(3, "epsilon", "1.000003", Fraction(1))


def test_fewer_honest_shares_go_down_to_one() -> None:
    assert fewer_honest(1) == ()
    assert fewer_honest(4) == (3, 2, 1)
    assert fewer_honest(20) == (19, 18, 17, 16, 15, 14, 13, 1)
