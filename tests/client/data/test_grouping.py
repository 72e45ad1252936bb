from __future__ import annotations

import numpy as np

from fedhelp_client.data.grouping import difference_hash, group_by_hash
from fedhelp_client.data.style import Style, apply_style
from fedhelp_client.data.types import Dataset


def test_a_hash_has_256_bits(phantom: Dataset) -> None:
    assert difference_hash(phantom.examples[0].image).shape == (256,)


def test_another_scanners_look_stays_the_same_patient(phantom: Dataset) -> None:
    originals = [example.image for example in phantom.examples[:6]]
    style = Style(gain=0.9, gamma=1.15, contrast=0.95, blur=0.5)
    copies = [apply_style(image, style) for image in originals]
    groups = group_by_hash(originals + copies)
    assert groups[:6] == groups[6:]
    assert len(set(groups)) == 6


def test_likeness_is_passed_on() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (16, 17), dtype=np.uint8)
    second, third = first.copy(), first.copy()
    # Each inverted row changes 16 bits: the outer two differ by more than 20.
    second[0] = 255 - second[0]
    third[:2] = 255 - third[:2]
    distance = int((difference_hash(first) != difference_hash(third)).sum())
    assert distance > 20
    assert group_by_hash([first, third]) == (0, 1)
    assert group_by_hash([first, third, second]) == (0, 0, 0)


def test_no_images_no_groups() -> None:
    assert group_by_hash([]) == ()
