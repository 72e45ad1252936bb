from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedhelp_client.data.busi import load_busi
from fedhelp_client.data.types import DataError, FolderRefused, ImageRefused

FOLDER = "Dataset_BUSI_with_GT"


def group(busi: Path, *, patient: Callable[[int], str]) -> None:
    names = sorted(
        f"{path.parent.name}/{path.name}"
        for path in (busi / FOLDER).glob("*/*.png")
        if "mask" not in path.name
    )
    lines = [f"{name},x,{patient(number)},1" for number, name in enumerate(names)]
    (busi / "groups.csv").write_text("\n".join(["image,label,patient_id,masks", *lines]) + "\n")


def test_published_patients(busi: Path) -> None:
    group(busi, patient=lambda number: f"p{number // 2}")
    dataset = load_busi(busi)
    assert dataset.classes == ("benign", "malignant", "normal")
    assert [example.label for example in dataset.examples] == [0, 0, 1, 1, 2, 2]
    assert [example.patient for example in dataset.examples] == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_all_masks_of_an_image_are_united(busi: Path) -> None:
    first, second = load_busi(busi).examples[:2]
    assert first.mask is not None
    assert second.mask is not None
    assert first.mask[-4:, -4:].all()
    assert first.mask.sum() > 16
    assert not second.mask[-4:, -4:].any()
    assert set(np.unique(first.mask)) == {0, 1}


def test_the_inner_folder_may_be_given(busi: Path) -> None:
    group(busi, patient=lambda number: f"p{number}")
    assert load_busi(busi / FOLDER).patients() == load_busi(busi).patients()


def test_without_groups_alike_images_are_one_patient(busi: Path) -> None:
    assert len(load_busi(busi).patients()) == 6
    with Image.open(busi / FOLDER / "benign" / "benign (1).png") as image:
        lighter = image.point(lambda value: min(255, int(value * 1.1)))
    lighter.save(busi / FOLDER / "malignant" / "malignant (2).png")
    dataset = load_busi(busi)
    assert len(dataset.patients()) == 5
    assert dataset.examples[0].patient == dataset.examples[3].patient


def test_a_normal_image_needs_no_mask(busi: Path) -> None:
    (busi / FOLDER / "normal" / "normal (1)_mask.png").unlink()
    mask = load_busi(busi).examples[4].mask
    assert mask is not None
    assert not mask.any()


def without(name: str) -> Callable[[Path], None]:
    return lambda busi: (busi / FOLDER / name).unlink()


def empty_class(busi: Path) -> None:
    for path in (busi / FOLDER / "normal").iterdir():
        path.unlink()


def renamed_class(busi: Path) -> None:
    (busi / FOLDER / "normal").rename(busi / FOLDER / "healthy")


def unlisted(busi: Path) -> None:
    group(busi, patient=lambda number: f"p{number}")
    lines = (busi / "groups.csv").read_text().splitlines()
    (busi / "groups.csv").write_text("\n".join(lines[:-1]) + "\n")


def anonymous(busi: Path) -> None:
    group(busi, patient=lambda number: "p" if number else "")


def no_table(busi: Path) -> None:
    (busi / "groups.csv").write_text("nothing,of,use\n1,2,3\n")


BAD = [
    (without("benign/benign (2)_mask.png"), ImageRefused, r"benign \(2\)_mask\.png does not exist"),
    (empty_class, FolderRefused, r"no image named 'normal"),
    (renamed_class, FolderRefused, "benign, malignant, normal"),
    (unlisted, FolderRefused, "exactly once"),
    (anonymous, FolderRefused, "exactly once"),
    (no_table, FolderRefused, "groups.csv is no CSV"),
]


@pytest.mark.parametrize(("damage", "error", "message"), BAD)
def test_bad_layouts(
    busi: Path, damage: Callable[[Path], None], error: type[DataError], message: str
) -> None:
    damage(busi)
    with pytest.raises(error, match=message):
        load_busi(busi)
