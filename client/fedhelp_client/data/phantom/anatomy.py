"""The normal breast in one plane: skin, fat with Cooper's ligaments, gland, muscle, ribs.

Echogenicity follows the usual order (ACR BI-RADS Atlas, Ultrasound, 2013): skin and connective
tissue bright, gland brighter than fat, muscle dark with bright striae along the fascia.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedhelp_client.data.phantom.fields import Field, ridges, smooth_curve, smooth_field, step
from fedhelp_client.data.phantom.scanner import HEIGHT, WIDTH, Scanner, Tissue

_Noise = Callable[[float, float], Field]


@dataclass(frozen=True, slots=True)
class Breast:
    """What the planes of one patient share; lengths in mm."""

    skin: float
    fat: float
    gland: float
    muscle: float
    """Thickness of each layer from the surface down."""
    density: float
    """0 fatty to 1 dense."""
    rib: float
    """How far across a rib lies, as a part of the width; outside 0 to 1 there is none."""


def draw_breast(random: np.random.Generator) -> Breast:
    """The breast of one patient."""
    return Breast(
        skin=random.uniform(1.2, 2.2),
        fat=random.uniform(2.5, 8.0),
        gland=random.uniform(11.0, 19.0),
        muscle=random.uniform(6.0, 10.0),
        density=random.uniform(0.0, 1.0),
        rib=random.uniform(-1.0, 2.0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """Depth in mm of each layer's lower face, float64 [W]."""

    skin: Field
    fat: Field
    gland: Field
    muscle: Field


def draw_layers(breast: Breast, scanner: Scanner, random: np.random.Generator) -> Layers:
    """The layers' faces in one plane: gently curved, the gland's surface drawn up in peaks."""
    pixel = scanner.pixel

    def curve(amplitude: float, correlation: float) -> Field:
        return amplitude * smooth_curve(random, WIDTH, correlation / pixel)

    bulge = curve(0.8, 16.0)
    skin = breast.skin + curve(0.08, 5.0)
    # Cooper's ligaments pull the gland towards the skin where they insert: cusps that point up.
    peaks = np.exp(-np.abs(curve(1.0, 3.5)) / 0.35)
    fat = np.maximum(skin + breast.fat + bulge + curve(0.5, 4.0) - 1.8 * peaks, skin + 0.6)
    gland = np.maximum(skin + breast.fat + breast.gland + bulge + curve(0.9, 9.0), fat + 3.0)
    muscle = gland + breast.muscle + curve(0.5, 14.0)
    return Layers(skin, fat, gland, muscle)


def draw_tissue(
    breast: Breast, layers: Layers, scanner: Scanner, random: np.random.Generator
) -> Tissue:
    """Echogenicity and excess attenuation of one plane of the normal breast."""
    depth = scanner.depths()

    def noise(down: float, across: float) -> Field:
        return smooth_field(random, (HEIGHT, WIDTH), (down / scanner.pixel, across / scanner.pixel))

    in_fat = step(depth - layers.skin, 0.15)
    in_gland = step(depth - layers.fat, 0.3)
    in_muscle = step(depth - layers.gland, 0.25)
    below = step(depth - layers.muscle, 0.3)

    septa = ridges(noise(1.3, 4.0), 0.16) * step(noise(2.0, 6.0) + 0.4, 0.4)
    fat = -27.0 + 3.0 * noise(0.35, 2.5) + 13.0 * septa
    gland = _gland(breast, noise)
    striae = noise(0.28, 5.0)
    muscle = -29.0 + 3.0 * striae + 7.0 * step(striae - 1.2, 0.3)
    deep = -36.0 + 4.0 * noise(0.8, 5.0)

    level = -9.0 + 2.0 * noise(0.4, 1.5)
    for inside, tissue in ((in_fat, fat), (in_gland, gland), (in_muscle, muscle), (below, deep)):
        level = level + inside * (tissue - level)
    fascia = noise(1.5, 8.0)
    level = _brighten(level, depth - 0.25, 0.22, -2.0)
    level = _brighten(level, depth - layers.skin, 0.16, -9.0)
    level = _brighten(level, depth - layers.gland, 0.25, -13.0 + 3.0 * fascia)
    level = _brighten(level, depth - layers.muscle, 0.35, -11.0 + 4.0 * fascia)
    loss = 0.05 * (1.0 - in_gland) + 0.15 * breast.density * in_gland + 0.6 * below
    loss = loss + 1.4 * septa * (1.0 - in_gland)
    # Where the transducer touches badly, everything beneath is darker.
    contact = np.maximum(smooth_curve(random, WIDTH, 5.0 / scanner.pixel) - 0.6, 0.0)
    loss = loss + 3.5 * contact * (1.0 - in_fat)
    return _rib(Tissue(level, loss), breast, layers, scanner)


def _gland(breast: Breast, noise: _Noise) -> Field:
    """Fibroglandular tissue: bright fibrous streaks, dark fat lobules and ducts between them."""
    streaks = ridges(noise(0.6, 3.6), 0.3) * step(noise(1.5, 5.0) + 0.2, 0.5)
    lobules = step(noise(0.9, 2.2) - 0.1 - 0.9 * breast.density, 0.3)
    return -21.0 + 3.5 * noise(0.35, 2.2) + 11.0 * streaks - 10.0 * lobules


def _brighten(level: Field, distance: Field, width: float, peak: float | Field) -> Field:
    """Raise ``level`` to ``peak`` along the line where ``distance`` is 0: a specular interface."""
    raised: Field = level + np.exp(-((distance / width) ** 2)) * np.maximum(peak - level, 0.0)
    return raised


def _rib(tissue: Tissue, breast: Breast, layers: Layers, scanner: Scanner) -> Tissue:
    """Add a rib behind the muscle: a bright cap and a black shadow."""
    if not 0.0 <= breast.rib <= 1.0:
        return tissue
    across = np.arange(WIDTH) * scanner.pixel
    depth = scanner.depths()
    offset = (across - breast.rib * across[-1]) / 9.0
    centre = float(layers.muscle[int(breast.rib * (WIDTH - 1))]) + 2.0
    roof = np.where(np.abs(offset) < 1, centre - 3.2 * np.sqrt(np.maximum(1 - offset**2, 0)), 1e3)
    bone = step(depth - roof, 0.3)
    # Behind its cap nothing of the tissue is left to see.
    level = tissue.level - 22.0 * bone
    level = _brighten(level, depth - roof, 0.5, -9.0 - 8.0 * offset**2)
    return Tissue(level, tissue.loss + 3.0 * bone)
