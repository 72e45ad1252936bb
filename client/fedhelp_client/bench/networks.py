"""The hospitals' own networks, trained alone; what they say of the test images is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedhelp_client.data.embeddings import SIDE
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.models import Preset, build_model
from fedhelp_client.training import images_tensor, predict, train_alone
from fedhelp_secure.state import write_atomically


def network_alone(
    folder: Path, own: Dataset, test: Dataset, group: Preset, seed: int
) -> NDArray[np.float64]:
    """Probabilities [N, C] that the network of one hospital gives to the images of ``test``.

    Trained as a node trains it, from ``seed``; the answer for the same images is read from
    ``folder`` if it is there.
    """
    path = folder / "networks" / f"{_key(own, test, group, seed)}.f64"
    if not path.is_file():
        answer = _answer(own, test, group, seed, "classification").numpy().astype("<f8")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, answer.tobytes(), mode=0o644)
    return np.frombuffer(path.read_bytes(), dtype="<f8").reshape(-1, len(own.classes))


def masks_alone(
    folder: Path, own: Dataset, test: Dataset, group: Preset, seed: int
) -> NDArray[np.uint8]:
    """Masks [N, 224, 224] of 0 and 1 that the network of one hospital draws on those images.

    Otherwise as `network_alone`.
    """
    path = folder / "networks" / f"{_key(own, test, group, seed)}.u1"
    if not path.is_file():
        maps = functional.interpolate(
            _answer(own, test, group, seed, "segmentation"), size=(SIDE, SIDE), mode="bilinear"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, maps.argmax(dim=1).numpy().astype("u1").tobytes(), mode=0o644)
    return np.frombuffer(path.read_bytes(), dtype="u1").reshape(-1, SIDE, SIDE)


def _answer(own: Dataset, test: Dataset, group: Preset, seed: int, task: Task) -> Tensor:
    model = build_model(group, task=task, classes=len(own.classes), seed=seed)
    train_alone(model, own, task=task, seed=seed, progress=_silent)
    images = images_tensor([example.image for example in test.examples], model.side)
    return predict(model, images).softmax(dim=1)


def _key(own: Dataset, test: Dataset, group: Preset, seed: int) -> str:
    sha = hashlib.sha256(f"{group} {seed}".encode())
    for dataset in (own, test):
        for example in dataset.examples:
            sha.update(f"{example.image.shape} {example.label}".encode())
            sha.update(example.image.tobytes())
            sha.update(b"" if example.mask is None else example.mask.tobytes())
    return sha.hexdigest()


def _silent(step: str, done: int, total: int) -> None:
    """Nobody watches one network."""
