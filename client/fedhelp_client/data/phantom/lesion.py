"""Lesions and what they do to the picture around and behind them.

The descriptors are those of ACR BI-RADS Ultrasound (2013): shape, orientation, margin, echo
pattern, posterior features, halo. Each is drawn from how suspicious the lesion is, with noise of
its own, so that no single one tells benign from malignant, as in practice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.phantom.fields import Field, smooth_field, step
from fedhelp_client.data.phantom.scanner import HEIGHT, WIDTH, Scanner, Tissue, aperture


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion in one plane; lengths in mm, levels in dB."""

    across: float
    """Centre, as a part of the width."""
    depth: float
    """Centre, mm below the surface."""
    width: float
    height: float
    """Half axes."""
    tilt: float
    """Radians."""
    lobes: tuple[tuple[float, float], ...]
    """Amplitude (part of the radius) and phase of the outline's harmonics from the second on."""
    spicules: tuple[tuple[float, float, float], ...]
    """Direction, length (part of the radius) and angular width of each."""
    level: float
    """Echogenicity inside."""
    texture: float
    """Its unevenness."""
    margin: float
    """How wide the edge is."""
    capsule: float
    """Brightness that a thin capsule adds where the beam meets it square."""
    halo: float
    """Brightness of the ill-defined rim outside."""
    loss: float
    """Attenuation inside, dB a mm; negative enhances what lies behind."""
    calcifications: int


def draw_lesion(suspicion: float, random: np.random.Generator) -> Lesion:
    """A lesion of ``suspicion`` 0 (typically benign) to 1 (typically malignant)."""

    def trait() -> float:
        """The suspicion as one feature shows it, mostly but not always in step with the others."""
        return float(np.clip(suspicion + random.normal(0.0, 0.14), 0.0, 1.0))

    size = random.uniform(3.2, 7.5)
    # Height over width: wider than tall below 1.
    aspect = float(np.exp(np.log(0.55) + trait() * np.log(1.35 / 0.55)))
    irregular = trait()
    lobes = tuple(
        (irregular * random.normal(0.0, 0.16 / order**0.7), random.uniform(0.0, 2 * np.pi))
        for order in range(2, 9)
    )
    spiculated = max(0.0, trait() - 0.35) / 0.65
    spicules = tuple(
        (
            random.uniform(0, 2 * np.pi),
            spiculated * random.uniform(0.2, 0.9),
            random.uniform(0.05, 0.13),
        )
        for _ in range(round(14 * spiculated))
    )
    cyst = random.random() < 0.35 * (1.0 - trait())
    behind = trait()
    return Lesion(
        across=random.uniform(0.32, 0.68),
        depth=random.uniform(0.0, 1.0),
        width=size / aspect**0.5,
        height=size * aspect**0.5,
        tilt=random.normal(0.0, 0.18),
        lobes=lobes,
        spicules=spicules,
        level=random.uniform(-60.0, -48.0) if cyst else random.uniform(-42.0, -33.0),
        texture=1.0 if cyst else 1.5 + 3.0 * trait(),
        margin=0.12 + 0.7 * trait() ** 2,
        capsule=12.0 * (1.0 - trait()),
        halo=10.0 * trait() ** 1.5,
        loss=(-1.3 if cyst else -0.7) + 2.6 * behind**1.5,
        calcifications=int(random.poisson(5.0 * max(0.0, trait() - 0.4))),
    )


def other_plane(lesion: Lesion, random: np.random.Generator) -> Lesion:
    """The same lesion seen with the transducer turned by a right angle."""
    turn = random.uniform(0.0, 2 * np.pi)
    return replace(
        lesion,
        across=float(np.clip(lesion.across + random.normal(0.0, 0.08), 0.28, 0.72)),
        width=lesion.width * random.uniform(0.85, 1.2),
        tilt=random.normal(0.0, 0.18),
        lobes=tuple(
            (amplitude * random.uniform(0.6, 1.4), phase + turn)
            for amplitude, phase in lesion.lobes
        ),
        spicules=tuple(
            (direction + turn, length * random.uniform(0.6, 1.3), width)
            for direction, length, width in lesion.spicules
        ),
    )


def insert(
    tissue: Tissue, lesion: Lesion, scanner: Scanner, random: np.random.Generator
) -> tuple[Tissue, NDArray[np.uint8]]:
    """``tissue`` with the lesion in it, and its mask (uint8 [H, W], the rim not included)."""
    right, down = _offsets(lesion, scanner)
    radius = np.hypot(right, down) + 1e-6
    outline = _outline(lesion, right, down)
    distance = np.clip(radius - outline, -30.0, 30.0)
    facing = np.abs(down) / radius
    inside = step(-distance, lesion.margin)

    texture = smooth_field(random, (HEIGHT, WIDTH), (0.5 / scanner.pixel, 0.9 / scanner.pixel))
    filling = lesion.level + lesion.texture * texture + _calcifications(lesion, right, down, random)
    level = tissue.level + inside * (filling - tissue.level)
    rim = np.exp(-((distance / 0.28) ** 2)) * facing**2
    level = level + lesion.capsule * rim
    cuff = np.exp(-(((distance - 1.1) / 1.0) ** 2)) * (1.0 - 0.5 * facing * (down > 0))
    level = level + lesion.halo * cuff * np.clip(0.7 + 0.3 * texture, 0.0, 1.3)

    # Refraction at a smooth side takes the beam away: thin shadows from both edges.
    side = np.exp(-((distance / 0.35) ** 2)) * (1.0 - facing) ** 2
    loss = tissue.loss + inside * lesion.loss + 0.12 * lesion.capsule * side
    mask = (distance <= 0.0) & (aperture(scanner) > 0)
    return Tissue(level, loss), mask.astype(np.uint8)


def _offsets(lesion: Lesion, scanner: Scanner) -> tuple[Field, Field]:
    """Distances from the centre along the lesion's own axes, mm, [H, W] each."""
    x = (np.arange(WIDTH) - lesion.across * WIDTH)[None, :] * scanner.pixel
    z = scanner.depths() - lesion.depth
    cosine, sine = np.cos(lesion.tilt), np.sin(lesion.tilt)
    return cosine * x + sine * z, -sine * x + cosine * z


def _outline(lesion: Lesion, right: Field, down: Field) -> Field:
    """The lesion's radius in mm in the direction of each pixel, [H, W]."""
    around = np.linspace(-np.pi, np.pi, 721)
    scale = np.ones_like(around)
    for order, (amplitude, phase) in enumerate(lesion.lobes, start=2):
        scale += amplitude * np.cos(order * around + phase)
    for direction, length, width in lesion.spicules:
        turned = np.angle(np.exp(1j * (around - direction)))
        scale += length * np.exp(-((turned / width) ** 2))
    ellipse = np.hypot(lesion.width * np.cos(around), lesion.height * np.sin(around))
    angle = np.arctan2(down / lesion.height, right / lesion.width)
    radius: Field = np.interp(angle, around, np.maximum(scale, 0.35) * ellipse)
    return radius


def _calcifications(
    lesion: Lesion, right: Field, down: Field, random: np.random.Generator
) -> Field:
    """Bright points within the lesion, dB to add."""
    points = np.zeros_like(right)
    for _ in range(lesion.calcifications):
        x = random.uniform(-0.6, 0.6) * lesion.width
        z = random.uniform(-0.6, 0.6) * lesion.height
        points += 22.0 * np.exp(-((right - x) ** 2 + (down - z) ** 2) / 0.25**2)
    return points
