"""Losses and epsilons worked out anew, by other means than the ledger's own accountant.

The ledger's writer uses `fedhelp_secure.privacy.accountant`; nothing here does, so that a mistake
there does not hide itself. Losses are rationals. The conversion to epsilon minimises the same
bound (Canonne, Kamath, Steinke 2020, proposition 12), but by the root of its derivative and with 50
decimal digits: any alpha gives a valid epsilon, and what is rounded is rounded upward.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from fedhelp_secure.evidence.layout import BundleRefused

_PRECISE = decimal.Context(prec=50, rounding=decimal.ROUND_CEILING)
_MILLIONTHS = 10**6
_UNSURE = Decimal("1e-40")
"""Above everything that 50 digits round away."""
_OVERSTATED = Fraction(2, _MILLIONTHS)
"""The accountant adds a billionth before it rounds up: its claims are at most so much above."""
_RELATIVE = Fraction(1, 10**8)


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
