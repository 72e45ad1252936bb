"""The folder format: ``labels.csv`` beside PNG or JPEG images.

One line an image, UTF-8, columns ``image,label,patient_id`` and, if wanted, ``mask`` and
``hospital``. Paths are relative to the folder and stay inside it. Every hospital of a federation
keeps its data in this form, and `fedhelp client simulate` writes it.
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

from fedhelp_client.data.duplicates import check_no_duplicates
from fedhelp_client.data.images import SUFFIXES, png_bytes, read_grey, read_mask, write_private
from fedhelp_client.data.types import (
    SEGMENTATION_CLASSES,
    Dataset,
    Example,
    FolderRefused,
    Task,
    check_disjoint,
)

TABLE = "labels.csv"
REQUIRED_COLUMNS = ("image", "label", "patient_id")
OPTIONAL_COLUMNS = ("mask", "hospital")


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    image: str
    label: str
    patient: str
    mask: str
    hospital: str


def load_folder(path: Path, task: Task, *, classes: Sequence[str] | None = None) -> Dataset:
    """The dataset in the folder ``path``.

    For classification the classes are ``classes`` (a charter's), or the labels that occur, sorted;
    masks are loaded where the table names them. For segmentation every image needs a mask, the
    classes are "background" and "lesion", and an example's label says whether its mask marks any.

    Raises FolderRefused (no table, no images, wrong columns, unknown label, empty patient_id, a
    path that leaves the folder, an image listed twice, a missing mask), ImageRefused (see
    `images.read_grey`), PatientAtTwoPlaces (by the ``hospital`` column) and PatientUnderTwoNames if
    one picture stands under two patient identifiers.
    """
    dataset = read_folder(path, task, classes=classes)
    check_no_duplicates(dataset, str(path))
    return dataset


def read_folder(path: Path, task: Task, *, classes: Sequence[str] | None = None) -> Dataset:
    """As `load_folder`, whatever stands under two patient identifiers: for looking for that."""
    rows = _read_table(path)
    _check_rows(rows, path)
    known = tuple(sorted({row.label for row in rows})) if classes is None else tuple(classes)
    examples = tuple(_load_row(row, path, task, known) for row in rows)
    dataset = Dataset(path.resolve().name, known, examples)
    if task == "segmentation":
        return Dataset(dataset.name, SEGMENTATION_CLASSES, dataset.for_segmentation().examples)
    return dataset


def image_names(path: Path) -> tuple[str, ...]:
    """The images' file names in the order of the table, which is that of `load_folder`."""
    return tuple(row.image for row in _read_table(path))


def load_images(path: Path) -> tuple[NDArray[np.uint8], ...]:
    """Every PNG or JPEG directly in ``path``, by name, as uint8 [H, W]: the proxy set's form.

    Raises FolderRefused if there is none, ImageRefused if one cannot be used.
    """
    names = sorted(entry.name for entry in _entries(path) if entry.suffix.lower() in SUFFIXES)
    if not names:
        raise FolderRefused(f"{path} holds no PNG or JPEG image; give the folder with the images.")
    return tuple(
        read_grey(_inside(path, name, f"{path / name}"), f"{path / name}") for name in names
    )


def write_folder(dataset: Dataset, path: Path) -> None:
    """Write ``dataset`` into the new folder ``path``, directories 0700 and files 0600.

    Images are named by number, so that a name says nothing about its patient or label. Raises
    FolderRefused if ``path`` exists or there is nothing to write.
    """
    if not dataset.examples:
        raise FolderRefused(f"{path} would hold no image; give this place at least one patient.")
    _make_directory(path)
    with_masks = any(example.mask is not None for example in dataset.examples)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*REQUIRED_COLUMNS, *(["mask"] if with_masks else [])])
    for number, example in enumerate(dataset.examples, start=1):
        image = f"image-{number:05d}.png"
        row = [image, dataset.classes[example.label], example.patient]
        write_private(path / image, png_bytes(example.image))
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


def _read_table(path: Path) -> list[_Row]:
    if not any(entry.name == TABLE for entry in _entries(path)):
        raise FolderRefused(
            f"{path} holds no {TABLE}; add one with the columns {', '.join(REQUIRED_COLUMNS)}."
        )
    try:
        text = (path / TABLE).read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_columns(reader.fieldnames or (), path)
        rows = [_row(reader.line_num, cells, path) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FolderRefused(f"{path / TABLE} is no UTF-8 CSV table; export it again.") from error
    if not rows:
        raise FolderRefused(f"{path / TABLE} lists no image; add at least one line.")
    return rows


def _check_columns(columns: Sequence[str], path: Path) -> None:
    allowed = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    if set(REQUIRED_COLUMNS) <= set(columns) <= allowed and len(columns) == len(set(columns)):
        return
    raise FolderRefused(
        f"{path / TABLE} must have the columns {', '.join(REQUIRED_COLUMNS)} "
        f"and, if wanted, {' and '.join(OPTIONAL_COLUMNS)}, once each and no others."
    )


def _row(line: int, cells: dict[str, str | None], path: Path) -> _Row:
    if None in cells or None in cells.values():
        raise FolderRefused(
            f"{path / TABLE}, line {line}: the number of cells differs from the header's."
        )
    text = {column: (cell or "").strip() for column, cell in cells.items()}
    return _Row(
        line=line,
        image=text["image"],
        label=text["label"],
        patient=text["patient_id"],
        mask=text.get("mask", ""),
        hospital=text.get("hospital", ""),
    )


def _check_rows(rows: Sequence[_Row], path: Path) -> None:
    seen: set[str] = set()
    hospitals: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        where = f"{path / TABLE}, line {row.line}"
        if not row.image:
            raise FolderRefused(f"{where}: the image's file name is empty; fill it in.")
        if not row.patient:
            raise FolderRefused(
                f"{where}: patient_id is empty; fill it in, because privacy is counted per patient."
            )
        if not row.label:
            raise FolderRefused(f"{where}: the label is empty; fill it in.")
        if row.image in seen:
            raise FolderRefused(f"{where}: {row.image} is listed twice; keep one of the lines.")
        seen.add(row.image)
        hospitals[row.hospital].add(row.patient)
    check_disjoint(
        {name or "(no hospital)": frozenset(patients) for name, patients in hospitals.items()}
    )


def _load_row(row: _Row, path: Path, task: Task, classes: Sequence[str]) -> Example:
    where = f"{path / TABLE}, line {row.line}"
    label = 0
    if task == "classification":
        if row.label not in classes:
            raise FolderRefused(f"{where}: the label is none of {', '.join(classes)}; correct it.")
        label = classes.index(row.label)
    image = read_grey(_inside(path, row.image, where), f"{path / row.image}")
    mask = None
    if row.mask:
        shape = (image.shape[0], image.shape[1])
        mask = read_mask(_inside(path, row.mask, where), f"{path / row.mask}", shape)
    elif task == "segmentation":
        raise FolderRefused(
            f"{where}: {row.image} has no mask, which segmentation needs; add it, "
            "with an all-black mask if there is no lesion."
        )
    return Example(image, label, row.patient, mask)


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
