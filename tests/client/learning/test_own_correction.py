"""The teacher that a hospital's own patients corrected: better for it, and off by its share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.learning import discs

from fedhelp_client.data.embeddings import resize_images, resize_masks, token_targets
from fedhelp_client.data.types import Dataset
from fedhelp_client.distillation import distillation_plan
from fedhelp_client.own_correction import correct
from fedhelp_secure.privacy.mechanisms import PublicLabels
from fedhelp_secure.privacy.probe import soft_labels
from fedhelp_secure.public_set import Projection, PublicSet, fit_projection

PLAN = distillation_plan("segmentation", "small")


def _tokens(dataset: Dataset, seed: int) -> np.ndarray:
    """[n, 256, 6]: how much of each patch is lesion, among noise."""
    masks = resize_masks([np.asarray(example.mask) for example in dataset.examples])
    lesion = token_targets(masks)[..., 1:]
    noise = np.random.default_rng(seed).normal(size=(*lesion.shape[:2], 5))
    tokens: np.ndarray = np.concatenate([2 * lesion, noise], axis=2).astype(np.float32)
    return tokens


def _public(proxy: Dataset) -> tuple[PublicSet, Projection]:
    tokens = _tokens(proxy, 1)
    projection = fit_projection(tokens, 7)
    images = resize_images([example.image for example in proxy.examples])
    return PublicSet(images, projection.apply(tokens), projection), projection


def test_own_patients_correct_a_model_that_knows_nothing() -> None:
    own, proxy = discs(6, seed=1, task="segmentation"), discs(10, seed=2, task="segmentation")
    public_set, projection = _public(proxy)
    features = projection.apply(_tokens(own, 3)).astype(np.float64)
    model = np.zeros((public_set.features.shape[2], 2))
    labels = PublicLabels(proxies=soft_labels(model, public_set.features), model=model)
    taught = correct(labels, own, features, public_set, task="segmentation", plan=PLAN)
    masks = resize_masks([np.asarray(example.mask) for example in proxy.examples])
    wanted = token_targets(masks)[..., 1] > 0.5
    assert ((taught.proxies[..., 1] > 0.5) == wanted).mean() > 0.95
    assert taught.own is not None
    mine = resize_masks([np.asarray(example.mask) for example in own.examples])
    assert taught.own.shape == (6, 224, 224, 2)
    assert ((taught.own[..., 1] > 0.5) == mine).mean() > 0.9


def test_it_is_off_by_its_share_and_for_classification() -> None:
    own, proxy = discs(4, seed=1, task="segmentation"), discs(5, seed=2, task="segmentation")
    public_set, projection = _public(proxy)
    features = projection.apply(_tokens(own, 3)).astype(np.float64)
    model = np.random.default_rng(4).normal(size=(public_set.features.shape[2], 2))
    labels = PublicLabels(proxies=soft_labels(model, public_set.features), model=model)
    off = replace(PLAN, own_share=0.0, public=0.0)
    taught = correct(labels, own, features, public_set, task="segmentation", plan=off)
    assert taught.proxies is labels.proxies
    assert taught.own is None
    taught = correct(labels, own, features, public_set, task="classification", plan=PLAN)
    assert taught.proxies is labels.proxies
    assert taught.own == pytest.approx(soft_labels(model, features))


def test_only_small_hospitals_correct_the_teacher_of_masks() -> None:
    for task, group in (("classification", "small"), ("segmentation", "large")):
        assert distillation_plan(task, group).own_share == 0  # type: ignore[arg-type]
    assert PLAN.own_share > 0
