"""The bench on made-up embeddings: everything after the backbone is the product's own."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.clinics import CLASSES, WIDTH, fill_store, tiny_source

from fedhelp_client.bench.classification import LAST_LAYER
from fedhelp_client.bench.federation import Terms, make_charter, run_rounds
from fedhelp_client.bench.result import UtilityResult
from fedhelp_client.bench.setting import (
    HEAD,
    STRONGER,
    UtilityBench,
    opened_models,
    public_set_of,
)
from fedhelp_client.bench.utility import run_utility_bench
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.split import SplitPlan
from fedhelp_client.node.patients import patient_examples
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.privacy.defaults import default_probe

PATIENTS = 240


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    for seed in (0, 1):
        fill_store(folder, tiny_source(PATIENTS, seed=seed), seed=seed)
    return folder


def bench(cache: Path, **changes: object) -> UtilityBench:
    usual: dict[str, object] = {
        "seeds": 2,
        "draws": 2,
        "epsilons": ("1", "3"),
        "large": 2,
        "small": 4,
        "minimum": 5,
        "colluders": 1,
        "delta": "1e-6",
        "rounds": 2,
        "cache": cache,
        "networks": False,
    }
    return UtilityBench(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(cache: Path) -> World:
    return make_world(
        tiny_source(PATIENTS, seed=0),
        EmbeddingStore(cache, "classification"),
        SplitPlan(),
        task="classification",
        seed=0,
        progress=lambda step, done, total: None,
    )


def test_all_ways_are_measured_for_both_groups(cache: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = run_utility_bench(
        bench(cache),
        lambda seed: tiny_source(PATIENTS, seed=seed),
        lambda step, done, total: seen.append((step, done, total)),
    )
    assert UtilityResult.model_validate_json(result.model_dump_json()) == result
    assert seen[-1] == ("seeds", 2, 2)
    small = {(s.way, s.epsilon): s for s in result.scores if s.group == "small"}
    assert {(s.way, s.epsilon) for s in result.scores if s.group == "large"} == set(small)
    assert set(small) == {
        (HEAD, None),
        (LAST_LAYER, None),
        (STRONGER, None),
        ("central, no privacy", None),
        ("kept, no noise", None),
        *((f"kept, {noise} noise", epsilon) for noise in ("shared", "local") for epsilon in "13"),
    }
    for scores in result.scores:
        for spread in (scores.of("accuracy"), scores.of("balanced_accuracy"), scores.of("auc")):
            assert 0 <= spread.least <= spread.mean <= spread.largest <= 1
        assert scores.way != STRONGER or scores.gain.mean == 0
    central, alone = small["central, no privacy", None], small[STRONGER, None]
    assert central.of("accuracy").mean > alone.of("accuracy").mean
    assert small["kept, no noise", None].gain.mean > 0.03
    difference = central.of("accuracy").mean - alone.of("accuracy").mean
    assert central.gain.mean == pytest.approx(difference)
    with pytest.raises(KeyError):
        central.of("dice")


def test_places_are_apart_and_every_image_has_its_embedding(world: World) -> None:
    places = [*world.hospitals.values(), world.proxy, world.test]
    patients = [patient for place in places for patient in place.dataset.patients()]
    assert len(patients) == len(set(patients)) == PATIENTS
    for place in places:
        assert place.embeddings.shape == (len(place.dataset.examples), 1, WIDTH)


def terms(**changes: object) -> Terms:
    usual: dict[str, object] = {
        "task": "classification",
        "classes": CLASSES,
        "hospitals": {"large-1": "large", "small-1": "small", "small-2": "small"},
        "minimum": 3,
        "colluders": 1,
        "epsilon": "3",
        "delta": "1e-6",
        "rounds": 2,
        "probe": default_probe("classification", "3", 2),
    }
    return Terms(**{**usual, **changes})  # type: ignore[arg-type]


def test_the_charter_keeps_the_budget_and_is_refused_where_the_products_would_be(
    world: World,
) -> None:
    public = public_set_of(world, 24)
    charter = make_charter(terms(), public)
    spent = epsilon_of_rho(2 * charter.round_rho("small"), "1e-6")
    assert Fraction("2.99") < spent <= 3
    public.check(charter)
    with pytest.raises(CharterRefused, match="minimum"):
        make_charter(terms(minimum=4), public)


def test_rounds_without_noise_are_the_exact_sum_of_the_hospitals(world: World) -> None:
    public = public_set_of(world, 24)
    charter = make_charter(terms(rounds=1), public)
    patients = {
        name: patient_examples(
            world.hospitals[name].dataset,
            public.projection.apply(world.hospitals[name].embeddings).astype(np.float64),
            task="classification",
        )
        for name in ("large-1", "small-1", "small-2")
    }
    start = probe.initial_model(charter)
    everybody = [patient for cohort in patients.values() for patient in cohort]
    opened = probe.contribution(charter, start, everybody)
    expected = probe.apply_step(charter, public, start, opened, round_number=1)
    assert np.array_equal(run_rounds(charter, public, patients, "none"), expected)


def test_noise_is_fresh_and_own_noise_is_larger_than_shared(cache: Path, world: World) -> None:
    public = public_set_of(world, default_probe("classification", "3", 2).dimension)
    models = {
        noise: list(opened_models(bench(cache), world, public, epsilon="3", noise=noise, draws=6))
        for noise in ("none", "shared", "local")
    }
    assert all(np.array_equal(model, models["none"][0]) for model in models["none"])
    spread = {noise: float(np.std(drawn, axis=0).mean()) for noise, drawn in models.items()}
    assert spread["shared"] > 0
    # Six full noises against six shares of which four make one: twice the deviation.
    assert 1.5 < spread["local"] / spread["shared"] < 2.7


def test_the_command_prints_and_writes_what_it_measured(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from fedhelp_client.data import sources
    from fedhelp_secure.cli import build

    monkeypatch.setattr(
        sources, "resolve", lambda request, **_: tiny_source(PATIENTS, seed=request.seed)
    )
    called = ["bench", "utility", "--seeds", "1", "--draws", "1", "--epsilon", "3", "--rounds", "1"]
    called += ["--setting", "demo", "--cache", str(cache), "--no-networks"]
    called += ["--json", str(tmp_path / "f.json")]
    done = CliRunner().invoke(build(called), called)
    assert done.exit_code == 0, done.output
    assert "kept, shared noise" in done.output
    assert "head alone" in done.output
    document = json.loads((tmp_path / "f.json").read_text())
    assert document["minimum"] == 5
    assert document["rounds"] == {"3": 1, "100": 1}
