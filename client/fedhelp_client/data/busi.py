"""Breast Ultrasound Images (BUSI): Al-Dhabyani, Gomaa, Khaled, Fahmy, "Dataset of breast ultrasound
images", Data in Brief 28 (2020) 104863, CC BY 4.0.

The published layout is read: ``Dataset_BUSI_with_GT/CLASS/CLASS (N).png`` with
``CLASS (N)_mask.png`` and, for further lesions, ``_mask_1.png`` and so on. BUSI publishes no
patient identifiers: they come from ``groups.csv`` (columns image, label, patient_id, ...) beside
that folder, or else from `grouping.group_by_hash`.

For segmentation use `Dataset.with_lesions`: only benign and malignant images have a lesion, and
Dice of an empty mask says nothing.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.grouping import group_by_hash
from fedhelp_client.data.images import read_grey, read_mask
from fedhelp_client.data.types import Dataset, Example, FolderRefused, ImageRefused

CLASSES = ("benign", "malignant", "normal")
FOLDER = "Dataset_BUSI_with_GT"
GROUPS = "groups.csv"
_NUMBERED = re.compile(r"(?P<label>[a-z]+) \((?P<number>\d+)\)\.png")


def find_busi(path: Path) -> Path | None:
    """The folder that holds the class folders, from it or its parent; None if this is no BUSI."""
    for candidate in (path / FOLDER, path):
        if all((candidate / label).is_dir() for label in CLASSES):
            return candidate
    return None


def load_busi(path: Path) -> Dataset:
    """BUSI with its three classes and the union of each image's masks.

    ``path`` is the folder that holds ``Dataset_BUSI_with_GT``, or that folder itself. Raises
    FolderRefused if the layout or groups.csv does not fit, ImageRefused for a file that cannot be
    used.
    """
    root = find_busi(path)
    if root is None:
        raise FolderRefused(
            f"{path} holds no {FOLDER} with the folders {', '.join(CLASSES)}; "
            "give the folder into which BUSI was unpacked."
        )
    names = [name for label in CLASSES for name in _image_names(root, label)]
    images = [read_grey(root / name, f"{root / name}") for name in names]
    groups = root.parent / GROUPS
    if groups.is_file():
        patients = _published_groups(groups, names)
    else:
        patients = [f"group-{number:04d}" for number in group_by_hash(images)]
    examples = tuple(
        Example(image, CLASSES.index(name.split("/")[0]), patient, _mask(root, name, image))
        for name, image, patient in zip(names, images, patients, strict=True)
    )
    return Dataset("BUSI", CLASSES, examples)


def _image_names(root: Path, label: str) -> list[str]:
    """Relative paths of the images of one class, in the order of their numbers."""
    numbers = []
    for entry in (root / label).iterdir():
        match = _NUMBERED.fullmatch(entry.name)
        if match and match["label"] == label:
            numbers.append(int(match["number"]))
    if not numbers:
        raise FolderRefused(f"{root / label} holds no image named '{label} (N).png'; unpack again.")
    return [f"{label}/{label} ({number}).png" for number in sorted(numbers)]


def _mask(root: Path, name: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The union of all masks of one image; a normal image without a mask has an empty one."""
    shape = (image.shape[0], image.shape[1])
    stem = name.removesuffix(".png")
    paths = [root / f"{stem}_mask.png"]
    while (following := root / f"{stem}_mask_{len(paths)}.png").is_file():
        paths.append(following)
    union = np.zeros(shape, dtype=np.uint8)
    if not paths[0].is_file():
        if name.startswith("normal/"):
            return union
        raise ImageRefused(f"{paths[0]} does not exist; unpack BUSI again.")
    for path in paths:
        union |= read_mask(path, f"{path}", shape)
    return union


def _published_groups(path: Path, names: list[str]) -> list[str]:
    """The patient of each image, from ``path``; raises FolderRefused unless it lists each once."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        patients = {row["image"]: (row["patient_id"] or "").strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise FolderRefused(
            f"{path} is no CSV table with the columns image and patient_id; "
            "restore it, or remove it to group images by their likeness."
        ) from error
    if len(patients) != len(rows) or set(patients) != set(names) or not all(patients.values()):
        raise FolderRefused(
            f"{path} must list every image of {FOLDER} exactly once, with a patient_id; "
            "restore it, or remove it to group images by their likeness."
        )
    return [patients[name] for name in names]
