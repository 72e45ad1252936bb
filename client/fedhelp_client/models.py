"""The hospitals' own networks: a large and a small preset for each task.

Large hospitals train a network of MONAI's (ResNet-10; a residual UNet), small ones one of the same
family with less than a tenth of the parameters. The networks of a federation need nothing in
common but the classes: only soft labels on public images pass between them.

All take grey images [B, 1, side, side] with values from 0 to 1 and give logits: [B, C] for
classification, [B, C, side, side] for segmentation. Batch statistics are free to depend on patients
because no network leaves its hospital.

Sources: He et al. 2016 (ResNet); Ronneberger et al. 2015 and Kerfoot et al. 2019 (residual
UNet); MONAI, Cardoso et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from fedhelp_client.data.types import Task
from fedhelp_secure.errors import ConfigurationError

Preset = Literal["large", "small"]

_GREY_MEAN = 0.3
_GREY_DEVIATION = 0.2
"""Of B-mode ultrasound in general; public constants, not measured on anybody's patients."""


class ModelRefused(ConfigurationError):
    """There is no such network."""

    code = "model"


class HospitalModel(nn.Module):
    """A network with the size of image it takes."""

    def __init__(self, body: nn.Module, head: nn.Module, *, side: int) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.side = side
        """Pixels of a side of the images it takes."""

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: [B, F] for classification, the logits for segmentation."""
        features: Tensor = self.body((images - _GREY_MEAN) / _GREY_DEVIATION)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images`` [B, 1, side, side]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @property
    def parameters_in_all(self) -> int:
        """How many numbers the network has learnt."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True, slots=True)
class _ResidualShape:
    side: int
    widths: tuple[int, ...]

    def build(self, classes: int) -> HospitalModel:
        network = ResNet(
            block="basic",
            layers=[1] * len(self.widths),
            block_inplanes=list(self.widths),
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=7,
            conv1_t_stride=2,
            num_classes=classes,
        )
        head = network.get_submodule("fc")
        network.add_module("fc", nn.Identity())
        return HospitalModel(network, head, side=self.side)


@dataclass(frozen=True, slots=True)
class _UNetShape:
    side: int
    channels: tuple[int, ...]
    residual_units: int

    def build(self, classes: int) -> HospitalModel:
        network = UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=classes,
            channels=self.channels,
            strides=(2,) * (len(self.channels) - 1),
            num_res_units=self.residual_units,
            norm="batch",
        )
        return HospitalModel(network, nn.Identity(), side=self.side)


class _Shape(Protocol):
    def build(self, classes: int) -> HospitalModel: ...


_SHAPES: dict[tuple[Task, Preset], _Shape] = {
    # ResNet-10, and the same with a quarter of the channels.
    ("classification", "large"): _ResidualShape(96, (64, 128, 256, 512)),
    ("classification", "small"): _ResidualShape(96, (16, 32, 64, 128)),
    ("segmentation", "large"): _UNetShape(64, (16, 32, 64, 128, 256), 2),
    ("segmentation", "small"): _UNetShape(64, (12, 24, 48, 96), 1),
}


def build_model(preset: Preset, *, task: Task, classes: int, seed: int) -> HospitalModel:
    """A fresh network for ``task`` with ``classes`` classes, initialised from ``seed``.

    The process' own random state is left as it was. Raises ModelRefused for an unknown preset or
    task, or fewer than two classes.
    """
    shape = _SHAPES.get((task, preset))
    if shape is None:
        raise ModelRefused("there is no such model; choose large or small, and one of the tasks.")
    if classes < 2:
        raise ModelRefused("a model needs at least two classes; give the charter's classes.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return shape.build(classes)
