"""Sensitivities, losses and epsilons worked out anew, by other means than the ledger's own.

The ledger's writer uses `fedhelp_secure.privacy.accountant`, `loss`, `parameters` and `renyi`;
nothing here does, so that a mistake there does not hide itself. Gaussian losses are rationals. The
conversion to epsilon minimises the same bound (Canonne, Kamath, Steinke 2020, proposition 12), but
by the root of its derivative and with 50 decimal digits: any alpha gives a valid epsilon, and what
is rounded is rounded upward. Sampled steps lose the Renyi divergence of Mironov, Talwar and Zhang
2019, section 3.3, at the fixed orders in which ledgers state it.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.privacy.events import PrivacyEvent, SampledGaussianEvent

_PRECISE = decimal.Context(prec=50, rounding=decimal.ROUND_CEILING)
_MILLIONTHS = 10**6
_UNSURE = Decimal("1e-40")
"""Above everything that 50 digits round away."""
_OVERSTATED = Fraction(2, _MILLIONTHS)
"""The accountant adds a billionth before it rounds up: its claims are at most so much above."""
_RELATIVE = Fraction(1, 10**8)


ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512)
"""Of the Renyi losses in a ledger, in this order."""
_UNITS = 10**15
"""A Renyi loss in a ledger is a whole number of 1 / _UNITS."""
_MARK = "renyi"
_RENYI = decimal.Context(prec=80, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)

_CLIPS = {"probe": 1, "logit_noise": 2, "dp_sgd": 1}
"""Clips by which one patient more or less moves a hospital's own query: its vector comes or goes;
but a matrix that is clipped as a whole may go from any point of the ball to the opposite one."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A loss that adds up without rounding."""

    rho: Fraction = Fraction(0)
    curve: tuple[int, ...] = ()
    """Renyi losses beside rho, in units of 1e-15 at `ORDERS`; empty if there is none."""

    def __add__(self, other: Spent) -> Spent:
        """Both, one after the other."""
        if not self.curve or not other.curve:
            curve = self.curve or other.curve
        else:
            curve = tuple(one + two for one, two in zip(self.curve, other.curve, strict=True))
        return Spent(self.rho + other.rho, curve)

    def epsilon(self, delta: str) -> Fraction:
        """At ``delta``, rounded up to millionths."""
        return _renyi_epsilon(self, delta) if self.curve else epsilon_of(self.rho, delta)

    @property
    def text(self) -> str:
        """As ledgers write it: "p/q", and decimals at `ORDERS` behind a mark if there are any."""
        rho = f"{self.rho.numerator}/{self.rho.denominator}"
        if not self.curve:
            return rho
        parts = (divmod(units, _UNITS) for units in self.curve)
        return " ".join([rho, _MARK, *(f"{whole}.{rest:015d}" for whole, rest in parts)])


def sensitivity_of(event: PrivacyEvent) -> int:
    """L2, in grid units, of what the accounted noise is added to: the federation's weighted sum,
    or, where the noise is all the hospital's own, one step's sum of gradients."""
    own = own_sensitivity(event)
    return own if isinstance(event, SampledGaussianEvent) else event.weight * own


def own_sensitivity(event: PrivacyEvent) -> int:
    """L2, in grid units, of the hospital's own query, before its weight."""
    return _CLIPS[event.mechanism] * event.clip_units


def losses_of(event: PrivacyEvent, entry: int, stated: str) -> tuple[Spent, Spent]:
    """(aggregate, collusion) of one release.

    ``stated`` is the loss in the entry. Of its Renyi losses every value must be at least the
    recomputed one and hardly more: they are then what adds up. Raises BundleRefused.
    """
    own = own_sensitivity(event)
    if isinstance(event, SampledGaussianEvent):
        spent = Spent(curve=_checked_curve(event, own, entry, stated))
        return spent, spent
    return (
        Spent(rho_of(event.weight * own, event.sigma_units)),
        Spent(rho_of(own, event.share_units)),
    )


def _checked_curve(
    event: SampledGaussianEvent, sensitivity: int, entry: int, stated: str
) -> tuple[int, ...]:
    _, _, decimals = stated.partition(f" {_MARK} ")
    parts = decimals.replace(".", "").split()
    if len(parts) != len(ORDERS):
        raise BundleRefused(f"entry {entry} states another loss than it must: a Renyi curve.")
    step = _sampled_step(Fraction(event.sampling_rate), Fraction(event.sigma_units, sensitivity))
    curve = tuple(int(part) for part in parts)
    for order, units, loss in zip(ORDERS, curve, step, strict=True):
        recomputed = event.steps * loss
        claim = Decimal(units).scaleb(-15, _RENYI)
        if claim < recomputed:
            raise BundleRefused(
                f"entry {entry} claims a Renyi loss of order {order} below the recomputed one."
            )
        # Each step is rounded up to 15 places.
        if claim > recomputed + event.steps * Decimal("2e-15"):
            raise BundleRefused(f"entry {entry} states another loss than it must: order {order}.")
    return curve


@lru_cache(maxsize=256)
def _sampled_step(rate: Fraction, multiplier: Fraction) -> tuple[Decimal, ...]:
    """Renyi loss of one step at `ORDERS`, to 70 digits, less what these round away."""
    if not 0 < rate <= 1 or multiplier <= 0:
        raise BundleRefused("a sampling rate is no probability, or there is no noise.")
    with decimal.localcontext(_RENYI):
        within = Decimal(rate.numerator) / Decimal(rate.denominator)
        exponent = 1 / (2 * multiplier**2)
        growth = (Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
        # exp(k (k - 1) / (2 z^2)), from one k to the next.
        ratios, step = [Decimal(1)], Decimal(1)
        for _ in range(ORDERS[-1]):
            ratios.append(ratios[-1] * step)
            step *= growth * growth
        losses = []
        for order in ORDERS:
            moment = sum(
                math.comb(order, k) * _power(1 - within, order - k) * _power(within, k) * ratios[k]
                for k in range(order + 1)
            )
            losses.append(max(Decimal(0), Decimal(moment).ln() / (order - 1) - _UNSURE))
        return tuple(losses)


def _power(base: Decimal, exponent: int) -> Decimal:
    return base**exponent if exponent else Decimal(1)


@lru_cache(maxsize=4096)
def _renyi_epsilon(spent: Spent, delta: str) -> Fraction:
    if not 0 < Fraction(delta) < 1:
        raise BundleRefused("a delta is not between 0 and 1.")
    if not any(spent.curve):
        return epsilon_of(spent.rho, delta)
    with decimal.localcontext(_PRECISE):
        rho = Decimal(spent.rho.numerator) / Decimal(spent.rho.denominator)
        best = min(
            Decimal(units) / _UNITS
            + rho * order
            - (Decimal(delta).ln() + Decimal(order).ln()) / (order - 1)
            + (1 - 1 / Decimal(order)).ln()
            for order, units in zip(ORDERS, spent.curve, strict=True)
        )
        bound = (best + _UNSURE) * _MILLIONTHS
        return Fraction(max(0, int(bound.to_integral_value())), _MILLIONTHS)


def rho_of(sensitivity: int, deviation: int) -> Fraction:
    """zCDP loss of Gaussian noise of this deviation on a query of this L2 sensitivity."""
    if sensitivity <= 0 or deviation <= 0:
        raise BundleRefused("a sensitivity or deviation is not positive: nothing is protected.")
    return Fraction(sensitivity, deviation) ** 2 / 2


@lru_cache(maxsize=4096)
def epsilon_of(rho: Fraction, delta: str) -> Fraction:
    """The epsilon at ``delta`` of ``rho``-zCDP, rounded up to millionths; 0 for no loss."""
    if not 0 < Fraction(delta) < 1 or rho < 0:
        raise BundleRefused("a delta is not between 0 and 1, or a loss is negative.")
    if rho == 0:
        return Fraction(0)
    excess = Decimal(_best_excess(float(rho), -math.log(float(Fraction(delta)))))
    with decimal.localcontext(_PRECISE):
        alpha = 1 + excess
        loss = Decimal(rho.numerator) / Decimal(rho.denominator) * alpha
        conversion = -(Decimal(delta).ln() + alpha.ln()) / excess + (excess / alpha).ln()
        bound = (loss + conversion + _UNSURE) * _MILLIONTHS
        return Fraction(max(0, int(bound.to_integral_value())), _MILLIONTHS)


def _best_excess(rho: float, log_inverse_delta: float) -> float:
    """alpha - 1 at the minimum: the root of rho x^2 = log(1 / delta) - log(1 + x)."""
    low, high = 1e-12, 1e12
    for _ in range(200):
        middle = math.sqrt(low * high)
        if rho * middle**2 < log_inverse_delta - math.log1p(middle):
            low = middle
        else:
            high = middle
    return low


def fewer_honest(honest: int) -> tuple[int, ...]:
    """Numbers of honest shares below ``honest`` for which epsilons are stated: t - 1 down to 1.

    At most eight: of more, the seven largest and 1.
    """
    fewer = tuple(range(honest - 1, 0, -1))
    return fewer if len(fewer) <= 8 else (*fewer[:7], 1)


def check_claim(entry: int, name: str, stated: str, recomputed: Fraction) -> None:
    """Raises BundleRefused if the epsilon that an entry states is not that of its losses.

    ``stated`` has six decimals. It may be above by what the accountant's own rounding adds.
    """
    claim = Fraction(stated)
    if claim < recomputed:
        raise BundleRefused(
            f"entry {entry} claims an {name} of {stated}, below the {text_of(recomputed)} that its "
            "losses give."
        )
    if claim > recomputed * (1 + _RELATIVE) + _OVERSTATED:
        raise BundleRefused(f"entry {entry} states another loss than it must: {name}.")


def text_of(epsilon: Fraction) -> str:
    """An epsilon with six decimals, rounded up."""
    whole, millionths = divmod(math.ceil(epsilon * _MILLIONTHS), _MILLIONTHS)
    return f"{whole}.{millionths:06d}"
