"""The segmenter that stays at home: a node makes what the bench measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.clinics import fill_token_store, tiny_lesions
from support.learning import silent

from fedhelp_client.bench.segmentation import train_token_head
from fedhelp_client.bench.setting import public_set_of
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.split import SplitPlan
from fedhelp_client.data.types import DataError
from fedhelp_client.node.kept import Heads, fit_heads, judge_head
from fedhelp_client.node.patients import own_features
from fedhelp_client.token_head import (
    DIMENSIONS,
    KeptSegmenter,
    TokenHead,
    fit_token_head,
    own_share,
)
from fedhelp_secure.public_set import PublicSet

PATIENTS = 80


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    fill_token_store(folder, tiny_lesions(PATIENTS, seed=0), seed=0)
    return folder


@pytest.fixture(scope="module")
def world(cache: Path) -> World:
    store = EmbeddingStore(cache, "segmentation")
    source = tiny_lesions(PATIENTS, seed=0)
    return make_world(source, store, SplitPlan(), task="segmentation", seed=0, progress=silent)


@pytest.fixture(scope="module")
def public_set(world: World) -> PublicSet:
    return public_set_of(world, 8, "segmentation")


@pytest.fixture(scope="module")
def public_model(world: World, public_set: PublicSet) -> NDArray[np.float64]:
    return train_token_head(list(world.hospitals.values()), public_set)


@pytest.fixture(scope="module")
def heads(
    cache: Path, world: World, public_set: PublicSet, public_model: NDArray[np.float64]
) -> Heads:
    store = EmbeddingStore(cache, "segmentation")
    own = world.hospitals["small-1"].dataset
    features = own_features(own, public_set, store, progress=silent)
    return fit_heads(own, features, public_set, public_model, task="segmentation", public=store)


def test_a_node_keeps_what_the_bench_measures(
    heads: Heads, world: World, public_set: PublicSet, public_model: NDArray[np.float64]
) -> None:
    fine = public_set_of(world, DIMENSIONS, "segmentation")
    weights = train_token_head([world.hospitals["small-1"]], fine)
    own = TokenHead(fine.projection, weights)
    patients = {example.patient for example in world.hospitals["small-1"].dataset.examples}
    share = own_share(len(patients))
    assert share == 1 + len(patients) / 100
    benched = KeptSegmenter(TokenHead(public_set.projection, public_model), own, share=share)
    assert isinstance(heads.alone, TokenHead)
    np.testing.assert_allclose(heads.alone.weights, weights, atol=1e-8)
    np.testing.assert_allclose(
        heads.kept.soft_labels(world.test.embeddings),
        benched.soft_labels(world.test.embeddings),
        atol=1e-8,
    )


def test_the_mixture_is_that_of_the_formula(heads: Heads, world: World) -> None:
    assert isinstance(heads.kept, KeptSegmenter)
    tokens = world.test.embeddings[:2]
    public, own = (head.soft_labels(tokens) for head in (heads.kept.public, heads.kept.own))
    logits = np.log(public) + heads.kept.share * np.log(own)
    expected = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(heads.kept.soft_labels(tokens), expected, atol=1e-9)
    # With no share of its own it is the public model.
    alone = dataclasses.replace(heads.kept, share=0.0)
    np.testing.assert_allclose(alone.soft_labels(tokens), public, atol=1e-12)


def test_a_lesion_is_outlined_at_the_images_own_size(heads: Heads, world: World) -> None:
    examples = tuple(
        dataclasses.replace(
            example,
            image=np.repeat(example.image, factor, axis=0),
            mask=None if example.mask is None else np.repeat(example.mask, factor, axis=0),
        )
        for factor, example in enumerate(world.test.dataset.examples[:4], start=1)
    )
    dataset = dataclasses.replace(world.test.dataset, examples=examples)
    judged = judge_head(heads.kept, dataset, world.test.embeddings[:4])
    assert [mask.shape for mask in judged.masks] == [example.image.shape for example in examples]
    assert judged.metrics.value > 0.9


def test_a_kept_segmenter_comes_back_from_its_file(
    heads: Heads, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "head.npz"
    heads.kept.save(path)
    assert path.stat().st_mode & 0o077 == 0
    tokens = world.test.embeddings[:2]
    loaded = KeptSegmenter.load(path)
    assert np.array_equal(loaded.soft_labels(tokens), heads.kept.soft_labels(tokens))
    for damaged in (b"", b"not an archive", path.read_bytes()[:-60]):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(DataError, match="no segmenter"):
            KeptSegmenter.load(tmp_path / "damaged.npz")


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="folder"):
        fit_token_head([])
