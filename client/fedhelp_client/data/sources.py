"""Which data is used, and one plain sentence that says so.

In order: the folder given by ``--data``; that of the environment variable FEDHELP_DATA; BreastMNIST
from ``~/.medmnist`` or through the ``medmnist`` package; the phantom, which is always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedhelp_client.data.breastmnist import (
    FILE,
    BreastMnistUnavailable,
    load_breastmnist,
    obtain_breastmnist,
)
from fedhelp_client.data.busi import find_busi, load_busi
from fedhelp_client.data.cohort import PHANTOM_PATIENTS, Cohort, ImageCohort, PhantomCohort
from fedhelp_client.data.folder import load_folder
from fedhelp_client.data.table import TABLE
from fedhelp_client.data.types import DataError, Dataset, Task

DatasetName = Literal["busi", "breastmnist", "phantom", "folder"]

ENVIRONMENT_VARIABLE = "FEDHELP_DATA"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The data chosen; ``sentence`` tells the user which it is and why."""

    dataset: DatasetName
    sentence: str
    cohort: Cohort


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for; None leaves the choice to the resolution order."""

    dataset: DatasetName | None
    data: Path | None
    task: Task
    seed: int


def resolve(request: Request, *, environment: Mapping[str, str], home: Path) -> Source:
    """The data to use; raises DataError if what was asked for cannot be had.

    Only when neither a dataset nor a folder was named does a failure lead to the next source.
    """
    if request.dataset == "phantom":
        if request.data is not None:
            raise DataError("The phantom needs no --data; leave it out, or choose another dataset.")
        return _phantom(request, "because --dataset phantom asks for it")
    path, origin = _given_folder(request, environment)
    if path is not None:
        return _from_folder(request, path, origin)
    if request.dataset in ("busi", "folder"):
        raise DataError(
            f"--dataset {request.dataset} needs a folder; "
            f"give --data or set {ENVIRONMENT_VARIABLE}."
        )
    if request.task == "segmentation" and request.dataset is None:
        return _phantom(request, "because no data was given and BreastMNIST has no masks")
    try:
        dataset = obtain_breastmnist(home)
    except BreastMnistUnavailable:
        if request.dataset == "breastmnist":
            raise
        return _phantom(request, "because no data was given and BreastMNIST cannot be had here")
    return _published(request, "breastmnist", dataset, f"from {home / '.medmnist'}")


def _given_folder(request: Request, environment: Mapping[str, str]) -> tuple[Path | None, str]:
    if request.data is not None:
        return request.data, "--data"
    if environment.get(ENVIRONMENT_VARIABLE):
        return Path(environment[ENVIRONMENT_VARIABLE]), ENVIRONMENT_VARIABLE
    return None, ""


def _from_folder(request: Request, path: Path, origin: str) -> Source:
    if not path.exists():
        raise DataError(f"{path} (from {origin}) does not exist; give the folder with the data.")
    name = request.dataset or _recognise(path, origin)
    if name == "busi":
        dataset = load_busi(path)
    elif name == "breastmnist":
        dataset = load_breastmnist(path)
    else:
        dataset = load_folder(path, "classification")
    return _published(request, name, dataset, f"from {path}, given by {origin}")


def _recognise(path: Path, origin: str) -> DatasetName:
    """What kind of data lies at ``path``; raises DataError if none that is known."""
    if path.is_file() or (path / FILE).is_file():
        return "breastmnist"
    if (path / TABLE).is_file():
        return "folder"
    if find_busi(path) is not None:
        return "busi"
    raise DataError(
        f"{path} (from {origin}) holds neither {TABLE}, nor BUSI, nor {FILE}; "
        "give another folder, or --dataset phantom."
    )


def _published(request: Request, name: DatasetName, dataset: Dataset, where: str) -> Source:
    if request.task == "segmentation":
        dataset = dataset.with_lesions()
    cohort = ImageCohort(dataset, seed=request.seed)
    sentence = (
        f"Data: {dataset.name}, {len(dataset.examples)} real images "
        f"of {len(cohort.patients())} patients, {where}."
    )
    if name == "breastmnist":
        sentence += " It names no patients, so each image counts as one."
    return Source(name, sentence, cohort)


def _phantom(request: Request, reason: str) -> Source:
    cohort = PhantomCohort(PHANTOM_PATIENTS, seed=request.seed, task=request.task)
    return Source(
        "phantom",
        f"Data: the built-in ultrasound phantom ({len(cohort.patients())} invented patients, "
        f"no real one), {reason}.",
        cohort,
    )
