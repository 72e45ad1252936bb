"""Smooth random fields and curves, made by two small matrix products instead of a large filter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
"""Float64, usually [H, W] over an image or [W] over its columns."""


def smooth_field(
    random: np.random.Generator, shape: tuple[int, int], correlation: tuple[float, float]
) -> Field:
    """Gaussian noise [H, W] of mean 0 and variance 1.

    ``correlation``: standard deviation of its kernel down and across, in pixels.
    """
    down = _kernel(shape[0], correlation[0])
    across = _kernel(shape[1], correlation[1])
    field: Field = down @ random.standard_normal((down.shape[1], across.shape[1])) @ across.T
    return field


def smooth_curve(random: np.random.Generator, length: int, correlation: float) -> Field:
    """Gaussian noise [length] of mean 0, variance 1 and a kernel of ``correlation`` pixels."""
    kernel = _kernel(length, correlation)
    return kernel @ random.standard_normal(kernel.shape[1])


def ridges(field: Field, width: float) -> Field:
    """1 along the zero level of ``field``, falling to 0 over ``width``: curved lines and cells."""
    return np.exp(-((field / width) ** 2))


def step(field: Field, width: float) -> Field:
    """A soft step from 0 (negative) to 1 (positive) over about ``width``."""
    return 0.5 * (1.0 + np.tanh(field / width))


@lru_cache(maxsize=256)
def _kernel(length: int, correlation: float) -> Field:
    """[length, knots]: rows of unit norm that spread noise at coarse knots over fine positions."""
    spacing = max(correlation, 0.5)
    knots = np.arange(-3.0 * spacing, length + 3.0 * spacing, spacing)
    distance = (np.arange(length)[:, None] - knots[None, :]) / spacing
    weights = np.exp(-0.5 * distance**2)
    normalised: Field = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return normalised
