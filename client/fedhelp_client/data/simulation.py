"""A federation's data on one machine: folders for each hospital, the proxy set and the test set.

::

    OUT/hospitals/<name>/   folder format, each with its own scanner's look
    OUT/test/               folder format; belongs to nobody
    OUT/proxy/              images only: their labels are written nowhere
    OUT/source.json         what the data is
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from fedhelp_client.data.folder import write_folder, write_images
from fedhelp_client.data.images import write_private
from fedhelp_client.data.sources import DatasetName, Source
from fedhelp_client.data.split import SplitPlan, split_patients
from fedhelp_client.data.types import Dataset, Example, FolderRefused, Task

SOURCE_FILE = "source.json"


class SourceDocument(BaseModel):
    """The content of ``source.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    dataset: DatasetName
    sentence: str
    task: Task
    classes: tuple[str, ...]
    test_images: int
    proxy_images: int


def simulate_federation(
    source: Source, out: Path, *, task: Task, plan: SplitPlan, seed: int
) -> SourceDocument:
    """Write the whole federation's data into ``out``, a new or an empty folder, or nothing at all.

    Raises FolderRefused if ``out`` is in use, SplitImpossible if there are too few patients.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FolderRefused(f"{out} is not empty; choose a new folder with --out.")
    split = split_patients(source.cohort.patients(), plan, seed=seed)
    out.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    unfinished.mkdir(mode=0o700)
    try:
        (unfinished / "hospitals").mkdir(mode=0o700)
        for number, (name, patients) in enumerate(split.hospitals.items()):
            examples = source.cohort.at_hospital(patients, number)
            write_folder(_dataset(source, examples, task), unfinished / "hospitals" / name)
        test = _dataset(source, source.cohort.at_nobody(split.test), task)
        proxy = source.cohort.at_nobody(split.proxy)
        write_folder(test, unfinished / "test")
        write_images([example.image for example in proxy], unfinished / "proxy")
        document = SourceDocument(
            dataset=source.dataset,
            sentence=source.sentence,
            task=task,
            classes=test.classes,
            test_images=len(test.examples),
            proxy_images=len(proxy),
        )
        text = document.model_dump_json(indent=2) + "\n"
        write_private(unfinished / SOURCE_FILE, text.encode("utf-8"))
        os.replace(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return document


def read_source(path: Path) -> SourceDocument:
    """The document in the folder ``path``; raises FolderRefused if `simulate_federation` wrote none."""
    try:
        return SourceDocument.model_validate_json((path / SOURCE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise FolderRefused(
            f"{path} holds no readable {SOURCE_FILE}; run fedhelp client simulate first."
        ) from error


def _dataset(source: Source, examples: tuple[Example, ...], task: Task) -> Dataset:
    dataset = Dataset(source.cohort.name, source.cohort.classes, examples)
    return dataset.for_segmentation() if task == "segmentation" else dataset
