"""The presets: shapes, sizes, and an initialisation that depends on the seed alone."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from fedhelp_client.data.types import Task
from fedhelp_client.models import ModelRefused, Preset, build_model

TASKS: tuple[Task, ...] = ("classification", "segmentation")
PRESETS: tuple[Preset, ...] = ("large", "small")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_logits_have_the_tasks_shape(task: Task, preset: Preset) -> None:
    model = build_model(preset, task=task, classes=2 if task == "segmentation" else 3, seed=1)
    model.eval()
    with torch.no_grad():
        logits = model(torch.rand(2, 1, model.side, model.side))
    expected = (2, 3) if task == "classification" else (2, 2, model.side, model.side)
    assert tuple(logits.shape) == expected


@pytest.mark.parametrize("task", TASKS)
def test_small_has_less_than_a_tenth_of_the_parameters(task: Task) -> None:
    large, small = (build_model(preset, task=task, classes=3, seed=1) for preset in PRESETS)
    assert small.parameters_in_all * 10 < large.parameters_in_all
    assert small.parameters_in_all < 500_000


def test_the_seed_decides_and_the_process_state_is_untouched() -> None:
    before = torch.random.get_rng_state()
    states = [
        build_model("small", task="classification", classes=3, seed=seed).state_dict()
        for seed in (5, 5, 6)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    weight = "head.weight"
    assert torch.equal(states[0][weight], states[1][weight])
    assert not torch.equal(states[0][weight], states[2][weight])


@pytest.mark.parametrize(
    ("preset", "task", "classes"),
    [("medium", "classification", 3), ("small", "detection", 3), ("small", "classification", 1)],
)
def test_unknown_models_are_refused(preset: str, task: str, classes: int) -> None:
    with pytest.raises(ModelRefused):
        build_model(cast(Preset, preset), task=cast(Task, task), classes=classes, seed=0)
