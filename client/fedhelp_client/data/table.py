"""``labels.csv``: one line an image, a DICOM or NIfTI file, or a folder with one DICOM series.

UTF-8, columns ``image,label,patient_id`` and, if wanted, ``mask``, ``frame`` and ``hospital``.
Paths are relative to the folder and stay inside it. ``frame`` (from 1) is one slice of a file that
has several; without it all of them count, each with the line's label.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhelp_client.data.types import FolderRefused, check_disjoint

TABLE = "labels.csv"
REQUIRED_COLUMNS = ("image", "label", "patient_id")
OPTIONAL_COLUMNS = ("mask", "frame", "hospital")
_MOST_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; empty cells are empty text."""

    line: int
    image: str
    label: str
    patient: str
    mask: str
    frame: int | None
    """From 1; None is every slice."""
    hospital: str


def read_table(path: Path) -> list[Row]:
    """The lines of the table in the folder ``path``, checked; raises FolderRefused.

    PatientAtTwoPlaces if a patient is at two hospitals by the ``hospital`` column.
    """
    if not path.is_dir():
        raise FolderRefused(f"{path} is not a readable folder; give a data folder.")
    if not (path / TABLE).is_file():
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
    _check_rows(rows, path)
    return rows


def _check_columns(columns: Sequence[str], path: Path) -> None:
    allowed = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS}
    if set(REQUIRED_COLUMNS) <= set(columns) <= allowed and len(columns) == len(set(columns)):
        return
    raise FolderRefused(
        f"{path / TABLE} must have the columns {', '.join(REQUIRED_COLUMNS)} "
        f"and, if wanted, {', '.join(OPTIONAL_COLUMNS)}, once each and no others."
    )


def _row(line: int, cells: dict[str, str | None], path: Path) -> Row:
    if None in cells or None in cells.values():
        raise FolderRefused(
            f"{path / TABLE}, line {line}: the number of cells differs from the header's."
        )
    text = {column: (cell or "").strip() for column, cell in cells.items()}
    return Row(
        line=line,
        image=text["image"],
        label=text["label"],
        patient=text["patient_id"],
        mask=text.get("mask", ""),
        frame=_frame(text.get("frame", ""), f"{path / TABLE}, line {line}"),
        hospital=text.get("hospital", ""),
    )


def _frame(text: str, where: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) > 0):
        raise FolderRefused(f"{where}: frame must be a number from 1, or empty; correct it.")
    return int(text)


def _check_rows(rows: Sequence[Row], path: Path) -> None:
    seen: set[tuple[str, int | None]] = set()
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
        if not seen.isdisjoint({(row.image, row.frame), (row.image, None)}):
            raise FolderRefused(f"{where}: {row.image} is listed twice; keep one of the lines.")
        seen.add((row.image, row.frame))
        hospitals[row.hospital].add(row.patient)
    check_disjoint(
        {name or "(no hospital)": frozenset(patients) for name, patients in hospitals.items()}
    )
