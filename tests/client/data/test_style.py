from __future__ import annotations

import numpy as np

from fedhelp_client.data.style import Style, apply_style, draw_style
from fedhelp_client.data.types import Dataset


def test_the_neutral_style_changes_nothing(phantom: Dataset) -> None:
    image = phantom.examples[0].image
    assert np.array_equal(apply_style(image, Style(1.0, 1.0, 1.0, 0.0)), image)


def test_styles_are_mild_and_differ(phantom: Dataset) -> None:
    image = phantom.examples[0].image
    styles = [draw_style(np.random.default_rng([1, number])) for number in range(6)]
    assert len(set(styles)) == 6
    for style in styles:
        styled = apply_style(image, style)
        assert styled.dtype == np.uint8
        assert styled.shape == image.shape
        assert 0 < np.abs(styled.astype(int) - image).mean() < 40
        assert np.corrcoef(styled.ravel(), image.ravel())[0, 1] > 0.95


def test_the_same_seed_gives_the_same_style() -> None:
    assert draw_style(np.random.default_rng(3)) == draw_style(np.random.default_rng(3))
