"""The hospitals' own networks, trained alone once; the networks and what they say are kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedhelp_client.data.embeddings import SIDE
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.models import HospitalModel, Preset, build_model
from fedhelp_client.training import (
    TrainingPlan,
    images_tensor,
    predict,
    train_alone,
    training_plan,
)
from fedhelp_secure.state import write_atomically


def network_alone(
    folder: Path, own: Dataset, test: Dataset, group: Preset, seed: int
) -> NDArray[np.float64]:
    """Probabilities [N, C] that the network of one hospital gives to the images of ``test``.

    Trained as a node trains it, from ``seed``; the answer for the same images is read from
    ``folder`` if it is there.
    """
    path = folder / "networks" / f"{_key(group, seed, own, test)}.f64"
    if not path.is_file():
        model = trained_network(folder, own, group, seed, "classification")
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = probabilities(model, test).double().numpy().astype("<f8")
        write_atomically(path, answer.tobytes(), mode=0o644)
    return np.frombuffer(path.read_bytes(), dtype="<f8").reshape(-1, len(own.classes))


def masks_alone(
    folder: Path, own: Dataset, test: Dataset, group: Preset, seed: int
) -> NDArray[np.uint8]:
    """Masks [N, 224, 224] of 0 and 1 that the network of one hospital draws on those images.

    Otherwise as `network_alone`.
    """
    path = folder / "networks" / f"{_key(group, seed, own, test)}.u1"
    if not path.is_file():
        masks = masks_of(trained_network(folder, own, group, seed, "segmentation"), test)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, masks.tobytes(), mode=0o644)
    return np.frombuffer(path.read_bytes(), dtype="u1").reshape(-1, SIDE, SIDE)


def trained_network(
    folder: Path,
    own: Dataset,
    group: Preset,
    seed: int,
    task: Task,
    plan: TrainingPlan | None = None,
) -> HospitalModel:
    """The network of one hospital after training alone, from ``folder`` if it is there.

    ``plan``: None for what a node does.
    """
    model = build_model(group, task=task, classes=len(own.classes), seed=seed)
    plan = plan or training_plan(model, task)
    path = folder / "networks" / f"{_key(f'{group} {plan!r}', seed, own)}.pt"
    if path.is_file():
        model.load_state_dict(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
        return model.eval()
    train_alone(model, own, task=task, seed=seed, progress=_silent, plan=plan)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue(), mode=0o644)
    return model.eval()


def probabilities(model: HospitalModel, test: Dataset) -> Tensor:
    """Of the images of ``test``: [N, C], or [N, 2, side, side]."""
    images = images_tensor([example.image for example in test.examples], model.side)
    return predict(model, images).softmax(dim=1)


def masks_of(model: HospitalModel, test: Dataset) -> NDArray[np.uint8]:
    """Masks [N, 224, 224] of 0 and 1 that ``model`` draws on the images of ``test``."""
    maps = functional.interpolate(probabilities(model, test), size=(SIDE, SIDE), mode="bilinear")
    masks: NDArray[np.uint8] = maps.argmax(dim=1).numpy().astype(np.uint8)
    return masks


def _key(what: str, seed: int, *datasets: Dataset) -> str:
    sha = hashlib.sha256(f"{what} {seed}".encode())
    for dataset in datasets:
        for example in dataset.examples:
            sha.update(f"{example.image.shape} {example.label}".encode())
            sha.update(example.image.tobytes())
            sha.update(b"" if example.mask is None else example.mask.tobytes())
    return sha.hexdigest()


def _silent(step: str, done: int, total: int) -> None:
    """Nobody watches one network."""
