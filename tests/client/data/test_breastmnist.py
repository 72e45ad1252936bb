from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_client.data.breastmnist import (
    BreastMnistUnavailable,
    load_breastmnist,
    obtain_breastmnist,
)
from fedhelp_client.data.types import DataError


def arrays() -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    made: dict[str, NDArray[np.generic]] = {}
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        made[f"{part}_images"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[f"{part}_labels"] = random.integers(0, 2, (count, 1), dtype=np.uint8)
    return made


def write(path: Path, content: dict[str, NDArray[np.generic]]) -> Path:
    np.savez(path, allow_pickle=True, **content)
    return path


def test_every_image_is_a_patient(tmp_path: Path) -> None:
    content = arrays()
    write(tmp_path / "breastmnist.npz", content)
    for given in (tmp_path, tmp_path / "breastmnist.npz"):
        dataset = load_breastmnist(given)
        assert dataset.classes == ("malignant", "normal-or-benign")
        assert len(dataset.examples) == len(dataset.patients()) == 10
        assert np.array_equal(dataset.examples[5].image, content["val_images"][0])
        assert dataset.examples[5].label == int(content["val_labels"][0, 0])


def test_a_picture_that_is_there_twice_is_of_one_patient(tmp_path: Path) -> None:
    content = arrays()
    content["test_images"][1] = content["train_images"][3]
    dataset = load_breastmnist(write(tmp_path / "breastmnist.npz", content))
    assert len(dataset.examples) == 10
    assert len(dataset.patients()) == 9
    assert dataset.examples[8].patient == dataset.examples[3].patient == "train-0003"


BAD: list[tuple[str, NDArray[np.generic]]] = [
    ("train_images", np.zeros((5, 28, 28))),
    ("train_images", np.zeros((5, 28), np.uint8)),
    ("train_images", np.zeros((5, 8, 8), np.uint8)),
    ("train_labels", np.zeros((4, 1), np.uint8)),
    ("train_labels", np.full((5, 1), 2, np.uint8)),
    ("train_labels", np.zeros((5, 1), np.float64)),
    ("train_labels", np.array([[{"a": 1}]] * 5, dtype=object)),
]


@pytest.mark.parametrize(("name", "replacement"), BAD)
def test_other_arrays_are_refused(
    tmp_path: Path, name: str, replacement: NDArray[np.generic]
) -> None:
    path = write(tmp_path / "breastmnist.npz", arrays() | {name: replacement})
    with pytest.raises(DataError, match="of MedMNIST; download it again"):
        load_breastmnist(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "breastmnist.npz").write_bytes(content)
    with pytest.raises(DataError, match="of MedMNIST; download it again"):
        load_breastmnist(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_breastmnist(tmp_path)


def test_a_file_that_is_not_the_official_one_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / ".medmnist").mkdir()
    write(tmp_path / ".medmnist" / "breastmnist.npz", arrays())
    with pytest.raises(BreastMnistUnavailable, match="not the official"):
        obtain_breastmnist(tmp_path)


def test_the_downloaders_failure_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Something went wrong when downloading!")

    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(BreastMNIST=fail))
    with pytest.raises(BreastMnistUnavailable, match="cannot be downloaded"):
        obtain_breastmnist(tmp_path)


def test_the_downloaders_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*, split: str, download: bool, root: str) -> None:
        assert (split, download) == ("train", True)
        write(Path(root) / "breastmnist.npz", arrays())

    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(BreastMNIST=download))
    with pytest.raises(BreastMnistUnavailable, match="not the official"):
        obtain_breastmnist(tmp_path)
