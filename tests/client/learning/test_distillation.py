"""Distillation: a good teacher helps a small hospital, a wrong one does not harm a large one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.learning import discs, silent

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.distillation import (
    DistillationMisused,
    DistillationPlan,
    distil,
    distillation_plan,
)
from fedhelp_client.judging import judge_network
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.training import TrainingPlan, train_alone

QUICK = DistillationPlan(TrainingPlan(passes=800, learning_rate=3e-3))


def _stack(dataset: Dataset) -> NDArray[np.uint8]:
    return np.stack([example.image for example in dataset.examples])


def _soft(dataset: Dataset, right: float = 0.9) -> NDArray[np.float32]:
    """A teacher that gives the probability ``right`` to the true class."""
    labels = np.array([example.label for example in dataset.examples])
    return np.where(labels[:, None] == np.arange(2), right, 1 - right).astype(np.float32)


def _soft_masks(dataset: Dataset) -> NDArray[np.float32]:
    masks = np.stack([np.asarray(example.mask) for example in dataset.examples])
    lesion = np.where(masks > 0, 0.9, 0.1)
    return np.stack([1 - lesion, lesion], axis=-1).astype(np.float32)


def _trained(own: Dataset, task: Task, passes: int) -> HospitalModel:
    model = build_model("small", task=task, classes=2, seed=0)
    plan = TrainingPlan(passes=passes, learning_rate=3e-3)
    train_alone(model, own, task=task, seed=0, plan=plan, progress=silent)
    return model


def _distil(model: HospitalModel, own: Dataset, proxy: Dataset, **changes: object) -> None:
    arguments: dict[str, Any] = {
        "task": "classification",
        "group": "small",
        "proxy_images": _stack(proxy),
        "teacher": _soft(proxy),
        "own_teacher": _soft(own),
        "foundation_embeddings": np.random.default_rng(1)
        .normal(size=(len(proxy.examples), 8))
        .astype(np.float32),
        "seed": 1,
        "progress": silent,
        "plan": QUICK,
    }
    distil(model, own, **(arguments | changes))


def _weights(model: HospitalModel) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def test_a_small_hospital_learns_from_the_teacher() -> None:
    own, proxy = discs(4, seed=1, task="classification"), discs(40, seed=2, task="classification")
    test = discs(40, seed=3, task="classification")
    model = _trained(own, "classification", 40)
    alone = judge_network(model, test, task="classification").metrics.value
    steps: list[tuple[str, int, int]] = []
    _distil(model, own, proxy, progress=lambda *event: steps.append(event))
    assert judge_network(model, test, task="classification").metrics.value > max(0.8, alone + 0.1)
    assert steps == [("distillation", done, 10) for done in range(1, 11)]
    assert not model.training


def test_a_small_hospital_learns_masks_from_the_teacher() -> None:
    own, proxy = discs(2, seed=1, task="segmentation"), discs(30, seed=2, task="segmentation")
    test = discs(20, seed=3, task="segmentation")
    model = _trained(own, "segmentation", 16)
    alone = judge_network(model, test, task="segmentation").metrics.value
    _distil(model, own, proxy, task="segmentation", teacher=_soft_masks(proxy), own_teacher=None)
    assert judge_network(model, test, task="segmentation").metrics.value > max(0.7, alone + 0.1)


def test_the_gates_keep_a_wrong_teacher_from_harming_a_large_hospital() -> None:
    own, proxy = discs(40, seed=1, task="classification"), discs(40, seed=2, task="classification")
    test = discs(40, seed=3, task="classification")
    wrong = {"teacher": _soft(proxy, right=0.05), "own_teacher": _soft(own, right=0.05)}
    training = replace(QUICK.training, passes=400)
    plan = replace(distillation_plan("classification", "large"), training=training)
    trained = _trained(own, "classification", 640)
    assert judge_network(trained, test, task="classification").metrics.value > 0.85
    values = {}
    for gated in (True, False):
        model = copy.deepcopy(trained)
        _distil(model, own, proxy, group="large", plan=replace(plan, gated=gated), **wrong)
        values[gated] = judge_network(model, test, task="classification").metrics.value
    assert values[True] > 0.85
    assert values[False] < 0.7


@pytest.mark.parametrize(
    ("term", "argument"),
    [
        ("teacher", "teacher"),
        ("public", "own_teacher"),
        ("relation", "foundation_embeddings"),
    ],
)
def test_a_term_with_weight_zero_has_no_influence(term: str, argument: str) -> None:
    own, proxy = discs(6, seed=1, task="classification"), discs(8, seed=2, task="classification")
    other: dict[str, Any] = {
        "teacher": _soft(proxy, right=0.3),
        "own_teacher": _soft(own, right=0.3),
        "foundation_embeddings": np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32),
    }
    short = replace(QUICK, training=replace(QUICK.training, passes=32))
    results: dict[float, list[torch.Tensor]] = {0.0: [], 0.5: [], 1.0: []}
    for weight, found in results.items():
        changed: dict[str, Any] = {term: weight}
        plan = replace(short, **changed)
        for changes in ({}, {argument: other[argument]}):
            model = build_model("small", task="classification", classes=2, seed=0)
            _distil(model, own, proxy, plan=plan, **changes)
            found.append(_weights(model))
    assert torch.equal(*results[0.0])
    assert not torch.equal(*results[1.0])
    assert not torch.equal(results[0.5][0], results[1.0][0])


def test_a_teacher_of_own_masks_counts_by_its_weight_and_moves_with_the_image() -> None:
    own, proxy = discs(6, seed=1, task="segmentation"), discs(8, seed=2, task="segmentation")
    short = replace(QUICK, training=replace(QUICK.training, passes=32))
    found = {}
    for weight in (0.0, 1.0):
        for right in (True, False):
            mine = _soft_masks(own) if right else _soft_masks(own)[..., ::-1]
            model = build_model("small", task="segmentation", classes=2, seed=0)
            plan = replace(short, public=weight)
            teacher = _soft_masks(proxy)
            _distil(
                model, own, proxy, task="segmentation", teacher=teacher, own_teacher=mine, plan=plan
            )
            found[weight, right] = _weights(model)
    assert torch.equal(found[0.0, True], found[0.0, False])
    assert not torch.equal(found[1.0, True], found[1.0, False])
    # Nothing but this term: the masks are learnt from it although images are turned and mirrored.
    model = build_model("small", task="segmentation", classes=2, seed=0)
    plan = replace(QUICK, own=0.0, teacher=0.0, public=1.0)
    _distil(
        model,
        own,
        proxy,
        task="segmentation",
        teacher=_soft_masks(proxy),
        own_teacher=_soft_masks(own),
        plan=plan,
    )
    assert judge_network(model, own, task="segmentation").metrics.value > 0.8


def test_the_public_models_labels_may_come_with_a_token_axis() -> None:
    own, proxy = discs(6, seed=1, task="classification"), discs(8, seed=2, task="classification")
    short = replace(QUICK, training=replace(QUICK.training, passes=16))
    found = []
    for labels in (_soft(own), _soft(own)[:, None]):
        model = build_model("small", task="classification", classes=2, seed=0)
        _distil(model, own, proxy, plan=short, own_teacher=labels)
        found.append(_weights(model))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": np.full((7, 2), 0.5, np.float32)},
        {"teacher": np.full((8, 3), 0.5, np.float32)},
        {"teacher": np.full((8, 2), np.nan, np.float32)},
        {"teacher": np.full((8, 4, 4, 2), 0.5, np.float32)},
        {"own_teacher": np.full((5, 2), 0.5, np.float32)},
        {"foundation_embeddings": np.ones((7, 8), np.float32)},
        {"foundation_embeddings": np.full((8, 8), np.inf, np.float32)},
    ],
)
def test_what_does_not_fit_is_refused_and_the_model_is_unchanged(changes: dict[str, Any]) -> None:
    own, proxy = discs(6, seed=1, task="classification"), discs(8, seed=2, task="classification")
    model = build_model("small", task="classification", classes=2, seed=0)
    before = _weights(model)
    with pytest.raises(DistillationMisused):
        _distil(model, own, proxy, **changes)
    assert torch.equal(before, _weights(model))
