"""Zero-concentrated differential privacy: exact losses, and epsilon from them, rounded upward.

Losses (rho) are rationals, so that adding them never rounds. Only the last step, from rho to
epsilon at a given delta, leaves the rationals; any real alpha > 1 gives a valid epsilon there, so
that an inexact minimisation can only report too much.

Sources: Bun and Steinke 2016 (zCDP); Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for
Differential Privacy", theorem 4 (the discrete Gaussian is Delta^2 / (2 sigma^2)-zCDP) and
proposition 12 / corollary 13 (conversion).
"""

from __future__ import annotations

import math
from fractions import Fraction

from fedhelp_secure.errors import PolicyError

_DECIMALS = 6
# The float evaluation below has a relative error far under this; it is added before rounding up.
_SLACK = 1e-9


class AccountingError(PolicyError):
    """A privacy parameter is outside the range in which the accounting is valid."""

    code = "accounting"


def rho_of_gaussian(*, sensitivity: int, sigma: int) -> Fraction:
    """zCDP loss of a discrete Gaussian of scale ``sigma`` on a query of L2 ``sensitivity``.

    Both in grid units. Raises AccountingError unless both are positive.
    """
    if sensitivity <= 0 or sigma <= 0:
        raise AccountingError("sensitivity and sigma must be positive grid units.")
    return Fraction(sensitivity**2, 2 * sigma**2)


def epsilon_of_rho(rho: Fraction, delta: str | Fraction) -> Fraction:
    """The epsilon of (epsilon, ``delta``)-DP that ``rho``-zCDP implies, rounded up to 6 decimals.

    Minimises over alpha > 1 the bound rho alpha + log(1 / (alpha delta)) / (alpha - 1)
    + log(1 - 1 / alpha). Raises AccountingError unless rho >= 0 and 0 < delta < 1.
    """
    probability = Fraction(delta)
    if rho < 0 or not 0 < probability < 1:
        raise AccountingError("rho must not be negative, and delta must lie between 0 and 1.")
    if rho == 0:
        return Fraction(0)
    best = _minimum_over_alpha(float(rho) * (1 + _SLACK), math.log(1 / float(probability)))
    padded = max(0.0, best) * (1 + _SLACK) + _SLACK
    return Fraction(math.ceil(padded * 10**_DECIMALS), 10**_DECIMALS)


def rho_of_epsilon(epsilon: str | Fraction, delta: str | Fraction) -> Fraction:
    """A rho whose epsilon is at most ``epsilon``, within 1e-6 (relative) of the largest such."""
    limit = Fraction(epsilon)
    if limit <= 0:
        raise AccountingError("epsilon must be positive.")
    low, high = Fraction(0), Fraction(1)
    while epsilon_of_rho(high, delta) <= limit:
        high *= 2
    while high - low > high / 10**7:
        middle = (low + high) / 2
        middle = Fraction(math.floor(middle * 2**60), 2**60)
        if epsilon_of_rho(middle, delta) <= limit:
            low = middle
        else:
            high = middle
    return low


def sigma_for_budget(*, epsilon: str, delta: str, sensitivity: int, rounds: int) -> int:
    """The smallest whole sigma (grid units) with which ``rounds`` releases keep the budget."""
    rho_round = rho_of_epsilon(epsilon, delta) / rounds
    squared = Fraction(sensitivity**2) / (2 * rho_round)
    root = math.isqrt(-(-squared.numerator // squared.denominator))
    while Fraction(root**2) < squared:
        root += 1
    return root


def _minimum_over_alpha(rho: float, log_inverse_delta: float) -> float:
    def bound(log_excess: float) -> float:
        excess = math.exp(log_excess)
        alpha = 1 + excess
        return (
            rho * alpha + (log_inverse_delta - math.log(alpha)) / excess + math.log(excess / alpha)
        )

    # The bound is unimodal in log(alpha - 1): golden-section search.
    low, high = -20.0, 40.0
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left = high - ratio * (high - low)
        right = low + ratio * (high - low)
        if bound(left) < bound(right):
            high = right
        else:
            low = left
    return bound((low + high) / 2)
