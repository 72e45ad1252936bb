"""What a release costs one patient, in the form that composes: by addition, without rounding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho, rho_of_gaussian
from fedhelp_secure.privacy.renyi import ORDERS, UNITS, Curve, epsilon_of_renyi, sampled_gaussian

_DIGITS = 15
TEXT_PATTERN = rf"^[0-9]+/[1-9][0-9]*( renyi( [0-9]{{1,30}}\.[0-9]{{{_DIGITS}}})+)?$"
"""A loss as text: rho as "p/q" in lowest terms and, if there is one, the curve's decimals."""


@dataclass(frozen=True, slots=True)
class Loss:
    """zCDP and Renyi losses side by side. Purely Gaussian losses have no curve and stay rational.

    Raises AccountingError for a negative rho, or a curve that has not one value for each order.
    """

    rho: Fraction = Fraction(0)
    curve: Curve = ()
    """Renyi losses beside rho, in units of 1 / `UNITS` at `ORDERS`; empty if there is none."""

    def __post_init__(self) -> None:
        if self.rho < 0 or (self.curve and (len(self.curve) != len(ORDERS) or min(self.curve) < 0)):
            raise AccountingError("a loss must not be negative, and have one value for each order.")

    @classmethod
    def of_gaussian(cls, *, sensitivity: int, sigma: int) -> Loss:
        """Of a discrete Gaussian on a query of L2 ``sensitivity``; both in grid units."""
        return cls(rho=rho_of_gaussian(sensitivity=sensitivity, sigma=sigma))

    @classmethod
    def of_sampled_gaussian(
        cls, *, rate: Fraction, steps: int, sensitivity: int, sigma: int
    ) -> Loss:
        """Of ``steps`` discrete Gaussians on sums of patients sampled with probability ``rate``."""
        if sensitivity <= 0 or steps < 1:
            raise AccountingError("sensitivity and steps must be positive.")
        step = sampled_gaussian(rate=rate, noise_multiplier=Fraction(sigma, sensitivity))
        return cls(curve=step).times(steps)

    def __add__(self, other: Loss) -> Loss:
        """The loss of both: valid for adaptively chosen releases."""
        return Loss(self.rho + other.rho, _added(self.curve, other.curve))

    def times(self, count: int) -> Loss:
        """The loss of ``count`` such releases; raises AccountingError for a negative count."""
        if count < 0:
            raise AccountingError("a number of releases must not be negative.")
        curve = tuple(count * units for units in self.curve) if count else ()
        return Loss(count * self.rho, curve)

    def epsilon(self, delta: str | Fraction) -> Fraction:
        """The epsilon of (epsilon, ``delta``)-DP, rounded up to 6 decimals."""
        if not self.curve:
            return epsilon_of_rho(self.rho, delta)
        return epsilon_of_renyi(self.curve, self.rho, delta)

    def text(self) -> str:
        """Exactly this loss, in the form of `TEXT_PATTERN`; of a Gaussian it is "p/q" alone."""
        rho = f"{self.rho.numerator}/{self.rho.denominator}"
        if not self.curve:
            return rho
        parts = (divmod(units, UNITS) for units in self.curve)
        return " ".join([rho, _MARK, *(f"{whole}.{rest:0{_DIGITS}d}" for whole, rest in parts)])

    @classmethod
    def parse(cls, text: str) -> Loss:
        """The loss that `text` wrote; raises AccountingError for anything else."""
        if not re.fullmatch(TEXT_PATTERN, text):
            raise AccountingError("a loss must be p/q, with one decimal for each order if any.")
        rho, *parts = text.replace(_MARK, "").split()
        return cls(Fraction(rho), tuple(int(part.replace(".", "")) for part in parts))


_MARK = "renyi"

NOTHING = Loss()
"""What costs nothing."""


def _added(first: Curve, second: Curve) -> Curve:
    if not first or not second:
        return first or second
    return tuple(one + other for one, other in zip(first, second, strict=True))
