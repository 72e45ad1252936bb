from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhelp_client.data.phantom.fields import Field
from fedhelp_client.data.phantom.scanner import (
    HEIGHT,
    WIDTH,
    Scanner,
    Tissue,
    acquire,
    aperture,
    draw_scanner,
)

PLAIN = Scanner(
    depth=36.0,
    gain=0.0,
    dynamic_range=80.0,
    gamma=1.0,
    axial=0.15,
    lateral=0.3,
    focus=18.0,
    looks=1,
    tilt=0.0,
    floor=-120.0,
    blur=0.0,
    edges="linear",
)


def even(level: float = -30.0, loss: float = 0.0) -> Tissue:
    return Tissue(np.full((HEIGHT, WIDTH), level), np.full((HEIGHT, WIDTH), loss))


def envelope(tissue: Tissue, scanner: Scanner) -> Field:
    """The amplitude that the grey values of a linear grey map stand for, [H, W]."""
    grey = acquire(tissue, scanner, np.random.default_rng(0)) / 255.0
    return np.asarray(10.0 ** ((grey - 1.0) * scanner.dynamic_range / 20.0))


def test_speckle_in_the_focus_is_rayleigh() -> None:
    rows = slice(HEIGHT // 2 - 6, HEIGHT // 2 + 6)
    amplitude = envelope(even(), PLAIN)[rows]
    # Standard deviation over mean of a Rayleigh variable: sqrt(4 / pi - 1).
    assert amplitude.std() / amplitude.mean() == pytest.approx(0.523, abs=0.06)


def test_compounding_smooths_speckle() -> None:
    amplitude = envelope(even(), replace(PLAIN, looks=4))
    assert amplitude.std() / amplitude.mean() < 0.35


def correlation_length(picture: Field, axis: int) -> int:
    """Pixels until the autocorrelation along ``axis`` falls below one half."""
    centred = picture - picture.mean()
    for lag in range(1, 30):
        ahead = np.roll(centred, -lag, axis=axis)
        if float((centred * ahead).mean() / centred.var()) < 0.5:
            return lag
    return 30


def test_speckle_is_as_wide_as_the_beam() -> None:
    fine = envelope(even(), PLAIN)
    coarse = envelope(even(), replace(PLAIN, lateral=0.9))
    assert correlation_length(fine, 1) > correlation_length(fine, 0)
    assert correlation_length(coarse, 1) > correlation_length(fine, 1)


def test_attenuation_darkens_and_gain_brightens() -> None:
    plain = acquire(even(), PLAIN, np.random.default_rng(0)).astype(float)
    shadowed = acquire(even(loss=1.0), PLAIN, np.random.default_rng(0)).astype(float)
    louder = acquire(even(), replace(PLAIN, gain=6.0), np.random.default_rng(0)).astype(float)
    assert shadowed[-20:].mean() < plain[-20:].mean() - 40
    assert shadowed[:5].mean() == pytest.approx(plain[:5].mean(), abs=8)
    assert louder.mean() - plain.mean() == pytest.approx(6 / 80 * 255, abs=2)


def test_the_trapezoid_is_black_beside_the_beam() -> None:
    scanner = replace(PLAIN, edges="trapezoid")
    picture = acquire(even(), scanner, np.random.default_rng(0))
    assert not picture[aperture(scanner) == 0].any()
    assert not picture[0, :20].any()
    assert picture[0, WIDTH // 2 - 10 : WIDTH // 2 + 10].any()


def test_scanners_differ_and_follow_the_seed() -> None:
    scanners = [draw_scanner(np.random.default_rng(seed)) for seed in range(8)]
    assert len(set(scanners)) == 8
    assert scanners[0] == draw_scanner(np.random.default_rng(0))
