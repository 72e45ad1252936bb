from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from fedhelp_client.data.cohort import PhantomCohort
from fedhelp_client.data.folder import load_folder, load_images
from fedhelp_client.data.simulation import read_source, simulate_federation
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitImpossible, SplitPlan
from fedhelp_client.data.types import FolderRefused, Task, check_disjoint

PLAN = SplitPlan(large=1, small=2)


def source(task: Task = "classification", seed: int = 0) -> Source:
    return Source("phantom", "Data: a phantom.", PhantomCohort(60, seed=seed, task=task))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulation") / "out"
    simulate_federation(source(), out, task="classification", plan=PLAN, seed=0)
    return out


def test_no_patient_is_at_two_places(simulated: Path) -> None:
    folders = {path.name: path for path in (simulated / "hospitals").iterdir()}
    assert sorted(folders) == ["large-1", "small-1", "small-2"]
    folders["test"] = simulated / "test"
    places = {
        name: load_folder(path, "classification").patients() for name, path in folders.items()
    }
    check_disjoint(places)
    assert 46 <= sum(len(patients) for patients in places.values()) <= 50


def test_the_proxy_set_is_images_alone(simulated: Path) -> None:
    assert {path.suffix for path in (simulated / "proxy").iterdir()} == {".png"}
    images = load_images(simulated / "proxy")
    assert len(images) == read_source(simulated).proxy_images
    elsewhere = {
        example.image.tobytes()
        for example in load_folder(simulated / "test", "classification").examples
    }
    assert not elsewhere & {image.tobytes() for image in images}


def test_the_proxy_sets_order_says_nothing(simulated: Path) -> None:
    cohort = PhantomCohort(60, seed=0, task="classification")
    labels: dict[bytes, int] = {
        example.image.tobytes(): example.label
        for example in cohort.at_nobody(patient.identifier for patient in cohort.patients())
    }
    order = [labels[image.tobytes()] for image in load_images(simulated / "proxy")]
    assert order != sorted(order)


def test_everything_is_the_owners(simulated: Path) -> None:
    for path in [simulated, *simulated.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_source_is_told(simulated: Path) -> None:
    document = read_source(simulated)
    assert document.dataset == "phantom"
    assert document.sentence == "Data: a phantom."
    assert document.classes == ("benign", "malignant", "normal")
    test = load_folder(simulated / "test", "classification")
    assert document.test_images == len(test.examples)


def test_segmentation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = simulate_federation(
        source("segmentation"), out, task="segmentation", plan=PLAN, seed=0
    )
    assert written.classes == ("background", "lesion")
    dataset = load_folder(out / "hospitals" / "small-1", "segmentation")
    assert all(np.asarray(example.mask).any() for example in dataset.examples)


def test_the_same_seed_writes_the_same_bytes(simulated: Path, tmp_path: Path) -> None:
    simulate_federation(source(), tmp_path / "again", task="classification", plan=PLAN, seed=0)
    for path in simulated.rglob("*"):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(simulated)
            assert again.read_bytes() == path.read_bytes()


def test_an_empty_folder_is_filled_and_a_used_one_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(FolderRefused, match="not empty"):
        simulate_federation(source(), out, task="classification", plan=PLAN, seed=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    (out / "mine.txt").unlink()
    simulate_federation(source(), out, task="classification", plan=PLAN, seed=0)
    assert (out / "source.json").is_file()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SplitImpossible):
        simulate_federation(
            source(), tmp_path / "out", task="classification", plan=SplitPlan(small=30), seed=0
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderRefused, match="cannot be written"):
        simulate_federation(
            source(), tmp_path / "file" / "out", task="classification", plan=PLAN, seed=0
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_a_folder_that_no_simulation_wrote(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "source.json").write_text(content)
    with pytest.raises(FolderRefused, match="simulate first"):
        read_source(tmp_path)
