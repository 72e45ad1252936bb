"""The hospitals' own networks, trained alone; what they say of the test images is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import Dataset
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
    classes = len(own.classes)
    path = folder / "networks" / f"{_key(own, test, group, seed)}.f64"
    if not path.is_file():
        model = build_model(group, task="classification", classes=classes, seed=seed)
        train_alone(model, own, task="classification", seed=seed, progress=_silent)
        images = images_tensor([example.image for example in test.examples], model.side)
        logits = predict(model, images).softmax(dim=1).numpy().astype("<f8")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, logits.tobytes(), mode=0o644)
    return np.frombuffer(path.read_bytes(), dtype="<f8").reshape(-1, classes)


def _key(own: Dataset, test: Dataset, group: Preset, seed: int) -> str:
    sha = hashlib.sha256(f"{group} {seed}".encode())
    for dataset in (own, test):
        for example in dataset.examples:
            sha.update(f"{example.image.shape} {example.label}".encode())
            sha.update(example.image.tobytes())
    return sha.hexdigest()


def _silent(step: str, done: int, total: int) -> None:
    """Nobody watches one network."""
