from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_client.data import duplicates
from fedhelp_client.data.duplicates import check_no_duplicates, find_duplicates
from fedhelp_client.data.folder import load_folder, read_folder, write_folder
from fedhelp_client.data.types import Dataset, Example, PatientUnderTwoNames


def picture(number: int) -> NDArray[np.uint8]:
    """Smooth enough that a difference hash says something, and different for each number."""
    rows, columns = np.mgrid[0:40, 0:48]
    random = np.random.default_rng(number)
    waves = sum(
        random.uniform(10, 30) * np.sin(random.uniform(0.05, 0.4) * axis + random.uniform(0, 6))
        for axis in (rows, columns, rows + columns, rows - columns)
    )
    grey: NDArray[np.uint8] = np.clip(128 + waves, 0, 255).astype(np.uint8)
    return grey


def dataset_of(*pairs: tuple[str, NDArray[np.uint8]]) -> Dataset:
    return Dataset("d", ("a", "b"), tuple(Example(image, 0, patient) for patient, image in pairs))


DIFFERENT = dataset_of(("p1", picture(1)), ("p2", picture(2)), ("p3", picture(3)))


def test_different_patients_are_let_through() -> None:
    assert find_duplicates(DIFFERENT) == ()
    check_no_duplicates(DIFFERENT, "the folder")


def test_a_picture_twice_of_one_patient_is_no_concern() -> None:
    same = dataset_of(("p1", picture(1)), ("p1", picture(1)), ("p2", picture(2)))
    assert find_duplicates(same) == ()
    check_no_duplicates(same, "the folder")


def test_a_picture_of_two_patients_is_found_and_refused() -> None:
    shared = dataset_of(("p1", picture(1)), ("p2", picture(2)), ("p3", picture(1)))
    (pair,) = find_duplicates(shared)
    assert (pair.first, pair.second, pair.exact, pair.bits) == (0, 2, True, 0)
    with pytest.raises(PatientUnderTwoNames, match="fedhelp client data check the folder") as error:
        check_no_duplicates(shared, "the folder")
    # Errors are logged: nothing of a patient is in them.
    assert not any(name in str(error.value) for name in ("p1", "p3", "2", "image-"))


def test_a_picture_that_only_looks_the_same_is_found_and_let_through() -> None:
    noisy = picture(1).astype(np.int16) + np.random.default_rng(9).integers(-2, 3, (40, 48))
    alike = dataset_of(("p1", picture(1)), ("p2", noisy.clip(0, 255).astype(np.uint8)))
    (pair,) = find_duplicates(alike)
    assert not pair.exact
    assert 0 <= pair.bits <= 20
    check_no_duplicates(alike, "the folder")


def test_the_same_pixels_in_another_shape_are_another_picture() -> None:
    shaped = dataset_of(("p1", picture(1)), ("p2", picture(1).reshape(48, 40)))
    check_no_duplicates(shaped, "the folder")


def test_blocks_of_rows_find_what_one_block_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [(f"p{n}", picture(n % 7)) for n in range(12)]
    whole = find_duplicates(dataset_of(*pictures))
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", 5)
    assert find_duplicates(dataset_of(*pictures)) == whole
    assert [(pair.first, pair.second) for pair in whole] == [(n, n + 7) for n in range(5)]


def test_a_folder_with_one_picture_of_two_patients_is_not_loaded(tmp_path: Path) -> None:
    shared = replace(DIFFERENT, examples=(*DIFFERENT.examples, Example(picture(2), 1, "p4")))
    write_folder(shared, tmp_path / "data")
    with pytest.raises(PatientUnderTwoNames):
        load_folder(tmp_path / "data", "classification")
    assert len(read_folder(tmp_path / "data", "classification").examples) == 4
