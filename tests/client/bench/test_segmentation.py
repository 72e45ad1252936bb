"""The bench of segmentation on made-up tokens."""

from __future__ import annotations

import numpy as np
import pytest
from support.clinics import fill_token_store, tiny_lesions

from fedhelp_client.bench.result import UtilityResult
from fedhelp_client.bench.segmentation import dice_of_model, train_token_head
from fedhelp_client.bench.setting import CENTRAL, HEAD, STRONGER, UtilityBench, public_set_of
from fedhelp_client.bench.utility import run_utility_bench
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore

PATIENTS = 80


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UtilityBench:
    cache = tmp_path_factory.mktemp("cache")
    fill_token_store(cache, tiny_lesions(PATIENTS, seed=0), seed=0)
    return UtilityBench(
        seeds=1,
        draws=1,
        epsilons=("3",),
        large=2,
        small=4,
        minimum=5,
        colluders=1,
        delta="1e-6",
        rounds=2,
        cache=cache,
        task="segmentation",
        networks=False,
    )


@pytest.fixture(scope="module")
def world(bench: UtilityBench) -> World:
    return make_world(
        tiny_lesions(PATIENTS, seed=0),
        EmbeddingStore(bench.cache, "segmentation"),
        bench.split(),
        task="segmentation",
        seed=0,
        progress=lambda step, done, total: None,
    )


def test_every_way_of_outlining_is_measured(bench: UtilityBench) -> None:
    result = run_utility_bench(
        bench, lambda seed: tiny_lesions(PATIENTS, seed=seed), lambda step, done, total: None
    )
    assert UtilityResult.model_validate_json(result.model_dump_json()) == result
    assert sum(result.patients.values()) == PATIENTS
    small = {(s.way, s.epsilon): s for s in result.scores if s.group == "small"}
    assert set(small) == {
        (HEAD, None),
        (STRONGER, None),
        (CENTRAL, None),
        ("public model, no noise", None),
        ("public model, shared noise", "3"),
        ("public model, local noise", "3"),
    }
    assert all(scores.accuracy is None for scores in result.scores)
    dice = {way: scores.of("dice").mean for (way, _), scores in small.items()}
    assert dice[CENTRAL] > dice[HEAD] > 0.4
    # With noise it may even be better, by chance, on so few images.
    assert dice["public model, no noise"] > 0.4
    assert small[STRONGER, None].gain.mean == 0


def test_a_token_head_counts_patients_not_images(world: World) -> None:
    place = world.hospitals["large-1"]
    public = public_set_of(world, 20, "segmentation")
    once = train_token_head([place], public)
    assert np.allclose(train_token_head([place, place], public), once, atol=1e-6)
    assert dice_of_model(once, public, world.test) > dice_of_model(-once, public, world.test)
