"""The hospitals' own networks, built from what `fedhelp_client.architecture` describes.

By default large hospitals train a network of MONAI's (ResNet-10; a residual UNet), small ones one
with less than a tenth of the parameters (a narrow ResNet-10; a narrow SegResNet). The networks of a
federation need nothing in common but the classes: only soft labels on public images pass between
them.

All take grey images [B, 1, side, side] with values from 0 to 1 and give logits: [B, C] for
classification, [B, C, side, side] for segmentation. Batch statistics are free to depend on patients
because no network leaves its hospital.

Sources: He et al. 2016 (ResNet); Huang et al. 2017 (DenseNet); Ronneberger et al. 2015 and Kerfoot
et al. 2019 (residual UNet); Myronenko 2018 (SegResNet); MONAI, Cardoso et al. 2022.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fedhelp_client.architecture import Architecture, ModelRefused, preset
from fedhelp_client.data.types import Task

__all__ = ["HospitalModel", "ModelRefused", "Preset", "build_model", "build_network"]

Preset = Literal["large", "small"]

_GREY_MEAN = 0.3
_GREY_DEVIATION = 0.2
"""Of B-mode ultrasound in general; public constants, not measured on anybody's patients."""

_LAYOUT = torch.channels_last
"""In memory: a processor trains the small networks a third faster so than plane by plane."""

_TRIED = 2
"""Images of the random batch on which a fresh network is tried."""


class HospitalModel(nn.Module):
    """A network with the size of image it takes."""

    def __init__(self, body: nn.Module, head: nn.Module, *, side: int) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.side = side
        """Pixels of a side of the images it takes."""

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: [B, F], or the logits of a network that ends in no linear layer."""
        shown = ((images - _GREY_MEAN) / _GREY_DEVIATION).contiguous(memory_format=_LAYOUT)
        features: Tensor = self.body(shown)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images`` [B, 1, side, side]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @property
    def parameters_in_all(self) -> int:
        """How many numbers the network has learnt."""
        return sum(parameter.numel() for parameter in self.parameters())


def build_model(name: Preset, *, task: Task, classes: int, seed: int) -> HospitalModel:
    """The default network of a group, as `build_network` makes it."""
    return build_network(preset(name, task), task=task, classes=classes, seed=seed)


def build_network(
    architecture: Architecture, *, task: Task, classes: int, seed: int
) -> HospitalModel:
    """A fresh network for ``task`` with ``classes`` classes, initialised from ``seed``.

    It is tried on a random batch. The process' own random state is left as it was. Raises
    ModelRefused if it cannot be imported, built or run, if its logits have another shape than the
    task's, or for fewer than two classes.
    """
    if classes < 2:
        raise ModelRefused("a model needs at least two classes; give the charter's classes.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _construct(architecture, classes)
    model = HospitalModel(network, nn.Identity(), side=architecture.side)
    model.eval()
    tried = torch.rand(
        (_TRIED, 1, model.side, model.side), generator=torch.Generator().manual_seed(seed)
    )
    logits = _try(model, tried, architecture)
    shape = (_TRIED, classes, *(() if task == "classification" else (model.side, model.side)))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
        given = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelRefused(
            f"{architecture.network} gives {given} for {list(tried.shape)}, but {task} with "
            f"{classes} classes needs {list(shape)}; change its parameters or side."
        )
    if not torch.isfinite(logits).all():
        raise ModelRefused(f"{architecture.network} gives numbers that are not finite.")
    if task == "classification":
        model = _with_own_head(model, classes, tried, logits)
    # In place. Torch's stubs leave this form of it out.
    model.to(memory_format=_LAYOUT)  # type: ignore[call-overload]
    return model.train()


def _construct(architecture: Architecture, classes: int) -> nn.Module:
    module, _, name = architecture.network.rpartition(".")
    try:
        make: Callable[..., object] = getattr(importlib.import_module(module), name)
        network = make(**architecture.arguments(classes))
    # The code is the operator's choice and may raise anything.
    except Exception as error:
        raise ModelRefused(
            f"{architecture.network} cannot be built with these parameters: {_of(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelRefused(f"{architecture.network} makes no torch.nn.Module; name one that does.")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ModelRefused(f"{architecture.network} has nothing to learn; name another network.")
    return network


@torch.no_grad()
def _try(model: HospitalModel, images: Tensor, architecture: Architecture) -> object:
    try:
        return model(images)
    # As above.
    except Exception as error:
        raise ModelRefused(
            f"{architecture.network} does not run on grey images {list(images.shape)}: {_of(error)}"
        ) from error


def _of(error: Exception) -> str:
    """The first line of an error that code of somebody else's raised."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _with_own_head(
    model: HospitalModel, classes: int, tried: Tensor, logits: Tensor
) -> HospitalModel:
    """``model`` cut before its last linear layer, if that layer does end it; otherwise as it is."""
    layers = [
        (name, layer)
        for name, layer in model.body.named_modules()
        if name and isinstance(layer, nn.Linear) and layer.out_features == classes
    ]
    if not layers:
        return model
    name, head = layers[-1]
    parent_name, _, own_name = name.rpartition(".")
    parent = model.body.get_submodule(parent_name)
    setattr(parent, own_name, nn.Identity())
    cut = HospitalModel(model.body, head, side=model.side)
    cut.eval()
    with torch.no_grad():
        features = cut.features(tried)
        ends = features.ndim == 2 and features.shape[1] == head.in_features
        if ends and torch.allclose(cut.head(features), logits, atol=1e-5):
            return cut
    setattr(parent, own_name, head)
    return model
