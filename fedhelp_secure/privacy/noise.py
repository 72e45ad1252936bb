"""Noise shares: OpenDP's exact discrete Gaussian sampler, fed by the operating system's entropy.

There is no seed anywhere on this path, and no other generator: whoever could repeat a draw could
subtract it. The sampler works on integers and rationals only, so that floating point never shapes
the noise (Mironov 2012; Canonne, Kamath, Steinke 2020).
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

# Not opendp.prelude, which imports scikit-learn and scipy wherever they are installed.
from opendp.domains import atom_domain, vector_domain
from opendp.measurements import make_gaussian
from opendp.metrics import l2_distance
from opendp.mod import Measurement, enable_features

from fedhelp_secure.charter import MINIMUM_SHARE_UNITS
from fedhelp_secure.errors import InternalError

SAMPLER = "opendp.measurements.make_gaussian (discrete, i64)"
SAMPLER_VERSION = version("opendp")
ENTROPY_SOURCE = "OpenSSL generator of opendp, seeded by the operating system"

_LARGEST_SCALE = 1 << 53


class NoiseMisused(InternalError):
    """Noise was asked for in a form that would not protect anybody."""

    code = "noise"


def draw_share(values: int, scale_units: int) -> NDArray[np.int64]:
    """``values`` fresh discrete Gaussians of scale ``scale_units`` (grid units), shape [values].

    Never call it twice for one round: two draws under one debit halve the noise for whoever sees
    both. Raises NoiseMisused for an empty share, a scale under `MINIMUM_SHARE_UNITS`, or one that a
    float does not hold exactly.
    """
    if values < 1:
        raise NoiseMisused("a noise share must have at least one value.")
    if not MINIMUM_SHARE_UNITS <= scale_units <= _LARGEST_SCALE:
        raise NoiseMisused("a noise share's scale is outside what the accounting covers.")
    return np.array(gaussian(scale_units)([0] * values), dtype=np.int64)


@cache
def gaussian(scale_units: int) -> Measurement:
    """OpenDP's measurement; its ``map`` gives the zCDP loss from the L2 sensitivity."""
    # OpenDP marks every constructor that has no finished proof "contrib"; the sampler itself is
    # proven (its proof file lies beside it).
    enable_features("contrib")
    domain = vector_domain(atom_domain(T="i64"))
    return make_gaussian(domain, l2_distance(T=float), scale=float(scale_units))
