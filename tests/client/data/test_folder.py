from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from fedhelp_client.data.folder import (
    load_folder,
    load_images,
    read_content,
    write_folder,
    write_images,
)
from fedhelp_client.data.types import (
    DataError,
    Dataset,
    FolderRefused,
    ImageRefused,
    PatientAtTwoPlaces,
    PatientUnderTwoNames,
)


@pytest.fixture
def folder(tmp_path: Path, phantom: Dataset) -> Path:
    path = tmp_path / "hospital"
    write_folder(replace(phantom, examples=phantom.examples[:4]), path)
    return path


def edit(folder: Path, old: str, new: str) -> None:
    table = folder / "labels.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))


def test_what_is_written_is_read_back(tmp_path: Path, phantom: Dataset) -> None:
    write_folder(phantom, tmp_path / "out")
    read = load_folder(tmp_path / "out", "classification", classes=phantom.classes)
    assert read.classes == phantom.classes
    for ours, theirs in zip(phantom.examples, read.examples, strict=True):
        assert (ours.label, ours.patient) == (theirs.label, theirs.patient)
        assert np.array_equal(ours.image, theirs.image)
        assert theirs.mask is not None
        assert np.array_equal(np.asarray(ours.mask), theirs.mask)


def test_only_the_owner_may_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_classes_default_to_the_labels_that_occur(folder: Path) -> None:
    dataset = load_folder(folder, "classification")
    assert dataset.classes == tuple(sorted(dataset.classes))
    assert {example.label for example in dataset.examples} == set(range(len(dataset.classes)))


def test_segmentation_has_the_classes_of_a_pixel(folder: Path) -> None:
    dataset = load_folder(folder, "segmentation")
    assert dataset.classes == ("background", "lesion")
    for example in dataset.examples:
        assert example.mask is not None
        assert example.label == int(example.mask.any())


def test_colour_and_jpeg_are_read_as_grey(folder: Path) -> None:
    with Image.open(folder / "image-00001.png") as image:
        image.convert("RGB").save(folder / "colour.jpg", quality=95)
    edit(folder, "image-00001.png", "colour.jpg")
    edit(folder, "image-00001-mask.png", "")
    dataset = load_folder(folder, "classification")
    assert dataset.examples[0].image.ndim == 2


def test_a_file_is_never_overwritten(folder: Path, phantom: Dataset) -> None:
    before = (folder / "labels.csv").read_bytes()
    with pytest.raises(FolderRefused, match="already exists"):
        write_folder(phantom, folder)
    assert (folder / "labels.csv").read_bytes() == before


def test_nothing_to_write_makes_no_folder(tmp_path: Path, phantom: Dataset) -> None:
    with pytest.raises(FolderRefused, match="no image"):
        write_folder(replace(phantom, examples=()), tmp_path / "empty")
    with pytest.raises(FolderRefused, match="no image"):
        write_images([], tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def unreadable(folder: Path) -> None:
    (folder / "image-00002.png").write_bytes(b"no image at all")


def truncated(folder: Path) -> None:
    data = (folder / "image-00002.png").read_bytes()
    (folder / "image-00002.png").write_bytes(data[: len(data) // 2])


def absent(folder: Path) -> None:
    (folder / "image-00002.png").unlink()


def replaced_by(mode: str, size: tuple[int, int]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        Image.new(mode, size).save(folder / "image-00002.png")

    return act


def edited(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, old, new)


def last_column(name: str, cells: Callable[[int], str]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        table = folder / "labels.csv"
        header, *lines = table.read_text().splitlines()
        lines = [f"{line},{cells(number)}" for number, line in enumerate(lines)]
        table.write_text("\n".join([f"{header},{name}", *lines]) + "\n")

    return act


def same_patient_twice(folder: Path) -> None:
    table = folder / "labels.csv"
    header, *lines = table.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    rows[1][2] = rows[0][2]
    lines = [",".join([*row, f"site-{number}"]) for number, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},hospital", *lines]) + "\n")


def linked_outside(folder: Path) -> None:
    outside = folder.parent / "outside.png"
    (folder / "image-00002.png").rename(outside)
    (folder / "image-00002.png").symlink_to(outside)


def small_mask(folder: Path) -> None:
    Image.new("L", (32, 32)).save(folder / "image-00002-mask.png")


def no_patient(folder: Path) -> None:
    table = folder / "labels.csv"
    header, first, second, *rest = table.read_text().splitlines()
    image, label, _, mask = second.split(",")
    table.write_text("\n".join([header, first, f"{image},{label}, ,{mask}", *rest]) + "\n")


BAD = [
    ("no table", lambda folder: (folder / "labels.csv").unlink(), FolderRefused, "holds no labels"),
    ("empty table", edited("image,label", "image\nlabel"), FolderRefused, "columns"),
    ("unknown column", edited("patient_id", "patient"), FolderRefused, "columns"),
    ("extra column", last_column("weight", str), FolderRefused, "columns"),
    ("missing cell", edited("image-00001-mask.png\n", "x,y\n"), FolderRefused, "line 2.*cells"),
    (
        "not UTF-8",
        lambda folder: (folder / "labels.csv").write_bytes(b"\xff\xfe\x00"),
        FolderRefused,
        "UTF-8",
    ),
    ("no patient", no_patient, FolderRefused, "line 3: patient_id is empty"),
    ("no name", edited("image-00002.png", ""), FolderRefused, "line 3.*empty"),
    ("listed twice", edited("image-00002.png", "image-00001.png"), FolderRefused, "listed twice"),
    ("unreadable", unreadable, ImageRefused, r"image-00002\.png cannot be read"),
    ("truncated", truncated, ImageRefused, r"image-00002\.png cannot be read"),
    ("absent", absent, ImageRefused, r"image-00002\.png does not exist"),
    ("too small", replaced_by("L", (15, 200)), ImageRefused, r"image-00002\.png is smaller"),
    ("too large", replaced_by("L", (4097, 20)), ImageRefused, r"image-00002\.png is larger"),
    ("bomb", replaced_by("1", (16000, 16000)), ImageRefused, r"image-00002\.png is larger"),
    ("16 bit", replaced_by("I;16", (40, 40)), ImageRefused, r"image-00002\.png has more than 8"),
    ("escaping", edited("image-00002.png", "../image.png"), FolderRefused, "leaves the data"),
    ("absolute", edited("image-00002.png", "/etc/passwd"), FolderRefused, "leaves the data"),
    ("null byte", edited("image-00002.png", "a\0.png"), FolderRefused, "line 3|UTF-8"),
    ("link outside", linked_outside, FolderRefused, "leaves the data"),
    ("mask's size", small_mask, ImageRefused, r"image-00002-mask\.png has another size"),
    ("two hospitals", same_patient_twice, PatientAtTwoPlaces, "1 patient.*site-0, site-1"),
]


@pytest.mark.parametrize(
    ("damage", "error", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_folders(
    folder: Path, damage: Callable[[Path], None], error: type[DataError], message: str
) -> None:
    patients = {example.patient for example in load_folder(folder, "classification").examples}
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load_folder(folder, "segmentation")
    assert not any(patient in str(caught.value) for patient in patients)


def test_a_label_outside_the_charter_is_refused_without_saying_it(folder: Path) -> None:
    dataset = load_folder(folder, "classification")
    edit(folder, f",{dataset.classes[dataset.examples[1].label]},", ",secret,")
    with pytest.raises(FolderRefused, match=r"line \d: the label is none of") as caught:
        load_folder(folder, "classification", classes=("benign", "malignant", "normal"))
    assert "secret" not in str(caught.value)


def test_a_missing_mask_matters_for_segmentation_only(folder: Path) -> None:
    edit(folder, "image-00002-mask.png", "")
    assert load_folder(folder, "classification").examples[1].mask is None
    with pytest.raises(FolderRefused, match=r"image-00002\.png has no mask"):
        load_folder(folder, "segmentation")


def test_patients_of_separate_hospitals_pass(folder: Path) -> None:
    patients = [example.patient for example in load_folder(folder, "classification").examples]
    last_column("hospital", lambda number: f"site-{patients[number]}")(folder)
    assert len(load_folder(folder, "segmentation").examples) == len(patients)


def test_images_without_a_table(tmp_path: Path, phantom: Dataset) -> None:
    images = [example.image for example in phantom.examples[:3]]
    write_images(images, tmp_path / "proxy")
    read = load_images(tmp_path / "proxy")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(images, read, strict=True))


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FolderRefused, match="holds no image"):
        load_images(tmp_path)
    with pytest.raises(FolderRefused, match="not a readable folder"):
        load_images(tmp_path / "absent")


def dicom_folder(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm"):
        sample = get_testdata_file(name, download=False)
        assert isinstance(sample, str)
        shutil.copy(sample, folder / name)
    (folder / "labels.csv").write_text("\n".join(["image,label,patient_id,frame", *lines]))
    return folder


def test_a_folder_of_dicom_files(tmp_path: Path) -> None:
    lines = ["CT_small.dcm,benign,p1,", "MR_small.dcm,malignant,p2,1"]
    folder = dicom_folder(tmp_path / "d", [*lines, "examples_ybr_color.dcm,benign,p3,"])
    content = read_content(folder, "classification")
    examples = content.dataset.examples
    assert [example.image.shape for example in examples[:2]] == [(128, 128), (64, 64)]
    assert [example.patient for example in examples[2:]] == ["p3"] * 30
    assert content.names[0] == "CT_small.dcm"
    assert content.names[2] == "examples_ybr_color.dcm, slice 1"
    assert content.notes[0].startswith("examples_ybr_color.dcm: the file does not say whether")


def test_frames_of_one_file_can_have_labels_of_their_own(tmp_path: Path) -> None:
    lines = [f"examples_ybr_color.dcm,{label},p3,{frame}" for label, frame in (("a", 2), ("b", 30))]
    dataset = load_folder(dicom_folder(tmp_path / "d", lines), "classification")
    assert [example.label for example in dataset.examples] == [0, 1]
    whole = dicom_folder(tmp_path / "w", ["examples_ybr_color.dcm,a,p3,"])
    slices = load_folder(whole, "classification").examples
    np.testing.assert_array_equal(dataset.examples[0].image, slices[1].image)
    np.testing.assert_array_equal(dataset.examples[1].image, slices[29].image)


@pytest.mark.parametrize("frame", ["0", "31", "-1", "1.5", "x", "999999"])
def test_a_frame_that_is_not_there(tmp_path: Path, frame: str) -> None:
    folder = dicom_folder(tmp_path / "d", [f"examples_ybr_color.dcm,a,p,{frame}"])
    with pytest.raises(FolderRefused, match=r"line 2.*frame"):
        load_folder(folder, "classification")


@pytest.mark.parametrize("frames", [("2", "2"), ("", "2")])
def test_a_frame_that_is_listed_twice(tmp_path: Path, frames: tuple[str, str]) -> None:
    lines = [f"examples_ybr_color.dcm,a,p,{frame}" for frame in frames]
    with pytest.raises(FolderRefused, match="listed twice"):
        load_folder(dicom_folder(tmp_path / "d", lines), "classification")


def test_one_dicom_patient_under_two_identifiers_is_refused(tmp_path: Path) -> None:
    folder = dicom_folder(tmp_path / "d", ["CT_small.dcm,a,p1,", "MR_small.dcm,b,p2,"])
    load_folder(folder, "classification")
    dataset = dcmread(folder / "MR_small.dcm")
    owner = dcmread(folder / "CT_small.dcm")
    dataset.PatientID = owner.PatientID
    dataset.save_as(folder / "MR_small.dcm")
    with pytest.raises(PatientUnderTwoNames, match="same patient_id") as refused:
        load_folder(folder, "classification")
    assert str(owner.PatientID) not in str(refused.value)


def test_blank_slices_of_a_volume_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    values = np.zeros((20, 20, 4), dtype=np.uint8)
    values[4:9, 4:9, 1:3] = 200
    for name in ("image", "mask"):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii")
    (folder / "labels.csv").write_text(
        "image,label,patient_id,mask\nimage.nii,a,p1,mask.nii\n", encoding="utf-8"
    )
    content = read_content(folder, "segmentation")
    assert content.names == ("image.nii, slice 2", "image.nii, slice 3")
    masks = [example.mask for example in content.dataset.examples]
    assert all(mask is not None and mask.sum() == 25 for mask in masks)
