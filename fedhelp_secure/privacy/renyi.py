"""Renyi differential privacy of the Poisson-sampled Gaussian, at whole orders, rounded upward.

A patient is in a step with probability q and adds a vector of L2 norm at most Delta; the step's sum
gets (discrete) Gaussian noise of scale sigma. At a whole order a the Renyi divergence is

    1 / (a - 1) * log sum_k C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) Delta^2 / (2 sigma^2))

(Mironov, Talwar, Zhang 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism",
section 3.3). It holds as it stands for the discrete Gaussian on the integers: for whole shifts
E[(P_1 / P_0)^k] under P_0 is a shifted copy of the normaliser, so that it is exactly
exp(k (k - 1) Delta^2 / (2 sigma^2)); and theorem 5 there, by which this direction is the larger of
the two, needs only the reflection x -> Delta - x, which maps the integers onto themselves.

Everything is added, multiplied and divided with 60 digits and rounded towards plus infinity, all
terms being positive; what the decimal module rounds to nearest (exp, ln) is raised by one unit
in its last place. So no value here is below the true one. A valid epsilon follows from any order:
finitely many can only report too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from math import comb

from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho

ORDERS: tuple[int, ...] = (
    *range(2, 65),
    *(72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512),
)
"""Fixed and public: a ledger's Renyi losses are at these, in this order."""

UNITS = 10**15
"""A Renyi loss is a whole number of 1 / UNITS, so that composing never rounds."""

LEAST_NOISE = Fraction(1, 100)
"""Noise multipliers below it protect nobody, and their losses outgrow every number."""

_UPWARD = Context(prec=60, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN)
_EPSILON_DECIMALS = 6

Curve = tuple[int, ...]
"""Renyi losses at `ORDERS`, in units of 1 / UNITS."""


@lru_cache(maxsize=256)
def sampled_gaussian(*, rate: Fraction, noise_multiplier: Fraction) -> Curve:
    """One step's loss: sampling with probability ``rate``, sigma = ``noise_multiplier`` * Delta.

    Raises AccountingError unless 0 < rate <= 1 and the multiplier is at least `LEAST_NOISE`.
    """
    if not 0 < rate <= 1 or noise_multiplier < LEAST_NOISE:
        raise AccountingError(
            f"the sampling rate must be in (0, 1], the noise at least {LEAST_NOISE} clips."
        )
    largest = ORDERS[-1]
    within, without = _powers(rate, largest), _powers(1 - rate, largest)
    inverse = 1 / (2 * noise_multiplier**2)
    ratios = [_exp(k * (k - 1) * inverse) for k in range(largest + 1)]
    curve = []
    for order in ORDERS:
        moment = Decimal(0)
        for k in range(order + 1):
            term = _UPWARD.multiply(Decimal(comb(order, k)), without[order - k])
            term = _UPWARD.multiply(_UPWARD.multiply(term, within[k]), ratios[k])
            moment = _UPWARD.add(moment, term)
        loss = _UPWARD.divide(_ln(moment), Decimal(order - 1))
        curve.append(_ceiling(loss, UNITS))
    return tuple(curve)


def epsilon_of_renyi(curve: Sequence[int], rho: Fraction, delta: str | Fraction) -> Fraction:
    """The epsilon at ``delta`` of a Renyi ``curve`` composed with ``rho``-zCDP, rounded up.

    At every order a the two together lose curve + rho a; conversion as in `epsilon_of_rho`
    (Canonne, Kamath, Steinke 2020, proposition 12), the best order taken. Raises AccountingError
    unless there is one value for each of `ORDERS`, none negative, and 0 < delta < 1.
    """
    probability = Fraction(delta)
    if rho < 0 or not 0 < probability < 1:
        raise AccountingError("rho must not be negative, and delta must lie between 0 and 1.")
    if len(curve) != len(ORDERS) or min(curve) < 0:
        raise AccountingError("a Renyi loss must have one value, not negative, for each order.")
    if not any(curve):
        return epsilon_of_rho(rho, delta)
    best = min(
        _UPWARD.add(
            _decimal(Fraction(units, UNITS) + rho * order),
            _conversion(order, probability),
        )
        for order, units in zip(ORDERS, curve, strict=True)
    )
    millionths = _ceiling(max(Decimal(0), best), 10**_EPSILON_DECIMALS)
    return Fraction(millionths, 10**_EPSILON_DECIMALS)


def sigma_for_sampled_budget(
    *, epsilon: str, delta: str, clip_units: int, rate: Fraction, steps: int
) -> int:
    """The smallest whole sigma (grid units) with which ``steps`` sampled steps keep the budget.

    Raises AccountingError if no noise can: the conversion alone is above ``epsilon`` at every order
    when epsilon is very small.
    """

    def fits(sigma: int) -> bool:
        step = sampled_gaussian(rate=rate, noise_multiplier=Fraction(sigma, clip_units))
        curve = [steps * units for units in step]
        return epsilon_of_renyi(curve, Fraction(0), delta) <= Fraction(epsilon)

    low, high = int(LEAST_NOISE * clip_units), clip_units
    while not fits(high):
        low, high = high, 2 * high
        if high > clip_units << 20:
            raise AccountingError(
                "no noise keeps so small an epsilon at the fixed orders; choose a larger one."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _conversion(order: int, delta: Fraction) -> Decimal:
    """log(1 / (a delta)) / (a - 1) + log(1 - 1 / a), upward."""
    excess = _UPWARD.divide(_ln(_decimal(1 / (order * delta))), Decimal(order - 1))
    return _UPWARD.add(excess, _ln(_decimal(Fraction(order - 1, order))))


def _powers(base: Fraction, largest: int) -> list[Decimal]:
    factor, powers = _decimal(base), [Decimal(1)]
    for _ in range(largest):
        powers.append(_UPWARD.multiply(powers[-1], factor))
    return powers


def _decimal(value: Fraction) -> Decimal:
    return _UPWARD.divide(Decimal(value.numerator), Decimal(value.denominator))


def _exp(value: Fraction) -> Decimal:
    return _UPWARD.next_plus(_UPWARD.exp(_decimal(value)))


def _ln(value: Decimal) -> Decimal:
    return _UPWARD.next_plus(_UPWARD.ln(value))


def _ceiling(value: Decimal, scale: int) -> int:
    return int(_UPWARD.multiply(value, Decimal(scale)).to_integral_value(rounding=ROUND_CEILING))
