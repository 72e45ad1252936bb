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

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedhelp_client.data.folder import write_folder, write_images
from fedhelp_client.data.images import write_private
from fedhelp_client.data.sources import DatasetName, Source
from fedhelp_client.data.split import Split, SplitPlan, split_patients
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
    source: Source, out: Path, *, task: Task, plan: SplitPlan, seed: int, dicom: bool = False
) -> SourceDocument:
    """Write the whole federation's data into ``out``, a new or an empty folder, or nothing at all.

    Raises FolderRefused if ``out`` is in use or cannot be written, SplitImpossible if there are too
    few patients. With ``dicom`` hospitals' images are DICOM files.
    """
    out = out.resolve()
    split = split_patients(source.cohort.patients(), plan, seed=seed)
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise FolderRefused(f"{out} is not empty; choose a new folder with --out.")
        unfinished.mkdir(parents=True, mode=0o700)
        document = _write(source, split, unfinished, task=task, seed=seed, dicom=dicom)
        os.replace(unfinished, out)
    except OSError as error:
        raise FolderRefused(f"{out} cannot be written; check its rights and free space.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return document


def _write(
    source: Source, split: Split, root: Path, *, task: Task, seed: int, dicom: bool
) -> SourceDocument:
    (root / "hospitals").mkdir(mode=0o700)
    for number, (name, patients) in enumerate(split.hospitals.items()):
        examples = source.cohort.at_hospital(patients, number)
        write_folder(_dataset(source, examples, task), root / "hospitals" / name, dicom=dicom)
    test = _dataset(source, source.cohort.at_nobody(split.test), task)
    write_folder(test, root / "test")
    proxy = source.cohort.at_nobody(split.proxy)
    # Datasets list their classes one after another: the order would give the labels away.
    order = np.random.default_rng([seed, 7]).permutation(len(proxy))
    write_images([proxy[index].image for index in order], root / "proxy")
    document = SourceDocument(
        dataset=source.dataset,
        sentence=source.sentence,
        task=task,
        classes=test.classes,
        test_images=len(test.examples),
        proxy_images=len(proxy),
    )
    text = document.model_dump_json(indent=2) + "\n"
    write_private(root / SOURCE_FILE, text.encode("utf-8"))
    return document


def read_source(path: Path) -> SourceDocument:
    """What `simulate_federation` wrote into ``path``; raises FolderRefused if it did not."""
    try:
        return SourceDocument.model_validate_json((path / SOURCE_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise FolderRefused(
            f"{path} holds no readable {SOURCE_FILE}; run fedhelp client simulate first."
        ) from error


def _dataset(source: Source, examples: tuple[Example, ...], task: Task) -> Dataset:
    dataset = Dataset(source.cohort.name, source.cohort.classes, examples)
    return dataset.for_segmentation() if task == "segmentation" else dataset
