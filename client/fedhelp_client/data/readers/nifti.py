"""NIfTI volumes (https://nifti.nimh.nih.gov/nifti-1), read by MONAI, as axial slices."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from monai.data.image_reader import NibabelReader
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from fedhelp_client.data.readers.types import Picture, check_shape, to_eight_bits
from fedhelp_client.data.types import ImageRefused

NIFTI_SUFFIXES = (".nii", ".nii.gz")

PERCENTILES = (0.5, 99.5)
"""Of one volume's values: what becomes black and white, as NIfTI carries no window."""


def read_nifti(path: Path, name: str, *, raw: bool = False) -> Picture:
    """The axial slices of one three-dimensional volume, or of one plane: the front above,
    the patient's right at the left.

    Values are stretched by the volume's own percentiles, and left as they are in a volume of bytes.
    With ``raw`` they are 0 or 255, by whether they are above zero: a mask. Raises ImageRefused.
    """
    try:
        volume = _volume(path, name)
    except FileNotFoundError as error:
        raise ImageRefused(f"{name} does not exist; correct the table or add the file.") from error
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    ) as error:
        raise ImageRefused(
            f"{name} cannot be read as a NIfTI volume; export it again or remove it."
        ) from error
    if not np.isfinite(volume).all():
        raise ImageRefused(f"{name} holds values that are no numbers; export it again.")
    # RAS: both axes of a plane are turned, so that rows run backwards and columns to the left.
    planes = np.ascontiguousarray(volume.transpose(2, 1, 0)[:, ::-1, ::-1])
    if raw:
        grey = np.where(planes > 0, np.uint8(255), np.uint8(0))
    elif planes.dtype == np.uint8:
        grey = planes
    else:
        low, high = np.percentile(planes, PERCENTILES)
        grey = to_eight_bits(planes.astype(np.float64), float(low), float(high))
    return Picture(tuple(grey))


def _volume(path: Path, name: str) -> NDArray[Any]:
    """[X, Y, Z] in the closest RAS+ orientation; checks the header before it reads a voxel."""
    shape = tuple(cast("SpatialImage", nibabel.load(path)).shape)
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise ImageRefused(
            f"{name} has {len(shape)} dimensions; export one volume of three, without time or "
            "channels."
        )
    largest = sorted(shape)[-2:]
    check_shape(int(shape[2]), int(largest[0]), int(largest[1]), name)
    # Not squeezed: a volume of one slice stays a volume.
    reader = NibabelReader(as_closest_canonical=True, squeeze_non_spatial_dims=False)
    data, _ = reader.get_data(reader.read(str(path)))
    volume: NDArray[Any] = data.reshape(*data.shape, 1) if data.ndim == 2 else data
    check_shape(volume.shape[2], volume.shape[1], volume.shape[0], name)
    return volume
