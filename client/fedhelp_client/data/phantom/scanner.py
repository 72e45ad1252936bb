"""How a scanner turns echogenicity and attenuation into a B-mode picture.

Fully developed speckle: complex Gaussian scatterers weighted by the tissue's echogenicity, blurred
by the point spread function (axial and lateral, widening away from the focus), envelope detected
(Rayleigh), compounded over looks, attenuated with imperfect time gain compensation, over a noise
floor that the compensation lifts with depth, and compressed logarithmically to the dynamic range.
See Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.phantom.fields import Field

HEIGHT = 144
WIDTH = 192
"""Pixels of every phantom image."""

FAR_FIELD_WIDENING = 2.2
"""How much wider the beam is at three focal depths than in the focus."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """The settings of one scanner and its operator; lengths in mm, levels in dB."""

    depth: float
    """Depth shown, of the image's whole height."""
    gain: float
    dynamic_range: float
    gamma: float
    """Of the grey map; above 1 darkens the middle greys."""
    axial: float
    lateral: float
    """Standard deviations of the point spread function in the focus."""
    focus: float
    """Depth of the focal zone."""
    looks: int
    """Independent pictures that spatial compounding averages."""
    tilt: float
    """Error of the time gain compensation, dB a mm of depth; negative darkens the far field."""
    floor: float
    """Level of the electronic noise at the skin."""
    blur: float
    """Smoothing after detection, pixels."""
    edges: Literal["linear", "trapezoid"]

    @property
    def pixel(self) -> float:
        """Millimetres a pixel, the same down and across."""
        return self.depth / HEIGHT

    def depths(self) -> Field:
        """Depth of each row's middle, mm, [HEIGHT, 1]."""
        rows: Field = (np.arange(HEIGHT, dtype=np.float64)[:, None] + 0.5) * self.pixel
        return rows


def draw_scanner(random: np.random.Generator) -> Scanner:
    """A scanner with settings such as one meets in practice."""
    return Scanner(
        depth=random.uniform(32.0, 42.0),
        gain=random.uniform(-6.0, 3.0),
        dynamic_range=random.uniform(52.0, 66.0),
        gamma=random.uniform(1.0, 1.5),
        axial=random.uniform(0.11, 0.18),
        lateral=random.uniform(0.24, 0.42),
        focus=random.uniform(10.0, 20.0),
        looks=int(random.integers(2, 5)),
        tilt=random.uniform(-0.45, -0.1),
        floor=random.uniform(-70.0, -60.0),
        blur=random.uniform(0.3, 0.7),
        edges="trapezoid" if random.random() < 0.3 else "linear",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """What lies under the transducer, on the scanner's grid: both float64 [H, W]."""

    level: Field
    """Echogenicity, dB."""
    loss: Field
    """Attenuation beyond what is compensated for, dB a mm both ways; negative enhances."""


def acquire(tissue: Tissue, scanner: Scanner, random: np.random.Generator) -> NDArray[np.uint8]:
    """The B-mode picture of ``tissue``, uint8 [HEIGHT, WIDTH]."""
    depth = scanner.depths()
    # A beam is some pixels wide, so a shadow has soft sides.
    shade = smoothed(np.cumsum(tissue.loss, axis=0) * scanner.pixel, 0.0, 2.5)
    focus_gain = 3.0 * np.exp(-(((depth - scanner.focus) / 8.0) ** 2))
    level = tissue.level - shade + scanner.tilt * depth + focus_gain
    intensity = _speckle(np.power(10.0, level / 20.0), scanner, random)
    noise = random.standard_exponential((HEIGHT, WIDTH))
    noise = smoothed(noise, 0.7, 0.9) * 10.0 ** ((scanner.floor + 0.4 * depth) / 10.0)
    decibel = 10.0 * np.log10(intensity + noise + 1e-9) + scanner.gain
    grey = np.clip(1.0 + decibel / scanner.dynamic_range, 0.0, 1.0) ** scanner.gamma
    grey = smoothed(grey, scanner.blur, scanner.blur)
    picture: NDArray[np.uint8] = np.rint(255.0 * grey * aperture(scanner)).astype(np.uint8)
    return picture


def aperture(scanner: Scanner) -> Field:
    """1 where the scanner sees, 0 beside its trapezoid: float64 [HEIGHT, WIDTH]."""
    if scanner.edges == "linear":
        return np.ones((HEIGHT, WIDTH))
    across = np.abs(np.arange(WIDTH) - (WIDTH - 1) / 2)[None, :]
    reach = 0.33 * WIDTH + 0.30 * np.arange(HEIGHT)[:, None]
    seen: Field = (across <= reach).astype(np.float64)
    return seen


def _speckle(amplitude: Field, scanner: Scanner, random: np.random.Generator) -> Field:
    """Mean squared envelope over the looks, float64 [H, W]."""
    away = np.clip(np.abs(scanner.depths() - scanner.focus) / (2.0 * scanner.focus), 0.0, 1.0)
    lateral = scanner.lateral / scanner.pixel
    # Rows of unit norm keep the speckle's power whatever the width of the beam.
    axial = _blur_matrix(HEIGHT, scanner.axial / scanner.pixel, norm=2)
    focused = _blur_matrix(WIDTH, lateral, norm=2).T
    unfocused = _blur_matrix(WIDTH, FAR_FIELD_WIDENING * lateral, norm=2).T
    weights = amplitude.astype(np.float32)
    total = np.zeros_like(amplitude)
    for _ in range(2 * scanner.looks):
        # One of the two quadrature components of one look.
        echo = axial @ (weights * random.standard_normal(amplitude.shape, dtype=np.float32))
        total += (1.0 - away) * (echo @ focused) ** 2 + away * (echo @ unfocused) ** 2
    return total / (2.0 * scanner.looks)


def smoothed(field: Field, down: float, across: float) -> Field:
    """``field`` [H, W] smoothed by Gaussians of these standard deviations, pixels; 0 is none."""
    smooth = field
    if down > 0.0:
        smooth = _blur_matrix(field.shape[0], down, norm=1) @ smooth
    if across > 0.0:
        smooth = smooth @ _blur_matrix(field.shape[1], across, norm=1).T
    return np.asarray(smooth, dtype=np.float64)


@lru_cache(maxsize=256)
def _blur_matrix(length: int, sigma: float, *, norm: Literal[1, 2]) -> NDArray[np.float32]:
    """[length, length]: a Gaussian around each position, rows of unit L1 or L2 norm."""
    positions = np.arange(length)
    matrix = np.exp(-0.5 * ((positions[:, None] - positions[None, :]) / sigma) ** 2)
    matrix /= np.linalg.norm(matrix, ord=norm, axis=1, keepdims=True)
    return matrix.astype(np.float32)
