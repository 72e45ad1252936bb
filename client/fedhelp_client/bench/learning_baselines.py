"""What others do, with the same data, networks and passes.

FedMD (Li and Wang 2019): every hospital sends its network's logits on the public proxies, the plain
mean comes back, and each learns from it and from its own patients; one exchange, after training
alone. With privacy, each hospital sends what
`fedhelp_secure.privacy.mechanisms.LogitNoise` makes of its logits, with the whole noise of its own.

FedAvg (McMahan et al. 2017): one small network for all, trained in turns at every hospital and
averaged, batch statistics included, by numbers of images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_client.bench.federation import make_charter
from fedhelp_client.bench.learning_ground import Ground, Teaching
from fedhelp_client.distillation import DistillationPlan
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.node.mechanisms import proxy_logits
from fedhelp_client.training import images_tensor, predict, train_alone
from fedhelp_secure.charter import Charter, Group, bound_of_sum, parse_charter, share_units
from fedhelp_secure.privacy.accountant import sigma_for_budget
from fedhelp_secure.privacy.mechanisms import LogitNoise, Setting
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.fixed_point import to_real
from fedhelp_secure.secure_sum.plan import plan_secure_sum

TURNS = 5
"""Averages of FedAvg."""

_CLIP = 16
"""Norm of all of a hospital's logits; signal and noise grow with it alike."""


def plain_plan(ground: Ground, group: Group) -> DistillationPlan:
    """Teacher and own labels in equal parts, no gates, nothing else; passes as ours."""
    return dataclasses.replace(
        ground.plan(group), own=1.0, teacher=1.0, public=0.0, relation=0.0, gated=False
    )


def fedmd_teaching(ground: Ground) -> Teaching:
    """Softmax of the plain mean of all networks' logits on the proxies, at the networks' size."""
    total: torch.Tensor | None = None
    for name in ground.world.hospitals:
        model = ground.alone(name)
        logits = predict(model, images_tensor(list(ground.proxy_images), model.side))
        total = logits if total is None else total + logits
    if total is None:
        raise ValueError("a federation without hospitals")
    mean = (total / len(ground.world.hospitals)).softmax(dim=1)
    if mean.ndim == 4:
        mean = mean.permute(0, 2, 3, 1)
    return Teaching(mean.contiguous().numpy())


def noised_fedmd_teaching(ground: Ground, epsilon: str) -> tuple[Teaching, int]:
    """FedMD's mean of logits that each hospital noised itself for ``epsilon``, and bytes sent.

    For segmentation logits are averaged over each patch, as the mechanism wants them.
    """
    public_set = ground.public_set(epsilon)
    charter = _logit_charter(ground, public_set, epsilon)

    def draw() -> NDArray[np.float64]:
        opened = np.zeros(charter.secure_sum.values, dtype=np.int64)
        for name in ground.world.hospitals:
            mechanism = LogitNoise(Setting(charter, public_set, name))
            logits = proxy_logits(ground.alone(name), public_set, ground.task)
            query = mechanism.contribution(mechanism.initial_state(), logits)
            opened += query + draw_share(len(query), charter.privacy.sigma_units)
        return to_real(opened, charter.secure_sum.fraction_bits) / len(ground.world.hospitals)

    tokens = public_set.features.shape[1]
    mean = ground.kept_numbers(f"noised logits {epsilon} {public_set.digest}", draw)
    labels = torch.from_numpy(mean.reshape(len(public_set.images), tokens, -1)).softmax(dim=2)
    sent = charter.secure_sum.ciphertext_bytes
    if ground.task == "classification":
        return Teaching(labels[:, 0].float().numpy()), sent
    grid = round(math.sqrt(tokens))
    maps = labels.float().reshape(len(labels), grid, grid, -1)
    return Teaching(maps.contiguous().numpy()), sent


def _logit_charter(ground: Ground, public_set: PublicSet, epsilon: str) -> Charter:
    """The bench's charter with the mechanism ``logit_noise``, as checked as any."""
    terms = ground.bench.terms(epsilon, ground.world.test.dataset.classes)
    document: dict[str, Any] = make_charter(terms, public_set).model_dump(mode="json")
    count, tokens = public_set.features.shape[:2]
    clip_units = _CLIP << document["secure_sum"]["fraction_bits"]
    sigma = sigma_for_budget(
        epsilon=epsilon, delta=terms.delta, sensitivity=2 * clip_units, rounds=1
    )
    honest = max(1, terms.minimum - terms.colluders)
    share = share_units(sigma_units=sigma, weight=1, honest=honest)
    weights = [1] * len(terms.hospitals)
    document["rounds"]["count"] = 1
    document["privacy"] |= {
        "mechanism": "logit_noise",
        "logit_noise": {"tokens": int(tokens)},
        "clip_units": clip_units,
        "sigma_units": sigma,
    }
    document["secure_sum"] = plan_secure_sum(
        values=int(count * tokens) * len(terms.classes),
        fraction_bits=document["secure_sum"]["fraction_bits"],
        bound_of_sum=bound_of_sum([(1, share) for _ in weights], largest_release=clip_units),
        weights=weights,
    ).model_dump(mode="json")
    return parse_charter(document)


def federated_average(ground: Ground) -> HospitalModel:
    """One small network, trained in `TURNS` turns at all hospitals and averaged after each."""
    classes = len(ground.world.test.dataset.classes)
    whole = build_model("small", task=ground.task, classes=classes, seed=ground.seed)
    plan = ground.passes("small")
    plan = dataclasses.replace(plan, passes=plan.passes // TURNS)
    images = sum(len(place.dataset.examples) for place in ground.world.hospitals.values())
    for turn in range(TURNS):
        start = {name: value.clone() for name, value in whole.state_dict().items()}
        sums = {name: torch.zeros_like(value, dtype=torch.double) for name, value in start.items()}
        for place in ground.world.hospitals.values():
            whole.load_state_dict(start)
            train_alone(
                whole,
                place.dataset,
                task=ground.task,
                seed=ground.seed * TURNS + turn,
                progress=lambda step, done, total: None,
                plan=plan,
            )
            for name, value in whole.state_dict().items():
                sums[name] += value.double() * (len(place.dataset.examples) / images)
        whole.load_state_dict({name: value.to(start[name].dtype) for name, value in sums.items()})
    return whole


def logits_bytes(ground: Ground) -> int:
    """That a hospital of FedMD sends, as 32-bit numbers."""
    sent: int = fedmd_teaching(ground).teacher.nbytes
    return sent


def weights_bytes(model: HospitalModel) -> int:
    """That a hospital of FedAvg sends in all turns."""
    return TURNS * sum(4 * int(value.numel()) for value in model.state_dict().values())


def images_bytes(ground: Ground) -> int:
    """That a hospital would send on average to have its patients pooled: the images as they are."""
    sizes = [
        example.image.nbytes
        for place in ground.world.hospitals.values()
        for example in place.dataset.examples
    ]
    return int(sum(sizes)) // len(ground.world.hospitals)
