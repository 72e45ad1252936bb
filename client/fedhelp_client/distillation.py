"""Asymmetric dual distillation: the opened teacher into each hospital's own network.

After FedHelp (arXiv:2412.19654): towards a small hospital in full strength (forward), towards a
large one gently and only where the teacher is sure and does not contradict what the hospital knows
(backward), so that a large hospital does not lose by helping. Nothing here leaves the hospital.

Symbols: f, the own network; p(x) = softmax(f(x)); p_T the same at temperature T; D, own patients
with labels y; P, the public proxy images; q(x), the teacher's soft label of a proxy image; u(x),
the soft label that it gives to an own image, computed at home; e(x), the
foundation model's embedding of a proxy image; h(x), the own network's features; CE, cross-entropy;
KL(a || b) = sum a log(a / b).

    L = w_own      mean over D of CE(y, p(x))                               own patients
      + w_teacher  T^2 mean over P of a(x) KL(q_T(x) || p_T(x))             teacher on proxies
      + w_public   mean over D of b(x, y) KL(u(x) || p(x))                  teacher on own
      + w_relation mean over pairs in P of (cos h h' - cos e e')^2          foundation model

q_T is q^(1/T), normalised (Hinton, Vinyals, Dean 2015). cos is taken of features minus their batch
mean (relational distillation: Park et al. 2019; similarity-preserving: Tung and Mori 2019).

Gates: a = b = 1 towards small. Towards large a(x) = [max q(x) >= c] times the probability that the
network gave to the teacher's class before distillation; b(x, y) = [argmax u(x) = y].

Segmentation uses the first three terms, pixel by pixel (b as well), and adds the soft Dice loss to
the first two: embeddings of whole images say nothing about pixels. Towards a small hospital q and u
are the opened public model, corrected by its own patients (`fedhelp_client.own_correction`);
towards a large one w_public is 0, because an own mask says more than the public model.

Each term is switched off by its weight in `DistillationPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedhelp_client.checkpoint import Checkpoint, run_digest
from fedhelp_client.curve import Curve
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.epochs import Epochs, Optimiser, Terms
from fedhelp_client.models import HospitalModel, Preset
from fedhelp_client.progress import ProgressCallback
from fedhelp_client.training import (
    OwnLoss,
    TrainingPlan,
    augment_with,
    batches,
    images_tensor,
    own_loss,
    predict,
    targets_tensor,
)
from fedhelp_secure.errors import InternalError

_SMALLEST = 1e-6


class DistillationMisused(InternalError):
    """Teacher, proxy images and embeddings do not fit one another."""

    code = "distillation"


@dataclass(frozen=True, slots=True)
class DistillationPlan:
    """Weights of the terms (see the module's formula); 0 switches a term off."""

    training: TrainingPlan
    own: float = 1.0
    teacher: float = 1.0
    public: float = 1.0
    relation: float = 1.0
    temperature: float = 2.0
    gated: bool = False
    """Whether the gates a and b apply."""
    confidence: float = 0.0
    """c: probability that the teacher must give its class, if gated."""
    own_share: float = 0.0
    """Of own patients in the teacher (`fedhelp_client.own_correction`): segmentation only."""


_PLANS: dict[tuple[Task, Preset], DistillationPlan] = {
    ("classification", "small"): DistillationPlan(
        TrainingPlan(passes=6000, learning_rate=2e-3, label_smoothing=0.0), own=0.3
    ),
    ("classification", "large"): DistillationPlan(
        TrainingPlan(passes=1500, learning_rate=1e-3), relation=0.2, gated=True, confidence=0.5
    ),
    ("segmentation", "small"): DistillationPlan(
        TrainingPlan(passes=3600, learning_rate=3e-3, batch=8),
        teacher=2.0,
        public=0.5,
        relation=0.0,
        temperature=1.0,
        own_share=0.6,
    ),
    ("segmentation", "large"): DistillationPlan(
        TrainingPlan(passes=2400, learning_rate=1e-3),
        public=0.0,
        relation=0.0,
        gated=True,
        confidence=0.5,
    ),
}


def distillation_plan(task: Task, group: Preset) -> DistillationPlan:
    """The plan for hospitals of ``group``, chosen on public data."""
    return _PLANS[task, group]


def distil(  # noqa: PLR0913 - a hospital's data, the teacher and the foundation model's answer
    model: HospitalModel,
    own: Dataset,
    *,
    task: Task,
    group: Preset,
    proxy_images: NDArray[np.uint8],
    teacher: NDArray[np.float32],
    own_teacher: NDArray[np.floating] | None,
    foundation_embeddings: NDArray[np.float32],
    seed: int,
    progress: ProgressCallback,
    plan: DistillationPlan | None = None,
    checkpoint: Checkpoint | None = None,
    curve: Curve | None = None,
) -> None:
    """Distil ``teacher`` into ``model``, which was trained on ``own`` alone before.

    ``proxy_images`` uint8 [N, H, W]; ``teacher`` [N, C], or [N, h, w, C] for segmentation;
    ``own_teacher`` [n, C] or [n, 1, C], or [n, h, w, C] for segmentation, the teacher on own
    images, or None; ``foundation_embeddings`` [N, E]. ``progress`` is called after each epoch with
    "distillation"; ``checkpoint`` and ``curve`` are as for `train_alone`. Raises DataError
    without images or masks, DistillationMisused if shapes do not fit; the model is then unchanged.
    """
    plan = plan or distillation_plan(task, group)
    inputs = _Inputs(
        own_images=images_tensor([example.image for example in own.examples], model.side),
        own_targets=targets_tensor(own, task=task, side=model.side),
        own_public=_public_labels(own_teacher, own, side=model.side, task=task),
        proxy_images=images_tensor(list(proxy_images), model.side),
        teacher=_teacher_tensor(teacher, len(proxy_images), own, side=model.side, task=task),
        embeddings=_embeddings_tensor(foundation_embeddings, len(proxy_images)),
    )
    gates = _gates(model, inputs, plan)
    loss_of = own_loss(own, task=task, label_smoothing=plan.training.label_smoothing)
    generator = torch.Generator().manual_seed(seed)
    order = _order(inputs, plan.training, generator)
    optimiser = Optimiser(model, plan.training, steps=sum(map(len, order)))
    run = run_digest(model, seed, plan, *inputs.tensors()) if checkpoint else ""

    def epoch(number: int) -> Iterator[Terms]:
        for own_part, proxy_part in order[number]:
            step = _Step(inputs, gates, plan, own_part=own_part, proxy_part=proxy_part)
            yield step.loss(model, loss_of, generator)

    epochs = Epochs(model, optimiser, generator, "distillation", run, checkpoint, curve)
    epochs.go(len(order), epoch, progress)


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """Everything that a distillation sees, as tensors at the network's size."""

    own_images: Tensor
    own_targets: Tensor
    """[n, C], or [n, C, S, S]."""
    own_public: Tensor | None
    """u, [n, C], or [n, C, S, S]."""
    proxy_images: Tensor
    teacher: Tensor
    """q, [N, C], or [N, C, S, S]."""
    embeddings: Tensor
    """[N, E]."""

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of them."""
        own = (self.own_images, self.own_targets, self.own_public)
        return (*own, self.proxy_images, self.teacher, self.embeddings)


@dataclass(frozen=True, slots=True, eq=False)
class _Gates:
    """How much each image, or pixel, counts."""

    proxy: Tensor
    """a, [N], or [N, S, S]."""
    own: Tensor
    """b, [n], or [n, S, S] with u."""


def _gates(model: HospitalModel, inputs: _Inputs, plan: DistillationPlan) -> _Gates:
    """The gates a and b, from the network as it was before distillation."""
    own = torch.ones_like(inputs.own_targets[:, 0])
    if not plan.gated:
        return _Gates(proxy=torch.ones_like(inputs.teacher[:, 0]), own=own)
    sure, chosen = inputs.teacher.max(dim=1)
    believed = predict(model, inputs.proxy_images).softmax(dim=1)
    agreement = believed.gather(1, chosen.unsqueeze(1)).squeeze(1)
    if inputs.own_public is not None:
        own = (inputs.own_public.argmax(dim=1) == inputs.own_targets.argmax(dim=1)).float()
    return _Gates(proxy=(sure >= plan.confidence).float() * agreement, own=own)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One batch of own and one of proxy images, and the loss on them."""

    inputs: _Inputs
    gates: _Gates
    plan: DistillationPlan
    own_part: Tensor
    proxy_part: Tensor

    def loss(self, model: HospitalModel, own_loss_of: OwnLoss, generator: torch.Generator) -> Terms:
        """The terms of L of the module's formula on this batch, each with its weight."""
        inputs, plan = self.inputs, self.plan
        dense = inputs.teacher.ndim == 4
        classes = inputs.teacher.shape[1]
        own_maps = inputs.own_targets[self.own_part]
        public = None
        if inputs.own_public is not None and plan.public > 0:
            public = inputs.own_public[self.own_part]
        own_gate = self.gates.own[self.own_part]
        if dense and public is not None:
            own_maps = torch.cat([own_maps, public, own_gate.unsqueeze(1)], dim=1)
        own_shown, own_moved = augment_with(inputs.own_images[self.own_part], own_maps, generator)
        own_wanted = own_moved[:, :classes]
        if dense and public is not None:
            public, own_gate = own_moved[:, classes:-1], own_moved[:, -1]
        extra = self.gates.proxy[self.proxy_part]
        maps = inputs.teacher[self.proxy_part]
        if dense:
            # Teacher and gate move with the image.
            maps = torch.cat([maps, extra.unsqueeze(1)], dim=1)
        proxy_shown, moved = augment_with(inputs.proxy_images[self.proxy_part], maps, generator)
        wanted, gate = (moved[:, :-1], moved[:, -1]) if dense else (moved, extra)
        # One forward pass, so that batch normalisation sees both scanners' worlds together.
        features = model.features(torch.cat([own_shown, proxy_shown]))
        logits = model.head(features)
        own_logits, proxy_logits = logits[: len(own_shown)], logits[len(own_shown) :]
        terms = {
            "own": plan.own * own_loss_of(own_logits, own_wanted),
            "teacher": plan.teacher * _teacher_loss(proxy_logits, wanted, gate, plan.temperature),
        }
        if public is not None:
            divergence = _divergence(own_logits, public, temperature=1.0)
            terms["public"] = plan.public * (own_gate * divergence).mean()
        if not dense and plan.relation > 0:
            embeddings = inputs.embeddings[self.proxy_part]
            relation = _relation_loss(features[len(own_shown) :], embeddings)
            terms["relation"] = plan.relation * relation
        return terms


def _teacher_loss(logits: Tensor, wanted: Tensor, gate: Tensor, temperature: float) -> Tensor:
    """Gated KL to the teacher, times T squared; for maps also the soft Dice loss where gated."""
    divergence = temperature**2 * (gate * _divergence(logits, wanted, temperature=temperature))
    if logits.ndim == 2:
        return divergence.mean()
    overlap = DiceLoss(include_background=False, softmax=False, squared_pred=True)
    open_pixels = gate.unsqueeze(1)
    dice: Tensor = overlap(logits.softmax(dim=1) * open_pixels, wanted * open_pixels)
    return divergence.mean() + gate.mean() * dice


def _divergence(logits: Tensor, wanted: Tensor, *, temperature: float) -> Tensor:
    """KL(wanted at the temperature || logits at the temperature), over the class axis."""
    softened = (wanted.clamp(min=_SMALLEST).log() / temperature).log_softmax(dim=1)
    given = (logits / temperature).log_softmax(dim=1)
    return (softened.exp() * (softened - given)).sum(dim=1)


def _relation_loss(features: Tensor, embeddings: Tensor) -> Tensor:
    """Mean squared difference of the cosines between all pairs of a batch."""
    return functional.mse_loss(_cosines(features), _cosines(embeddings))


def _cosines(rows: Tensor) -> Tensor:
    unit = functional.normalize(rows - rows.mean(dim=0, keepdim=True), dim=1)
    return unit @ unit.T


def _order(
    inputs: _Inputs, training: TrainingPlan, generator: torch.Generator
) -> list[list[tuple[Tensor, Tensor]]]:
    """Batches of own and proxy indices for every epoch; an epoch shows each proxy image once."""
    own, proxies = len(inputs.own_images), len(inputs.proxy_images)
    epochs = max(1, math.ceil(training.passes / (2 * proxies)))
    waiting: list[Tensor] = []
    order = []
    for _ in range(epochs):
        pairs = []
        for proxy_part in batches(proxies, training.batch, generator):
            if not waiting:
                waiting = batches(own, training.batch, generator)
            pairs.append((waiting.pop(), proxy_part))
        order.append(pairs)
    return order


def _public_labels(
    own_teacher: NDArray[np.floating] | None, own: Dataset, *, side: int, task: Task
) -> Tensor | None:
    """u as `_teacher_tensor` gives q, or None where the term does not apply."""
    if own_teacher is None:
        return None
    labels = own_teacher[:, 0] if own_teacher.ndim == 3 else own_teacher
    return _teacher_tensor(labels, len(own.examples), own, side=side, task=task)


def _teacher_tensor(
    teacher: NDArray[np.floating], images: int, own: Dataset, *, side: int, task: Task
) -> Tensor:
    """Labels of so many images as [N, C], or at the network's size [N, C, S, S]."""
    dimensions = 2 if task == "classification" else 4
    shape = teacher.shape
    if teacher.ndim != dimensions or shape[0] != images or shape[-1] != len(own.classes):
        raise DistillationMisused("the teacher does not fit the images and the classes.")
    if not np.isfinite(teacher).all():
        raise DistillationMisused("the teacher's labels are not finite.")
    labels = torch.from_numpy(np.ascontiguousarray(teacher, dtype=np.float32))
    if task == "classification":
        return labels
    return functional.interpolate(
        labels.permute(0, 3, 1, 2), size=(side, side), mode="bilinear", antialias=True
    )


def _embeddings_tensor(embeddings: NDArray[np.float32], proxies: int) -> Tensor:
    if embeddings.ndim != 2 or len(embeddings) != proxies or not np.isfinite(embeddings).all():
        raise DistillationMisused("the foundation model's answer does not fit the proxy images.")
    return torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32))
