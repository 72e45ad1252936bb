"""Poisson sampling: every patient by a coin of their own, from the operating system's entropy.

Nobody may learn who was sampled: amplification by sampling holds only while it is secret. So
samples are drawn here alone, are never logged, and cannot be drawn again: there is no seed.
"""

from __future__ import annotations

import secrets
from fractions import Fraction

from fedhelp_secure.errors import InternalError


class SamplingMisused(InternalError):
    """A sample was asked for with something that is no probability."""

    code = "sampling"


def poisson_sample(count: int, rate: Fraction) -> list[int]:
    """Those of 0 to ``count`` - 1 whose coin, of probability ``rate`` exactly, came up.

    May be empty. Raises SamplingMisused unless 0 < rate <= 1.
    """
    if not 0 < rate <= 1:
        raise SamplingMisused("a sampling rate must be above 0 and at most 1.")
    return [index for index in range(count) if secrets.randbelow(rate.denominator) < rate.numerator]
