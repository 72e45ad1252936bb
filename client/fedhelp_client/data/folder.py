"""The folder format: ``labels.csv`` (see `table`) beside the images it names.

Images are PNG, JPEG, DICOM or NIfTI (see `readers`). Every hospital of a federation keeps its data
in this form, and `fedhelp client simulate` writes it, with PNG images.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.dicom_file import dicom_bytes
from fedhelp_client.data.duplicates import check_no_duplicates
from fedhelp_client.data.images import png_bytes, write_private
from fedhelp_client.data.readers import Picture, is_image_name, read_masks, read_picture
from fedhelp_client.data.table import REQUIRED_COLUMNS, TABLE, Row, read_table
from fedhelp_client.data.types import (
    SEGMENTATION_CLASSES,
    Dataset,
    Example,
    FolderRefused,
    PatientUnderTwoNames,
    Task,
)


@dataclass(frozen=True, slots=True, eq=False)
class FolderContent:
    """A folder's dataset, and what its own operator may see about it."""

    dataset: Dataset
    names: tuple[str, ...]
    """What to call each example: its file, with the slice's number if there are several."""
    notes: tuple[str, ...]
    """What the readers noticed, a sentence with the file's name each."""


def load_folder(path: Path, task: Task, *, classes: Sequence[str] | None = None) -> Dataset:
    """The dataset in the folder ``path``.

    For classification the classes are ``classes`` (a charter's), or the labels that occur, sorted;
    masks are loaded where the table names them. For segmentation every image needs a mask, the
    classes are "background" and "lesion", and an example's label says whether its mask marks any.

    Raises FolderRefused (no table, no images, wrong columns, unknown label, empty patient_id, a
    path that leaves the folder, an image listed twice, a missing mask), ImageRefused (see
    `readers.read_picture`), PatientAtTwoPlaces (by the ``hospital`` column) and
    PatientUnderTwoNames if one picture, or one DICOM patient, stands under two patient identifiers.
    """
    dataset = read_folder(path, task, classes=classes)
    check_no_duplicates(dataset, str(path))
    return dataset


def read_folder(path: Path, task: Task, *, classes: Sequence[str] | None = None) -> Dataset:
    """As `load_folder`, whatever picture stands twice: for looking for that."""
    return read_content(path, task, classes=classes).dataset


def read_content(path: Path, task: Task, *, classes: Sequence[str] | None = None) -> FolderContent:
    """As `read_folder`, with names and notes for the hospital's own operator."""
    rows = read_table(path)
    known = tuple(sorted({row.label for row in rows})) if classes is None else tuple(classes)
    examples: list[Example] = []
    names: list[str] = []
    notes: list[str] = []
    owners: dict[str, set[str]] = defaultdict(set)
    picture, read = Picture(()), ""
    for row in rows:
        if row.image != read:
            # Lines of one file's frames follow each other: it is decoded once.
            found = _inside(path, row.image, _where(row, path))
            picture, read = read_picture(found, f"{path / row.image}"), row.image
            notes += [f"{row.image}: {note}" for note in picture.notes]
        if picture.owner is not None:
            owners[picture.owner].add(row.patient)
        for name, example in _examples(row, picture, path, task, known):
            names.append(name)
            examples.append(example)
    _check_owners(owners, path)
    dataset = Dataset(path.resolve().name, known, tuple(examples))
    if task == "segmentation":
        dataset = Dataset(dataset.name, SEGMENTATION_CLASSES, dataset.for_segmentation().examples)
    return FolderContent(dataset, tuple(names), tuple(notes))


def load_images(path: Path) -> tuple[NDArray[np.uint8], ...]:
    """Every slice of every image directly in ``path``, by name, as uint8 [H, W]: the proxy set.

    Raises FolderRefused if there is none, ImageRefused if one cannot be used.
    """
    names = sorted(entry.name for entry in _entries(path) if is_image_name(entry.name))
    if not names:
        raise FolderRefused(f"{path} holds no image; give the folder with the images.")
    return tuple(
        one
        for name in names
        for one in read_picture(_inside(path, name, f"{path / name}"), f"{path / name}").slices
    )


def write_folder(dataset: Dataset, path: Path, *, dicom: bool = False) -> None:
    """Write ``dataset`` into the new folder ``path``, directories 0700 and files 0600.

    Images are PNG, or with ``dicom`` DICOM files; masks are PNG. They are named by number, so that
    a name says nothing about its patient or label. Raises FolderRefused if ``path`` exists or there
    is nothing to write.
    """
    if not dataset.examples:
        raise FolderRefused(f"{path} would hold no image; give this place at least one patient.")
    _make_directory(path)
    with_masks = any(example.mask is not None for example in dataset.examples)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*REQUIRED_COLUMNS, *(["mask"] if with_masks else [])])
    for number, example in enumerate(dataset.examples, start=1):
        image = f"image-{number:05d}.{'dcm' if dicom else 'png'}"
        row = [image, dataset.classes[example.label], example.patient]
        encoded = dicom_bytes(example.image, example.patient) if dicom else png_bytes(example.image)
        write_private(path / image, encoded)
        if with_masks:
            row.append(_write_mask(example, path, number))
        writer.writerow(row)
    # Last: a folder with a table is a complete one.
    write_private(path / TABLE, table.getvalue().encode("utf-8"))


def write_images(images: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Write ``images`` alone, without labels or patients, into the new folder ``path``.

    Raises FolderRefused if ``path`` exists or there is no image.
    """
    if not images:
        raise FolderRefused(f"{path} would hold no image; give this place at least one patient.")
    _make_directory(path)
    for number, image in enumerate(images, start=1):
        write_private(path / f"image-{number:05d}.png", png_bytes(image))


def _write_mask(example: Example, path: Path, number: int) -> str:
    if example.mask is None:
        return ""
    name = f"image-{number:05d}-mask.png"
    write_private(path / name, png_bytes(np.multiply(example.mask, 255, dtype=np.uint8)))
    return name


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise FolderRefused(f"{path} already exists; choose a new folder.") from error
    except OSError as error:
        raise FolderRefused(f"{path} cannot be made; check the path and its rights.") from error


def _entries(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_file()]
    except OSError as error:
        raise FolderRefused(f"{path} is not a readable folder; give a data folder.") from error


def _where(row: Row, path: Path) -> str:
    return f"{path / TABLE}, line {row.line}"


def _examples(
    row: Row, picture: Picture, path: Path, task: Task, classes: Sequence[str]
) -> list[tuple[str, Example]]:
    """The examples of one line, each with its name."""
    where = _where(row, path)
    label = 0
    if task == "classification":
        if row.label not in classes:
            raise FolderRefused(f"{where}: the label is none of {', '.join(classes)}; correct it.")
        label = classes.index(row.label)
    masks: Sequence[NDArray[np.uint8] | None] = [None] * len(picture.slices)
    if row.mask:
        shapes = tuple(one.shape for one in picture.slices)
        masks = read_masks(_inside(path, row.mask, where), f"{path / row.mask}", shapes)
    elif task == "segmentation":
        raise FolderRefused(
            f"{where}: {row.image} has no mask, which segmentation needs; add it, "
            "with an all-black mask if there is no lesion."
        )
    several = len(picture.slices) > 1
    return [
        (
            f"{row.image}, slice {index + 1}" if several else row.image,
            Example(picture.slices[index], label, row.patient, masks[index]),
        )
        for index in _chosen(row, picture, where)
    ]


def _chosen(row: Row, picture: Picture, where: str) -> list[int]:
    """Which slices count, from 0: the one asked for, or all that show anything."""
    if row.frame is not None:
        if row.frame > len(picture.slices):
            raise FolderRefused(
                f"{where}: {row.image} has {len(picture.slices)} slices, so frame {row.frame} is "
                "not there; correct it."
            )
        return [row.frame - 1]
    if len(picture.slices) == 1:
        return [0]
    # The ends of a volume are often blank, and blank slices of two patients are the same picture.
    shown = [index for index, one in enumerate(picture.slices) if one.min() != one.max()]
    if not shown:
        raise FolderRefused(f"{where}: no slice of {row.image} shows anything; remove the line.")
    return shown


def _check_owners(owners: dict[str, set[str]], path: Path) -> None:
    if any(len(patients) > 1 for patients in owners.values()):
        raise PatientUnderTwoNames(
            f"{path / TABLE} lists DICOM files of one patient under two patient identifiers, but "
            "privacy is counted per patient; give them the same patient_id."
        )


def _inside(path: Path, name: str, where: str) -> Path:
    """``name`` within ``path``, links followed; raises FolderRefused if it lies outside."""
    try:
        root = path.resolve()
        resolved = (root / name).resolve()
    except (OSError, ValueError) as error:
        raise FolderRefused(f"{where}: a file name is not valid; correct it.") from error
    if not resolved.is_relative_to(root):
        raise FolderRefused(f"{where}: a path leaves the data folder; move the file into it.")
    return resolved
