"""The models that DP-SGD may train, and each patient's gradient of them.

A model's first weights are public: zeros for the linear head, and for the small network numbers
that follow from the charter's digest (SHAKE-256), scaled as by He et al. 2015. Normalisation is by
groups of channels (Wu and He 2018): what mixes images of a batch, such as batch normalisation, has
no per-image gradient and is refused.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.probe import PatientExamples, PatientsRefused

with warnings.catch_warnings():
    # Importing it warns about its own use of torch.
    warnings.simplefilter("ignore")
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

SIDE = 48
"""Pixels of a side of the small network's images."""

_CHANNELS = (8, 16, 32)
_GROUPS = 4
_WEIGHT_DOMAIN = b"fedhelp-secure/v1/dp-sgd/first-weights\n"
_GREY_MEAN = 0.3
_GREY_DEVIATION = 0.2


class ModelNotPrivate(ConfigurationError):
    """A model has a layer whose gradients cannot be told apart by image."""

    code = "model-not-private"


@dataclass(frozen=True, slots=True, eq=False)
class PatientRows:
    """Everything of one patient that a step may see."""

    rows: Tensor
    """[n, ...]: features or images, as the model takes them."""
    targets: Tensor
    """[n, C], each row a distribution over the classes."""
    shares: Tensor
    """[n], of the rows in the patient's mean; they sum to 1."""


def first_model(charter: Charter) -> nn.Module:
    """The charter's model with its public first weights. Raises ModelNotPrivate."""
    parameters = charter.privacy.dp_sgd
    classes = len(charter.classes)
    if parameters is None:
        raise ModelNotPrivate("the charter does not choose dp_sgd; there is no model to train.")
    # Layers draw weights of their own when they are made; all of them are replaced here.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if parameters.model == "linear_head":
            head = nn.Linear(charter.probe.dimension, classes, bias=False)
            head.weight.zero_()
            return head
        network = group_norm_cnn(classes)
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.copy_(_public_numbers(charter.digest, name, weight))
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
        return network


def group_norm_cnn(classes: int) -> nn.Sequential:
    """Three strided convolutions with group normalisation, about 6,000 weights."""
    layers: list[nn.Module] = []
    before = 1
    for channels in _CHANNELS:
        layers += [
            nn.Conv2d(before, channels, 3, stride=2, padding=1),
            nn.GroupNorm(_GROUPS, channels),
            nn.ReLU(),
        ]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def check_model(model: nn.Module) -> None:
    """Raises ModelNotPrivate, with the reason, for every model that Opacus' validator refuses.

    The validator looks at layers with weights to train only. So layers that keep numbers of their
    own between images, or mix the images of a batch, are refused here as well without any.
    """
    model.train()
    reasons = [" ".join(str(error).split()) for error in ModuleValidator.validate(model)]
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            reasons.append(f"{name or 'the model'} normalises over the images of a batch.")
        if next(layer.buffers(recurse=False), None) is not None:
            reasons.append(f"{name or 'the model'} keeps running numbers of what it has seen.")
    if reasons:
        raise ModelNotPrivate(
            f"patients cannot be protected in this model: {reasons[0]} Use group normalisation "
            "and plain layers."
        )


class PatientGradients:
    """A model's gradient of one patient at a time: nothing of another patient can enter it."""

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        self._parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self._model = GradSampleModule(model, batch_first=True, loss_reduction="sum")

    @property
    def vector(self) -> NDArray[np.float64]:
        """All weights, [P]."""
        parts = [weight.detach().numpy().ravel() for weight in self._parameters]
        return np.concatenate(parts).astype(np.float64)

    def set_vector(self, vector: NDArray[np.float64]) -> None:
        """Replace all weights."""
        start = 0
        with torch.no_grad():
            for weight in self._parameters:
                part = vector[start : start + weight.numel()].reshape(tuple(weight.shape))
                weight.copy_(torch.from_numpy(part))
                start += weight.numel()

    def gradient(self, patient: PatientRows) -> NDArray[np.float64]:
        """The weighted mean of the gradients of the patient's rows' cross-entropies, [P]."""
        self._model.zero_grad(set_to_none=True)
        # Their gradient is for nothing, but without any torch warns at every hook of Opacus.
        rows = patient.rows.detach().requires_grad_()
        logits = self._model(rows)
        loss = -(patient.targets * logits.log_softmax(dim=1)).sum()
        loss.backward()
        parts = []
        for weight in self._parameters:
            samples: Tensor = weight.grad_sample  # type: ignore[attr-defined]
            weighted = torch.tensordot(patient.shares.to(samples.dtype), samples, dims=1)
            parts.append(weighted.detach().numpy().ravel())
        return np.concatenate(parts).astype(np.float64)

    @torch.no_grad()
    def soft_labels(self, rows: Tensor) -> NDArray[np.float64]:
        """Labels [n, C] of ``rows``."""
        labels: NDArray[np.float64] = self._model(rows).double().softmax(dim=1).numpy()
        return labels


def head_patients(patients: Sequence[PatientExamples]) -> list[PatientRows]:
    """Patients as the linear head takes them: rows of public features."""
    return [
        PatientRows(
            torch.from_numpy(patient.features.astype(np.float32)),
            torch.from_numpy(patient.targets.astype(np.float32)),
            torch.from_numpy(patient.weights / patient.weights.sum()),
        )
        for patient in patients
    ]


def network_patients(
    images: Tensor, targets: NDArray[np.float64], patients: Sequence[str]
) -> list[PatientRows]:
    """Patients as the small network takes them.

    ``images`` [N, 1, `SIDE`, `SIDE`] from 0 to 1, ``targets`` [N, C], ``patients`` [N] pseudonyms.
    Raises PatientsRefused if these differ in number.
    """
    if not len(images) == len(targets) == len(patients):
        raise PatientsRefused("images, targets and patients differ in number; mend the table.")
    rows: dict[str, list[int]] = {}
    for index, patient in enumerate(patients):
        rows.setdefault(patient, []).append(index)
    return [
        PatientRows(
            standard(images[indices]),
            torch.from_numpy(targets[indices].astype(np.float32)),
            torch.full((len(indices),), 1 / len(indices), dtype=torch.float64),
        )
        for _, indices in sorted(rows.items())
    ]


def standard(images: Tensor) -> Tensor:
    """Grey values from 0 to 1 by public constants of B-mode ultrasound."""
    return (images - _GREY_MEAN) / _GREY_DEVIATION


def _public_numbers(charter_digest: str, name: str, weight: Tensor) -> Tensor:
    """Uniform with variance 2 / fan-in, from the digest; the shape of ``weight``."""
    material = _WEIGHT_DOMAIN + f"{charter_digest}\n{name}".encode()
    stream = hashlib.shake_256(material).digest(4 * weight.numel())
    unit = np.frombuffer(stream, dtype="<u4").astype(np.float64) / 2**32
    largest = math.sqrt(6 / (weight.numel() / weight.shape[0]))
    numbers = (2 * unit - 1) * largest
    return torch.from_numpy(numbers.astype(np.float32)).reshape(weight.shape)
