"""Training on own patients: it learns, it depends on the seed alone, bad data changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.learning import discs, silent
from torch.nn import functional

from fedhelp_client.data.types import DataError, Dataset, Task
from fedhelp_client.judging import judge_network
from fedhelp_client.models import build_model
from fedhelp_client.training import (
    TrainingPlan,
    augment,
    batches,
    class_weights,
    images_tensor,
    train_alone,
    training_plan,
)

TASKS: tuple[Task, ...] = ("classification", "segmentation")
QUICK = TrainingPlan(passes=320, learning_rate=3e-3)


@pytest.mark.parametrize("task", TASKS)
def test_a_small_model_learns_a_simple_task(task: Task) -> None:
    own, test = discs(40, seed=1, task=task), discs(24, seed=2, task=task)
    model = build_model("small", task=task, classes=2, seed=0)
    before = judge_network(model, test, task=task).metrics.value
    steps: list[tuple[str, int, int]] = []
    train_alone(
        model, own, task=task, seed=0, plan=QUICK, progress=lambda *event: steps.append(event)
    )
    after = judge_network(model, test, task=task).metrics
    assert after.value > max(0.7, before)
    assert after.name == ("accuracy" if task == "classification" else "dice")
    assert steps == [("training", done, 8) for done in range(1, 9)]
    assert not model.training


def test_the_seed_alone_decides() -> None:
    own = discs(12, seed=1, task="classification")
    plan = replace(QUICK, passes=24)
    weights = []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(noise)
        model = build_model("small", task="classification", classes=2, seed=0)
        train_alone(model, own, task="classification", seed=seed, plan=plan, progress=silent)
        weights.append(model.state_dict()["head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_one_patient_can_be_trained_on() -> None:
    own = discs(1, seed=1, task="classification")
    model = build_model("small", task="classification", classes=2, seed=0)
    plan = replace(QUICK, passes=2)
    train_alone(model, own, task="classification", seed=0, plan=plan, progress=silent)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_bad_data_is_refused_and_the_model_is_unchanged() -> None:
    whole = discs(4, seed=1, task="segmentation")
    without_mask = replace(
        whole, examples=(*whole.examples[:3], replace(whole.examples[3], mask=None))
    )
    model = build_model("small", task="segmentation", classes=2, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for dataset in (Dataset("none", ("a", "b"), ()), without_mask):
        with pytest.raises(DataError):
            train_alone(model, dataset, task="segmentation", seed=0, progress=silent)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_nothing_to_evaluate_on_is_refused() -> None:
    model = build_model("small", task="classification", classes=2, seed=0)
    with pytest.raises(DataError):
        judge_network(model, Dataset("none", ("a", "b"), ()), task="classification")


def test_maps_move_with_their_images() -> None:
    own = discs(8, seed=3, task="segmentation", contrast=255)
    images = images_tensor([example.image for example in own.examples], 96)
    shown, moved = augment(images, images, torch.Generator().manual_seed(1))
    assert moved is not None
    assert not torch.equal(moved, images)
    # Grey values of the image are changed, the map's are not; bright stays bright.
    agreement = functional.cosine_similarity(shown.flatten(1), moved.flatten(1))
    assert float(agreement.min()) > 0.97
    assert float(shown.min()) >= 0.0
    assert float(shown.max()) <= 1.0


def test_batches_cover_everything_once_and_none_is_single() -> None:
    for count in (1, 2, 16, 17, 33, 40):
        parts = batches(count, 16, torch.Generator().manual_seed(0))
        assert sorted(torch.cat(parts).tolist()) == list(range(count))
        assert count == 1 or all(len(part) > 1 for part in parts)


def test_class_weights_ignore_classes_that_do_not_occur() -> None:
    weights = class_weights(torch.tensor([0, 0, 0, 0, 2]), 4)
    assert weights[2] == pytest.approx(2 * float(weights[0]))
    assert weights[1] == 1.0
    assert weights[3] == 1.0


def test_images_of_any_size_become_the_models_size() -> None:
    images = [np.full((20, 50), 255, np.uint8), np.zeros((200, 100), np.uint8)]
    tensor = images_tensor(images, 32)
    assert tuple(tensor.shape) == (2, 1, 32, 32)
    assert float(tensor[0].min()) == pytest.approx(1.0)


def test_plans_bound_the_time_and_still_show_every_image_a_few_times() -> None:
    plan = TrainingPlan(passes=1000, learning_rate=1e-3)
    assert plan.epochs(100) == 10
    assert plan.epochs(100_000) == 4
    large = build_model("large", task="classification", classes=2, seed=0)
    small = build_model("small", task="classification", classes=2, seed=0)
    assert training_plan(large, "classification") != training_plan(small, "classification")
