"""BreastMNIST of MedMNIST v2 (Yang et al., Scientific Data 10 (2023) 41, CC BY 4.0), from BUSI.

The official ``breastmnist.npz`` is read. It publishes no patient identifiers, so **each image
counts as one patient**, identical ones as the same: whoever has several images in it is protected
for one of them only. It has no masks.
"""

from __future__ import annotations

import hashlib
import io
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.contribution import image_digest
from fedhelp_client.data.images import MAXIMUM_SIDE, MINIMUM_SIDE
from fedhelp_client.data.types import DataError, Dataset, Example

CLASSES = ("malignant", "normal-or-benign")
"""In MedMNIST's order: 0 malignant, 1 normal or benign."""

FILE = "breastmnist.npz"
PARTS = ("train", "val", "test")

OFFICIAL_SHA256 = "3a22d2a4625e7dd8903f0f59030e81a3d0c222bece2e5e10927456cb50efdec1"
"""Of the 28 x 28 file whose MD5 MedMNIST publishes as 750601b1f35ba3300ea97c75c52ff8f6."""

CONNECTION_SECONDS = 20.0
"""How long the downloader may wait for the network before the next source is taken."""


class BreastMnistUnavailable(DataError):
    """BreastMNIST is neither on this machine nor can it be downloaded."""

    code = "breastmnist-unavailable"


def load_breastmnist(path: Path) -> Dataset:
    """All 780 images of the file ``path``, or of ``path``/breastmnist.npz.

    Raises DataError if the file is missing or is not BreastMNIST.
    """
    file = path / FILE if path.is_dir() else path
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            parts = {part: (arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in PARTS}
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist; give the folder with {FILE}.") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, TypeError) as error:
        raise DataError(f"{file} is not {FILE} of MedMNIST; download it again.") from error
    examples: list[Example] = []
    for part, (images, labels) in parts.items():
        examples.extend(_part(file, part, images, labels))
    # One picture is in it twice: of one person, then.
    owners: dict[bytes, str] = {}
    joined = tuple(
        replace(one, patient=owners.setdefault(image_digest(one.image), one.patient))
        for one in examples
    )
    return Dataset("BreastMNIST", CLASSES, joined)


def obtain_breastmnist(home: Path) -> Dataset:
    """BreastMNIST from ``home``/.medmnist, downloaded by the ``medmnist`` package if need be.

    Raises BreastMnistUnavailable if that is not possible here, for whatever reason.
    """
    file = home / ".medmnist" / FILE
    if not file.is_file():
        _download(file.parent)
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != OFFICIAL_SHA256:
        raise BreastMnistUnavailable(
            f"{file} is not the official BreastMNIST; remove it, or give --data with another."
        )
    return load_breastmnist(file)


def _download(directory: Path) -> None:
    """Let the ``medmnist`` package fetch the file into ``directory``."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_SECONDS)
    try:
        import medmnist

        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        medmnist.BreastMNIST(split="train", download=True, root=str(directory))
    # Foreign code over a network: whatever goes wrong in it, the file is not there.
    except Exception as error:
        raise BreastMnistUnavailable(
            "BreastMNIST cannot be downloaded (the medmnist package with torchvision, and a "
            "network, are needed); give --data with breastmnist.npz, or --dataset phantom."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _part(
    file: Path, part: str, images: NDArray[np.generic], labels: NDArray[np.generic]
) -> list[Example]:
    sides = images.shape[1:]
    fits = (
        images.dtype == np.uint8
        and images.ndim == 3
        and all(MINIMUM_SIDE <= side <= MAXIMUM_SIDE for side in sides)
        and labels.dtype == np.uint8
        and labels.shape == (len(images), 1)
        and bool(np.isin(labels, range(len(CLASSES))).all())
    )
    if not fits:
        raise DataError(f"{file} is not {FILE} of MedMNIST; download it again.")
    return [
        Example(np.asarray(image, dtype=np.uint8), int(label), f"{part}-{number:04d}")
        for number, (image, label) in enumerate(zip(images, labels[:, 0], strict=True))
    ]
