"""DICOM images (PS3.3, PS3.14), single and multi-frame, and series of files, read by pydicom.

Stored values become what a reader sees: rescaled to the modality's units, windowed as the file
asks, MONOCHROME1 inverted, colour turned to grey.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import iter_pixels

from fedhelp_client.data.readers.types import Picture, check_shape, to_eight_bits
from fedhelp_client.data.types import ImageRefused

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_MAGIC = b"DICM"
_BURNED_IN = (
    "the file says that text is burned into its pixels: blank it out before these patients take "
    "part."
)
_MAYBE_BURNED_IN = (
    "the file does not say whether text is burned into its pixels, as ultrasound and secondary "
    "captures often have: look at it."
)
_SUSPECT_MODALITIES = frozenset({"US", "IVUS", "SC", "OT", "XC", "ES"})
_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601, as Pillow turns colour to grey."""


def is_dicom(path: Path) -> bool:
    """Whether the file at ``path`` begins as a DICOM file does (PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == _MAGIC
    except OSError:
        return False


def read_dicom(path: Path, name: str) -> Picture:
    """All frames of one file; raises ImageRefused if it is no image or cannot be decoded."""
    header = _header(path, name)
    return Picture(tuple(_frames(header, path, name)), _owner(header), _notes(header))


def read_series(path: Path, name: str) -> Picture:
    """The slices of the one series in the folder ``path``, along the patient.

    Raises ImageRefused if the folder holds no DICOM file, or files of several series or patients.
    """
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and is_dicom(entry))
    headers = [
        (_header(file, f"{name}/{file.name}"), file) for file in files if file.name != "DICOMDIR"
    ]
    if not headers:
        raise ImageRefused(f"{name} holds no DICOM file; name an image file or a series' folder.")
    series = {str(header.get("SeriesInstanceUID", "")) for header, _ in headers}
    owners = {_owner(header) for header, _ in headers}
    if len(series) != 1 or len(owners) != 1:
        raise ImageRefused(
            f"{name} holds files of several series or patients; give each series its own folder "
            "and its own line."
        )
    ordered = sorted(headers, key=lambda found: _position(found[0], found[1]))
    slices = [
        frame for header, file in ordered for frame in _frames(header, file, f"{name}/{file.name}")
    ]
    check_shape(len(slices), slices[0].shape[0], slices[0].shape[1], name)
    notes = dict.fromkeys(note for header, _ in ordered for note in _notes(header))
    return Picture(tuple(slices), next(iter(owners)), tuple(notes))


def _header(path: Path, name: str) -> Dataset:
    """The file without its pixels; raises ImageRefused unless it is an image within the limits."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that do not conform; what matters is below
            header = dcmread(path, stop_before_pixels=True)
            shape = (
                int(header.get("NumberOfFrames") or 1),
                int(header.get("Rows") or 0),
                int(header.get("Columns") or 0),
            )
    except FileNotFoundError as error:
        raise ImageRefused(f"{name} does not exist; correct the table or add the file.") from error
    except (OSError, InvalidDicomError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise ImageRefused(
            f"{name} cannot be read as DICOM; export it again or remove it."
        ) from error
    if 0 in shape[1:]:
        raise ImageRefused(
            f"{name} is a DICOM file without an image, such as a report or a plan; take it off the "
            "table."
        )
    check_shape(*shape, name)
    return header


def _frames(header: Dataset, path: Path, name: str) -> Iterator[NDArray[np.uint8]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Colour as RGB; one frame in memory at a time.
            stored = list(iter_pixels(path, raw=False))
            yield from _rendered(header, stored)
    except Exception as error:
        # pydicom and its decoders raise whatever they like at a damaged or unknown encoding.
        raise ImageRefused(
            f"{name}: its pixels cannot be decoded; export it uncompressed (Explicit VR Little "
            "Endian) or as PNG."
        ) from error


def _rendered(header: Dataset, stored: list[NDArray[np.generic]]) -> Iterator[NDArray[np.uint8]]:
    interpretation = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    for number, frame in enumerate(stored):
        own = _of_frame(header, number)
        if interpretation == "PALETTE COLOR":
            colours = apply_color_lut(frame, own)
            yield _grey(colours.astype(np.float64) / (2 ** (8 * colours.itemsize) - 1))
        elif frame.ndim == 3:
            yield _grey(frame.astype(np.float64) / (2 ** int(header.BitsStored) - 1))
        else:
            yield _windowed(frame, own, inverted=interpretation == "MONOCHROME1")


def _grey(colours: NDArray[np.float64]) -> NDArray[np.uint8]:
    """[H, W, 3] of 0 to 1 as grey."""
    return to_eight_bits(colours[..., :3] @ _LUMA, 0.0, 1.0)


def _windowed(frame: NDArray[np.generic], own: Dataset, *, inverted: bool) -> NDArray[np.uint8]:
    """``frame`` in the first window that its file gives, or else from its least to its largest."""
    values = np.asarray(apply_modality_lut(frame, own), dtype=np.float64)
    padding = own.get("PixelPaddingValue")
    image = frame != padding if isinstance(padding, int) else np.ones(frame.shape, dtype=bool)
    if "WindowWidth" in own or "VOILUTSequence" in own:
        shown = np.asarray(apply_voi_lut(values, own), dtype=np.float64)
        low, high = _output_range(own, values, shown)
    else:
        shown = values
        seen = values[image] if image.any() else values
        low, high = float(seen.min()), float(seen.max())
    grey = to_eight_bits(shown, low, high, inverted=inverted)
    return np.where(image, grey, np.uint8(0)) if not image.all() else grey


def _output_range(
    own: Dataset, values: NDArray[np.float64], shown: NDArray[np.float64]
) -> tuple[float, float]:
    """The least and the largest value that windowing can yield (PS3.3, C.11.2.1.2)."""
    if "VOILUTSequence" in own:
        bits = int(own.VOILUTSequence[0].LUTDescriptor[2])
        return 0.0, float(2**bits - 1)
    # A window maps its own ends to the ends of the output, which pydicom takes from the header.
    probe = np.array([[values.min() - 1e9, values.max() + 1e9]])
    ends = np.asarray(apply_voi_lut(probe, own), dtype=np.float64)
    return float(min(ends.min(), shown.min())), float(max(ends.max(), shown.max()))


def _of_frame(header: Dataset, number: int) -> Dataset:
    """What describes one frame: of an enhanced object, the functional groups' values come first."""
    own = Dataset()
    own.update(header)
    for groups, index in (
        (header.get("SharedFunctionalGroupsSequence") or [], 0),
        (header.get("PerFrameFunctionalGroupsSequence") or [], number),
    ):
        if index >= len(groups):
            continue
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in groups[index].get(sequence) or []:
                own.update(item)
    return own


def _position(header: Dataset, path: Path) -> tuple[float, int, str]:
    """Where a slice lies along the normal of its series; by its number where that is not said."""
    number = int(header.get("InstanceNumber") or 0)
    position, orientation = (
        header.get("ImagePositionPatient"),
        header.get("ImageOrientationPatient"),
    )
    if position is None or orientation is None:
        return 0.0, number, path.name
    directions = np.array([float(value) for value in orientation]).reshape(2, 3)
    normal = np.cross(directions[0], directions[1])
    return float(normal @ np.array([float(value) for value in position])), number, path.name


def _owner(header: Dataset) -> str | None:
    """Digest of patient identifier and issuer: to find one patient under two names here."""
    identifier = str(header.get("PatientID") or "").strip()
    if not identifier:
        return None
    issuer = str(header.get("IssuerOfPatientID") or "").strip()
    return hashlib.sha256(f"{issuer}\n{identifier}".encode()).hexdigest()


def _notes(header: Dataset) -> tuple[str, ...]:
    burned_in = str(header.get("BurnedInAnnotation") or "").upper()
    if burned_in == "YES":
        return (_BURNED_IN,)
    if burned_in != "NO" and str(header.get("Modality", "")) in _SUSPECT_MODALITIES:
        return (_MAYBE_BURNED_IN,)
    return ()
