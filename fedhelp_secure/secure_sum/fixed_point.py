"""Reals as fixed-point integers: one grid unit is ``2**-fraction_bits``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import InternalError

_LARGEST = 2.0**62
"""Scaled values must stay below this, so that int64 holds them and sums of a few of them."""


class NotRepresentable(InternalError):
    """A value is not finite, or too large for the grid."""

    code = "not-representable"


def quantise(values: NDArray[np.float64], fraction_bits: int) -> NDArray[np.int64]:
    """``round(values * 2**fraction_bits)``, ties to even; any shape, unchanged.

    Scaling by a power of two is exact in binary floating point, so that the only rounding is the
    one to the grid. Raises NotRepresentable for NaN, an infinity, or a magnitude of 2**62 and more.
    """
    reals = np.asarray(values, dtype=np.float64)
    if not np.isfinite(reals).all():
        raise NotRepresentable("a value to release is not finite; mend the step that made it.")
    if (np.abs(reals) >= _LARGEST / 2**fraction_bits).any():
        raise NotRepresentable("a value to release is too large for the grid; clip it first.")
    return np.rint(np.ldexp(reals, fraction_bits)).astype(np.int64)


def to_real(integers: NDArray[np.int64], fraction_bits: int) -> NDArray[np.float64]:
    """``integers * 2**-fraction_bits``; exact while the magnitudes stay below 2**53."""
    return np.ldexp(integers.astype(np.float64), -fraction_bits)
