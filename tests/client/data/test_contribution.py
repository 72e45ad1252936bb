from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedhelp_client.data.contribution import beyond_cap, capped
from fedhelp_client.data.types import DataError, Dataset, Example


def dataset_of(counts: dict[str, int]) -> Dataset:
    """So many images of each patient, all different, patients in turn."""
    random = np.random.default_rng(3)
    examples = [
        Example(random.integers(0, 256, (16, 16), dtype=np.uint8), 0, patient)
        for patient, count in counts.items()
        for _ in range(count)
    ]
    return Dataset("d", ("a", "b"), tuple(examples[::2] + examples[1::2]))


def kept(dataset: Dataset, maximum: int) -> dict[str, set[bytes]]:
    images: dict[str, set[bytes]] = {}
    for example in capped(dataset, maximum).examples:
        images.setdefault(example.patient, set()).add(example.image.tobytes())
    return images


DATASET = dataset_of({"p1": 5, "p2": 2, "p3": 3})


def test_nobody_has_more_images_than_the_cap_and_nobody_loses_one_below_it() -> None:
    for maximum in range(1, 7):
        sizes = {patient: len(images) for patient, images in kept(DATASET, maximum).items()}
        assert sizes == {"p1": min(5, maximum), "p2": min(2, maximum), "p3": min(3, maximum)}
        assert beyond_cap(DATASET, maximum) == 10 - sum(sizes.values())


def test_what_stays_depends_on_that_patients_images_alone() -> None:
    whole = kept(DATASET, 2)
    for left_out in ("p1", "p2", "p3"):
        others = tuple(one for one in DATASET.examples if one.patient != left_out)
        without = kept(replace(DATASET, examples=others), 2)
        assert without == {name: images for name, images in whole.items() if name != left_out}


def test_the_order_of_the_table_does_not_matter() -> None:
    turned = replace(DATASET, examples=DATASET.examples[::-1])
    assert kept(turned, 2) == kept(DATASET, 2)


def test_images_keep_their_order() -> None:
    positions = [DATASET.examples.index(example) for example in capped(DATASET, 2).examples]
    assert positions == sorted(positions)


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(DataError):
        capped(DATASET, 0)
