"""The analytic Gaussian mechanism (Balle and Wang 2018): what tests compare the accounting with."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr

_LARGEST_EPSILON = 1e5


def log_delta(mu: float, epsilon: float) -> float:
    """log of Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu); mu is sensitivity over sigma."""
    above = log_ndtr(mu / 2 - epsilon / mu)
    below = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(above + np.log(-np.expm1(min(below - above, -1e-300))))


def analytic_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon at ``delta`` of a Gaussian mechanism; 0 if any mu so small has none."""
    if mu <= 0 or log_delta(mu, 0.0) <= np.log(delta):
        return 0.0
    root = brentq(lambda epsilon: log_delta(mu, epsilon) - np.log(delta), 0.0, _LARGEST_EPSILON)
    return float(root)
