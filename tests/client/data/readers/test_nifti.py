"""NIfTI volumes: one anatomy gives one picture, however it was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedhelp_client.data.readers import read_masks, read_picture
from fedhelp_client.data.types import ImageRefused

SHAPE = (20, 24, 3)


def volume(kind: type = np.int16) -> NDArray[Any]:
    """[X, Y, Z] in RAS: a bright patch at the patient's right front, brighter slice by slice."""
    values = np.zeros(SHAPE)
    values[12:, 16:, :] = 100
    values[:, :, :] += np.arange(3) * 10
    return values.astype(kind)


def saved(
    path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] | None = None
) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def test_slices_are_axial_with_the_front_above_and_the_right_at_the_left(tmp_path: Path) -> None:
    slices = read_picture(saved(tmp_path / "v.nii", volume(np.uint8)), "v").slices
    assert len(slices) == 3
    assert slices[0].shape == (24, 20)
    # X grows to the patient's right, which is at the left of the picture; Y to the front, above.
    assert slices[0][:8, :8].min() == 100
    assert slices[0][8:, :].max() == 0
    assert slices[0][:, 8:].max() == 0
    assert [int(one[-1, -1]) for one in slices] == [0, 10, 20]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SRA", "LAS"])
def test_orientation_in_the_file_does_not_matter(tmp_path: Path, codes: str) -> None:
    expected = read_picture(saved(tmp_path / "ras.nii", volume()), "v").slices
    original = nibabel.Nifti1Image(volume(), np.eye(4))
    start, end = (nibabel.orientations.axcodes2ornt(tuple(axes)) for axes in ("RAS", codes))
    turned = original.as_reoriented(nibabel.orientations.ornt_transform(start, end))
    nibabel.save(turned, tmp_path / "other.nii.gz")
    found = read_picture(tmp_path / "other.nii.gz", "v").slices
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@given(scale=st.floats(0.01, 100), offset=st.floats(-1000, 1000))
def test_units_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, scale: float, offset: float
) -> None:
    folder = tmp_path_factory.mktemp("nifti")
    expected = read_picture(saved(folder / "a.nii", volume(np.float64)), "a").slices
    other = volume(np.float64) * scale + offset
    found = read_picture(saved(folder / "b.nii", other), "b").slices
    for one, reference in zip(found, expected, strict=True):
        assert np.abs(one.astype(int) - reference.astype(int)).max() <= 1


def test_a_plane_is_one_slice(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.nii", volume()[:, :, 0])
    assert [one.shape for one in read_picture(path, "p").slices] == [(24, 20)]


def test_masks_fit_their_volume(tmp_path: Path) -> None:
    image = read_picture(saved(tmp_path / "v.nii", volume(np.uint8)), "v")
    shapes = tuple(one.shape for one in image.slices)
    mask = saved(tmp_path / "m.nii.gz", (volume() > 50).astype(np.uint8))
    masks = read_masks(mask, "m", shapes)
    for one, pixels in zip(masks, image.slices, strict=True):
        np.testing.assert_array_equal(one, (pixels >= 100).astype(np.uint8))
    with pytest.raises(ImageRefused, match="number of slices"):
        read_masks(mask, "m", shapes[:2])


def damaged(tmp_path: Path) -> Path:
    path = saved(tmp_path / "d.nii.gz", volume())
    path.write_bytes(path.read_bytes()[:-40])
    return path


def not_numbers(tmp_path: Path) -> Path:
    values = volume(np.float32).copy()
    values[0, 0, 0] = np.nan
    return saved(tmp_path / "nan.nii", values)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (damaged, "cannot be read as a NIfTI"),
        (not_numbers, "are no numbers"),
        (lambda path: saved(path / "t.nii", np.zeros((20, 20, 2, 2))), "4 dimensions"),
        (lambda path: saved(path / "s.nii", np.zeros((8, 20, 2))), "smaller than 16"),
        (lambda path: saved(path / "l.nii", np.zeros((5000, 20, 1), dtype=np.uint8)), "larger"),
        (lambda path: path / "absent.nii", "does not exist"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, make: object, sentence: str) -> None:
    assert callable(make)
    path = make(tmp_path)
    with pytest.raises(ImageRefused, match=sentence):
        read_picture(path, f"{path.name}")


def test_text_called_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_text("no volume")
    with pytest.raises(ImageRefused, match="cannot be read as a NIfTI"):
        read_picture(tmp_path / "x.nii", "x.nii")
