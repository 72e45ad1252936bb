"""DICOM as scanners write it (pydicom's own sample files) and as it can go wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from fedhelp_client.data.readers import read_picture
from fedhelp_client.data.types import ImageRefused


def sample(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def altered(target: Path, **values: object) -> Path:
    """A copy of a sample with other values; None removes an element."""
    dataset = dcmread(sample("MR_small.dcm"))
    for keyword, value in values.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target)
    return target


@pytest.mark.parametrize(
    ("name", "slices", "shape"),
    [
        ("CT_small.dcm", 1, (128, 128)),
        ("MR_small.dcm", 1, (64, 64)),
        ("MR_small_RLE.dcm", 1, (64, 64)),
        ("MR_small_bigendian.dcm", 1, (64, 64)),
        ("MR_small_implicit.dcm", 1, (64, 64)),
        ("MR_small_jp2klossless.dcm", 1, (64, 64)),
        ("MR_small_jpeg_ls_lossless.dcm", 1, (64, 64)),
        ("JPEG2000.dcm", 1, (1024, 256)),
        ("SC_rgb_jpeg_gdcm.dcm", 1, (100, 100)),
        ("SC_rgb_rle_16bit_2frame.dcm", 2, (100, 100)),
        ("SC_ybr_full_422_uncompressed.dcm", 1, (100, 100)),
        ("examples_palette.dcm", 1, (350, 800)),
        ("examples_rgb_color.dcm", 1, (240, 320)),
        ("examples_ybr_color.dcm", 30, (240, 320)),
        ("examples_overlay.dcm", 1, (300, 484)),
        ("liver_1frame.dcm", 1, (512, 512)),
    ],
)
def test_pydicom_s_samples_are_read(name: str, slices: int, shape: tuple[int, int]) -> None:
    picture = read_picture(sample(name), name)
    assert len(picture.slices) == slices
    assert {one.shape for one in picture.slices} == {shape}
    assert all(one.dtype == np.uint8 and one.min() < one.max() for one in picture.slices)


def test_every_encoding_of_one_image_gives_the_same_pixels() -> None:
    expected = read_picture(sample("MR_small.dcm"), "image").slices[0]
    for encoding in ("_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless"):
        found = read_picture(sample(f"MR_small{encoding}.dcm"), "image").slices[0]
        np.testing.assert_array_equal(found, expected)


def test_the_file_s_window_decides_what_is_black_and_white(tmp_path: Path) -> None:
    stored = dcmread(sample("MR_small.dcm")).pixel_array.astype(np.float64)
    path = altered(tmp_path / "w.dcm", WindowCenter="600", WindowWidth="401")
    shown = read_picture(path, "image").slices[0]
    # PS3.3 C.11.2.1.2.1: below c - 0.5 - (w - 1) / 2 is black, above c - 0.5 + (w - 1) / 2 white.
    assert (shown[stored <= 399] == 0).all()
    assert (shown[stored > 800] == 255).all()
    between = (stored > 450) & (stored < 750)
    expected = ((stored - 599.5) / 400 + 0.5) * 255
    assert np.abs(shown[between] - expected[between]).max() <= 1
    whole = altered(tmp_path / "n.dcm", WindowCenter=None, WindowWidth=None)
    stretched = read_picture(whole, "image").slices[0]
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_rescaling_comes_before_the_window(tmp_path: Path) -> None:
    plain = read_picture(altered(tmp_path / "a.dcm", WindowCenter="600", WindowWidth="401"), "a")
    rescaled = altered(
        tmp_path / "b.dcm",
        RescaleSlope="2",
        RescaleIntercept="-1024",
        WindowCenter=str(600 * 2 - 1024 - 0.5),
        WindowWidth="801",
    )
    difference = plain.slices[0].astype(int) - read_picture(rescaled, "b").slices[0].astype(int)
    assert np.abs(difference).max() <= 1


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    path = altered(tmp_path / "m.dcm", PhotometricInterpretation="MONOCHROME1")
    inverted = read_picture(path, "image").slices[0]
    upright = read_picture(sample("MR_small.dcm"), "image").slices[0]
    np.testing.assert_array_equal(inverted, 255 - upright)


def test_padding_is_black_and_does_not_stretch(tmp_path: Path) -> None:
    dataset = dcmread(sample("MR_small.dcm"))
    pixels = dataset.pixel_array.copy()
    pixels[:4] = -2000
    dataset.PixelData = pixels.tobytes()
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    del dataset.WindowCenter, dataset.WindowWidth
    dataset.save_as(tmp_path / "p.dcm")
    shown = read_picture(tmp_path / "p.dcm", "image").slices[0]
    assert (shown[:4] == 0).all()
    assert (shown[4:].min(), shown[4:].max()) == (0, 255)


def test_each_frame_of_an_enhanced_object_has_its_own_window(tmp_path: Path) -> None:
    dataset = dcmread(sample("MR_small.dcm"))
    one = dataset.pixel_array
    dataset.PixelData = np.stack([one, one]).tobytes()
    dataset.NumberOfFrames = 2
    groups = []
    for center in ("300", "1200"):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = center, "400"
        group = Dataset()
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.save_as(tmp_path / "e.dcm")
    bright, dark = read_picture(tmp_path / "e.dcm", "image").slices
    assert bright.mean() > dark.mean() + 20


def series(folder: Path, positions: list[float], **values: object) -> Path:
    """A folder of single slices, named against their order; the pixel [0, 0] tells them apart."""
    folder.mkdir()
    for number, position in enumerate(positions):
        path = folder / f"{len(positions) - number}.dcm"
        altered(
            path, ImagePositionPatient=[0, 0, position], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
        )
        dataset = dcmread(path)
        dataset.InstanceNumber = len(positions) - number
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        pixels = dataset.pixel_array.copy()
        pixels[0, 0] = 400 + 200 * number
        dataset.PixelData = pixels.tobytes()
        dataset.WindowCenter, dataset.WindowWidth = "700", "1400"
        dataset.save_as(path)
    return folder


def test_a_series_is_ordered_along_the_patient(tmp_path: Path) -> None:
    slices = read_picture(series(tmp_path / "s", [10.0, -5.0, 2.5]), "s").slices
    marks = np.argsort([int(one[0, 0]) for one in slices])
    # Written 10.0, -5.0, 2.5 with growing marks; read -5.0, 2.5, 10.0.
    assert marks.tolist() == [2, 0, 1]


def test_two_series_or_two_patients_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", [0.0, 1.0])
    path = folder / "1.dcm"
    dataset = dcmread(path)
    dataset.SeriesInstanceUID = "1.2.3"
    dataset.save_as(path)
    with pytest.raises(ImageRefused, match="several series or patients"):
        read_picture(folder, "s")
    other = series(tmp_path / "t", [0.0, 1.0])
    dataset = dcmread(other / "1.dcm")
    dataset.PatientID = "somebody-else"
    dataset.save_as(other / "1.dcm")
    with pytest.raises(ImageRefused, match="several series or patients") as refused:
        read_picture(other, "t")
    assert "somebody-else" not in str(refused.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageRefused, match="holds no DICOM file"):
        read_picture(tmp_path / "empty", "empty")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("test-SR.dcm", "without an image"),
        ("rtplan.dcm", "without an image"),
        ("waveform_ecg.dcm", "without an image"),
        ("MR_truncated.dcm", "cannot be decoded"),
        ("SC_rgb_jpeg.dcm", "cannot be decoded"),
        ("no_meta.dcm", "cannot be read as DICOM"),
        ("SC_rgb_small_odd.dcm", "smaller than 16 pixels"),
        ("badVR.dcm", "cannot be read as DICOM"),
    ],
)
def test_what_is_no_usable_image_is_refused_by_name(name: str, sentence: str) -> None:
    with pytest.raises(ImageRefused, match=sentence) as refused:
        read_picture(sample(name), f"folder/{name}")
    assert str(refused.value).startswith(f"folder/{name}")


@pytest.mark.parametrize("rows", [5000, 65535])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, rows: int) -> None:
    with pytest.raises(ImageRefused, match="larger than 4096"):
        read_picture(altered(tmp_path / "b.dcm", Rows=rows), "b")
    with pytest.raises(ImageRefused, match="slices"):
        read_picture(altered(tmp_path / "f.dcm", NumberOfFrames=100_000), "f")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"BurnedInAnnotation": "YES"}, "says that text is burned"),
        ({"BurnedInAnnotation": "NO", "Modality": "US"}, ""),
        ({"Modality": "US"}, "does not say whether"),
        ({}, ""),
    ],
)
def test_burned_in_text_is_pointed_out(
    tmp_path: Path, values: dict[str, object], expected: str
) -> None:
    notes = read_picture(altered(tmp_path / "n.dcm", **values), "n").notes
    assert len(notes) == (1 if expected else 0)
    assert all(expected in note for note in notes)


def test_a_picture_holds_no_metadata(tmp_path: Path) -> None:
    path = altered(tmp_path / "x.dcm", PatientName="Doe^Jane", PatientID="4711")
    picture = read_picture(path, "x")
    shown = repr(picture)
    assert "Doe" not in shown
    assert "4711" not in shown
    assert picture.owner != read_picture(altered(tmp_path / "y.dcm", PatientID="4712"), "y").owner
    assert read_picture(altered(tmp_path / "z.dcm", PatientID=""), "z").owner is None


def test_a_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    shutil.copy(sample("CT_small.dcm"), tmp_path / "IM000001")
    assert read_picture(tmp_path / "IM000001", "IM000001").slices[0].shape == (128, 128)


def test_the_samples_are_pydicom_s_own() -> None:
    assert sample("CT_small.dcm").is_relative_to(Path(pydicom.__file__).parent)
