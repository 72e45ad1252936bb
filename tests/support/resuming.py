"""A small training and distillation with checkpoints; a program, so that it can be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from support.learning import discs
from torch import Tensor

from fedhelp_client.architecture import Architecture
from fedhelp_client.checkpoint import Checkpoint
from fedhelp_client.curve import Curve
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.distillation import DistillationPlan, distil
from fedhelp_client.models import build_network
from fedhelp_client.progress import ProgressCallback
from fedhelp_client.training import TrainingPlan, train_alone

# With dropout: what a network draws itself has to go on as well.
_NETWORK = Architecture(
    network="monai.networks.nets.DenseNet",
    parameters={
        "spatial_dims": 2,
        "in_channels": 1,
        "init_features": 8,
        "growth_rate": 4,
        "block_config": [2, 2],
        "dropout_prob": 0.3,
    },
    classes="out_channels",
    side=32,
)
_TRAINING = TrainingPlan(passes=96, learning_rate=1e-3)
_DISTILLATION = DistillationPlan(TrainingPlan(passes=256, learning_rate=1e-3), gated=True)


def learn(folder: Path, seed: int, progress: ProgressCallback) -> dict[str, Tensor]:
    """The network's numbers after eight epochs of training and eight of distillation."""
    own = discs(12, seed=1, task="classification")
    proxies = discs(16, seed=2, task="classification")
    model = build_network(_NETWORK, task="classification", classes=2, seed=0)
    train_alone(
        model,
        own,
        task="classification",
        seed=seed,
        plan=_TRAINING,
        progress=progress,
        checkpoint=Checkpoint(folder / "training", seconds_between=0),
        curve=Curve(folder / "curves", "training"),
    )
    random = np.random.default_rng(3)
    labels = random.dirichlet((1, 1), 16).astype(np.float32)
    distil(
        model,
        own,
        task="classification",
        group="large",
        proxy_images=resize_images([example.image for example in proxies.examples]),
        teacher=labels,
        own_teacher=labels[:12],
        foundation_embeddings=random.normal(size=(16, 5)).astype(np.float32),
        seed=seed,
        plan=_DISTILLATION,
        progress=progress,
        checkpoint=Checkpoint(folder / "distillation", seconds_between=0),
        curve=Curve(folder / "curves", "distillation"),
    )
    numbers: dict[str, Tensor] = model.state_dict()
    return numbers


def _main(folder: str, seed: str) -> None:
    def tell(step: str, done: int, total: int) -> None:
        sys.stdout.write(f"{step} {done}\n")
        sys.stdout.flush()

    torch.save(learn(Path(folder), int(seed), tell), Path(folder) / "result")


if __name__ == "__main__":
    _main(*sys.argv[1:])
