"""Image files as hospitals have them: PNG, JPEG, DICOM and NIfTI, all read to grey slices.

What comes out is pixels. Of a file's other content only two things are looked at, and both stay in
this process: whether the pixels may show a name, and a digest of whose file it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.images import SUFFIXES, read_grey
from fedhelp_client.data.readers.dicom import DICOM_SUFFIXES, is_dicom, read_dicom, read_series
from fedhelp_client.data.readers.nifti import NIFTI_SUFFIXES, read_nifti
from fedhelp_client.data.readers.types import Picture
from fedhelp_client.data.types import ImageRefused

__all__ = ["Picture", "is_image_name", "read_masks", "read_picture"]

MASK_THRESHOLD = 127
"""In PNG and JPEG masks, grey values above it are the lesion."""


def is_image_name(name: str) -> bool:
    """Whether a file called ``name`` is taken for an image where a whole folder is read."""
    return name.lower().endswith((*SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES))


def read_picture(path: Path, name: str) -> Picture:
    """All slices of the file at ``path``, or of the DICOM series in the folder ``path``.

    ``name`` is what errors call it. Raises ImageRefused if it is missing, damaged, of another
    format, or has a side outside 16 to 4096 pixels.
    """
    return _reader(path)(path, name)


def read_masks(
    path: Path, name: str, shapes: tuple[tuple[int, ...], ...]
) -> tuple[NDArray[np.uint8], ...]:
    """The masks at ``path``, uint8 of 0 and 1, one for each slice of ``shapes`` (H, W).

    Raises ImageRefused as `read_picture` does, and if number or sizes differ from the image's.
    """
    reader = _reader(path)
    if reader is _read_grey:
        found = [(read_grey(path, name) > MASK_THRESHOLD).astype(np.uint8)]
    elif reader is read_nifti:
        found = [(plane > 0).astype(np.uint8) for plane in read_nifti(path, name, raw=True).slices]
    else:
        raise ImageRefused(f"{name} is no PNG, JPEG or NIfTI mask; export it as one of these.")
    if tuple(mask.shape for mask in found) != shapes:
        raise ImageRefused(
            f"{name} has another size, or another number of slices, than its image; export the "
            "mask on the image's own grid."
        )
    return tuple(found)


def _reader(path: Path) -> Callable[[Path, str], Picture]:
    if path.is_dir():
        return read_series
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return read_nifti
    if path.name.lower().endswith(DICOM_SUFFIXES) or is_dicom(path):
        return read_dicom
    return _read_grey


def _read_grey(path: Path, name: str) -> Picture:
    return Picture((read_grey(path, name),))
