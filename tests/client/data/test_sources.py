from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_client.data.breastmnist import BreastMnistUnavailable
from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.sources import Request, resolve
from fedhelp_client.data.types import DataError, Dataset

NOTHING = Request(dataset=None, data=None, task="classification", seed=0)


@pytest.fixture(autouse=True)
def _no_downloader(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the medmnist package: a test never goes to the network."""
    monkeypatch.setitem(sys.modules, "medmnist", None)


@pytest.fixture
def folder(tmp_path: Path, phantom: Dataset) -> Path:
    write_folder(phantom, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def breastmnist(tmp_path: Path) -> Path:
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = np.zeros((2, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = np.array([[0], [1]], np.uint8)
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "breastmnist.npz", allow_pickle=True, **arrays)
    return tmp_path / "mnist"


def test_the_option_comes_before_the_variable(tmp_path: Path, folder: Path, busi: Path) -> None:
    environment = {"FEDHELP_DATA": str(busi)}
    by_option = resolve(replace(NOTHING, data=folder), environment=environment, home=tmp_path)
    by_variable = resolve(NOTHING, environment=environment, home=tmp_path)
    assert by_option.dataset == "folder"
    assert "--data" in by_option.sentence
    assert str(folder) in by_option.sentence
    assert by_variable.dataset == "busi"
    assert "FEDHELP_DATA" in by_variable.sentence


def test_each_kind_is_recognised(
    tmp_path: Path, folder: Path, busi: Path, breastmnist: Path
) -> None:
    expected = {
        folder: "folder",
        busi: "busi",
        busi / "Dataset_BUSI_with_GT": "busi",
        breastmnist: "breastmnist",
        breastmnist / "breastmnist.npz": "breastmnist",
    }
    for path, name in expected.items():
        source = resolve(replace(NOTHING, data=path), environment={}, home=tmp_path)
        assert source.dataset == name
        assert "real images" in source.sentence


def test_breastmnist_says_what_a_patient_is(tmp_path: Path, breastmnist: Path) -> None:
    source = resolve(replace(NOTHING, data=breastmnist), environment={}, home=tmp_path)
    assert "each image counts as one" in source.sentence


def test_without_anything_the_phantom_says_so(tmp_path: Path) -> None:
    source = resolve(NOTHING, environment={}, home=tmp_path)
    assert source.dataset == "phantom"
    assert "no real one" in source.sentence
    assert "BreastMNIST cannot be had" in source.sentence
    assert not (tmp_path / ".medmnist").exists()


def test_segmentation_does_not_ask_for_breastmnist(tmp_path: Path) -> None:
    source = resolve(replace(NOTHING, task="segmentation"), environment={}, home=tmp_path)
    assert source.dataset == "phantom"
    assert "has no masks" in source.sentence


def test_the_phantom_may_be_asked_for(tmp_path: Path, busi: Path) -> None:
    request = replace(NOTHING, dataset="phantom")
    source = resolve(request, environment={"FEDHELP_DATA": str(busi)}, home=tmp_path)
    assert source.dataset == "phantom"


def test_segmentation_takes_images_with_a_lesion_only(tmp_path: Path, busi: Path) -> None:
    request = replace(NOTHING, data=busi, task="segmentation")
    source = resolve(request, environment={}, home=tmp_path)
    assert {patient.label for patient in source.cohort.patients()} == {0, 1}


@pytest.mark.parametrize("dataset", ["busi", "folder"])
def test_a_named_dataset_needs_its_folder(tmp_path: Path, dataset: str) -> None:
    request = Request(dataset=dataset, data=None, task="classification", seed=0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="needs a folder"):
        resolve(request, environment={}, home=tmp_path)


def test_a_named_dataset_never_becomes_the_phantom(tmp_path: Path) -> None:
    with pytest.raises(BreastMnistUnavailable):
        resolve(replace(NOTHING, dataset="breastmnist"), environment={}, home=tmp_path)
    assert not (tmp_path / ".medmnist").exists()


def test_a_named_folder_never_becomes_the_phantom(tmp_path: Path, breastmnist: Path) -> None:
    (tmp_path / "empty").mkdir()
    refusals = [
        (replace(NOTHING, data=tmp_path / "empty"), "holds neither"),
        (replace(NOTHING, data=tmp_path / "absent"), "does not exist"),
        (replace(NOTHING, data=tmp_path, dataset="phantom"), "needs no --data"),
        (replace(NOTHING, data=breastmnist, dataset="busi"), "Dataset_BUSI_with_GT"),
        (replace(NOTHING, data=breastmnist, task="segmentation"), "mask"),
    ]
    for request, message in refusals:
        with pytest.raises(DataError, match=message):
            resolve(request, environment={}, home=tmp_path)
