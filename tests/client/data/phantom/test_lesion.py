from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedhelp_client.data.phantom.lesion import Lesion, draw_lesion, insert, other_plane
from fedhelp_client.data.phantom.scanner import HEIGHT, WIDTH, Tissue, draw_scanner

SCANNER = replace(draw_scanner(np.random.default_rng(0)), edges="linear")


def lesions(suspicion: float) -> list[Lesion]:
    return [
        replace(draw_lesion(suspicion, np.random.default_rng(seed)), depth=16.0)
        for seed in range(60)
    ]


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def test_benign_is_wider_malignant_taller() -> None:
    benign = mean([lesion.height / lesion.width for lesion in lesions(0.1)])
    malignant = mean([lesion.height / lesion.width for lesion in lesions(0.9)])
    assert benign < 0.75 < 1.0 < malignant


def test_benign_enhances_malignant_shadows() -> None:
    assert mean([lesion.loss for lesion in lesions(0.1)]) < -0.3
    assert mean([lesion.loss for lesion in lesions(0.9)]) > 0.8


def test_malignant_has_spicules_and_halo_benign_a_capsule() -> None:
    benign, malignant = lesions(0.1), lesions(0.9)
    assert mean([len(lesion.spicules) for lesion in malignant]) > 8
    assert mean([len(lesion.spicules) for lesion in benign]) < 1
    assert mean([lesion.halo for lesion in malignant]) > mean([lesion.halo for lesion in benign])
    assert mean([lesion.capsule for lesion in malignant]) < mean(
        [lesion.capsule for lesion in benign]
    )


def test_a_lesion_is_darker_than_gland_and_changes_what_lies_behind() -> None:
    gland = Tissue(np.full((HEIGHT, WIDTH), -18.0), np.zeros((HEIGHT, WIDTH)))
    lesion = lesions(0.9)[0]
    tissue, mask = insert(gland, lesion, SCANNER, np.random.default_rng(0))
    inside = mask.astype(bool)
    assert mask.dtype == np.uint8
    assert inside.any()
    assert tissue.level[inside].mean() < -25.0
    assert tissue.loss[inside].mean() > 0.5 * lesion.loss


def test_a_smooth_lesions_mask_is_its_ellipse() -> None:
    gland = Tissue(np.zeros((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH)))
    smooth = replace(lesions(0.0)[0], lobes=(), spicules=(), width=6.0, height=3.0)
    _, mask = insert(gland, smooth, SCANNER, np.random.default_rng(0))
    area = float(mask.sum()) * SCANNER.pixel**2
    assert abs(area / (np.pi * 6.0 * 3.0) - 1.0) < 0.03


def test_another_plane_shows_the_same_lesion_otherwise() -> None:
    lesion = lesions(0.9)[0]
    other = other_plane(lesion, np.random.default_rng(1))
    assert (other.height, other.level, other.loss) == (lesion.height, lesion.level, lesion.loss)
    assert other.width != lesion.width
    assert len(other.spicules) == len(lesion.spicules)
    assert 0.6 < other.width / lesion.width < 1.4
