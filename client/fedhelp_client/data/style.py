"""The look of one hospital's scanner, given to real images.

Mild and deterministic: brightness, contrast, grey curve and sharpness differ between hospitals as
they do between scanners and presets. The phantom has scanners of its own (`phantom.scanner`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True, slots=True)
class Style:
    """What is done to each image, on grey values from 0 to 1."""

    gain: float
    """Factor."""
    gamma: float
    """Exponent; above 1 darkens."""
    contrast: float
    """Factor about the image's mean."""
    blur: float
    """Standard deviation, pixels; 0 leaves it sharp."""


def draw_style(random: np.random.Generator) -> Style:
    """The style of one hospital."""
    return Style(
        gain=random.uniform(0.85, 1.15),
        gamma=float(np.exp(random.uniform(-0.25, 0.25))),
        contrast=random.uniform(0.85, 1.15),
        blur=random.choice([0.0, random.uniform(0.3, 0.7)]),
    )


def apply_style(image: NDArray[np.uint8], style: Style) -> NDArray[np.uint8]:
    """``image`` (uint8 [H, W]) as that hospital's scanner would have shown it."""
    grey = np.clip(style.gain * (image / 255.0) ** style.gamma, 0.0, 1.0)
    mean = grey.mean()
    grey = np.clip(mean + style.contrast * (grey - mean), 0.0, 1.0)
    if style.blur > 0.0:
        grey = gaussian_filter(grey, style.blur)
    styled: NDArray[np.uint8] = np.rint(255.0 * grey).astype(np.uint8)
    return styled
