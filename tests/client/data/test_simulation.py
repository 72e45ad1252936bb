from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhelp_client.data.cohort import ImageCohort, PhantomCohort
from fedhelp_client.data.folder import load_folder, load_images
from fedhelp_client.data.simulation import read_source, simulate_federation
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitImpossible, SplitPlan
from fedhelp_client.data.types import DataError, Dataset, FolderRefused, Task, check_disjoint

PLAN = SplitPlan(large=1, small=2)


@pytest.fixture(scope="module")
def published() -> Dataset:
    """60 patients whose pseudonyms sort by class, as a dataset that lists class after class."""
    cohort = PhantomCohort(60, seed=0, task="classification")
    examples = cohort.at_nobody(patient.identifier for patient in cohort.patients())
    renamed = (
        replace(example, patient=f"{example.label}-{example.patient}") for example in examples
    )
    return Dataset("phantom", cohort.classes, tuple(renamed))


def source(dataset: Dataset) -> Source:
    return Source("phantom", "Data: a phantom.", ImageCohort(dataset, seed=0))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, published: Dataset) -> Path:
    out = tmp_path_factory.mktemp("simulation") / "out"
    simulate_federation(source(published), out, task="classification", plan=PLAN, seed=0)
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


def test_the_proxy_sets_order_says_nothing(simulated: Path, published: Dataset) -> None:
    labels = {example.image.tobytes(): example.label for example in published.examples}
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


def test_segmentation(tmp_path: Path, published: Dataset) -> None:
    out = tmp_path / "out"
    lesions = source(published.with_lesions())
    written = simulate_federation(lesions, out, task="segmentation", plan=PLAN, seed=0)
    assert written.classes == ("background", "lesion")
    dataset = load_folder(out / "hospitals" / "small-1", "segmentation")
    assert all(np.asarray(example.mask).any() for example in dataset.examples)


def test_the_phantoms_hospitals_have_scanners_of_their_own(tmp_path: Path) -> None:
    phantom = Source("phantom", "Data.", PhantomCohort(36, seed=1, task="segmentation"))
    plan = SplitPlan(large=1, small=1)
    simulate_federation(phantom, tmp_path / "out", task="segmentation", plan=plan, seed=1)
    first, second = (
        load_folder(tmp_path / "out" / "hospitals" / name, "segmentation")
        for name in plan.hospitals()
    )
    corners = [
        {bool(example.image[0, :20].any()) for example in dataset.examples}
        for dataset in (first, second)
    ]
    # Within one hospital either all pictures are trapezoids or none is.
    assert all(len(kinds) == 1 for kinds in corners)


def test_the_same_seed_writes_the_same_bytes(
    simulated: Path, tmp_path: Path, published: Dataset
) -> None:
    again = tmp_path / "again"
    simulate_federation(source(published), again, task="classification", plan=PLAN, seed=0)
    files = [path for path in simulated.rglob("*") if path.is_file()]
    for path in files:
        assert (again / path.relative_to(simulated)).read_bytes() == path.read_bytes()
    assert len(files) == len([path for path in again.rglob("*") if path.is_file()])


def test_an_empty_folder_is_filled_and_a_used_one_left_alone(
    tmp_path: Path, published: Dataset
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(FolderRefused, match="not empty"):
        simulate_federation(source(published), out, task="classification", plan=PLAN, seed=0)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]
    (out / "mine.txt").unlink()
    simulate_federation(source(published), out, task="classification", plan=PLAN, seed=0)
    assert (out / "source.json").is_file()


def without_masks(dataset: Dataset) -> Dataset:
    return replace(
        dataset, examples=tuple(replace(example, mask=None) for example in dataset.examples)
    )


def test_a_failure_leaves_nothing(tmp_path: Path, published: Dataset) -> None:
    (tmp_path / "file").write_text("")
    good, bare = source(published), source(without_masks(published))
    failures: list[tuple[Source, Path, Task, SplitPlan, type[DataError]]] = [
        (good, tmp_path / "out", "classification", SplitPlan(small=30), SplitImpossible),
        (good, tmp_path / "file" / "out", "classification", PLAN, FolderRefused),
        (bare, tmp_path / "out", "segmentation", PLAN, DataError),
    ]
    for data, out, task, plan, error in failures:
        with pytest.raises(error):
            simulate_federation(data, out, task=task, plan=plan, seed=0)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [None, "{}", "no JSON"])
def test_a_folder_that_no_simulation_wrote(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "source.json").write_text(content)
    with pytest.raises(FolderRefused, match="simulate first"):
        read_source(tmp_path)


def test_hospitals_may_have_dicom_files(
    published: Dataset, simulated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    simulate_federation(
        source(published), out, task="classification", plan=PLAN, seed=0, dicom=True
    )
    for plain in (simulated / "hospitals").iterdir():
        dicom = out / "hospitals" / plain.name
        first, second = (load_folder(folder, "classification") for folder in (plain, dicom))
        assert len(first.examples) == len(second.examples) > 0
        for one, other in zip(first.examples, second.examples, strict=True):
            assert (one.label, one.patient) == (other.label, other.patient)
            assert np.array_equal(one.image, other.image)
        assert len(list(dicom.glob("*.dcm"))) == len(second.examples)
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in dicom.iterdir())
