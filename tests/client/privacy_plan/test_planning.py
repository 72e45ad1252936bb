"""What a privacy officer is told before a budget is set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.clinics import CLASSES, fill_store, fill_token_store, tiny_lesions, tiny_source

from fedhelp_client.bench.setting import UtilityBench, public_set_of
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.split import SplitPlan
from fedhelp_client.privacy_plan.commands import meaning, plan
from fedhelp_client.privacy_plan.planning import (
    PlanImpossible,
    Rehearsed,
    figures_of,
    plan_charter,
    rehearse,
)
from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.privacy.defaults import default_probe

SEGMENTED = 80


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> UtilityBench:
    cache = tmp_path_factory.mktemp("cache")
    fill_store(cache, tiny_source(240, seed=0), seed=0)
    return UtilityBench(
        seeds=1,
        draws=3,
        epsilons=("1",),
        large=2,
        small=4,
        minimum=5,
        colluders=1,
        delta="1e-6",
        rounds=2,
        cache=cache,
    )


@pytest.fixture(scope="module")
def world(bench: UtilityBench) -> World:
    return make_world(
        tiny_source(240, seed=0),
        EmbeddingStore(bench.cache, "classification"),
        SplitPlan(),
        task="classification",
        seed=0,
        progress=lambda step, done, total: None,
    )


def charter_of(bench: UtilityBench, world: World) -> Charter:
    dimension = default_probe("classification", bench.epsilons[0], 2).dimension
    return plan_charter(bench, public_set_of(world, dimension), CLASSES)


def test_fewer_honest_shares_and_collusion_cost_more(bench: UtilityBench, world: World) -> None:
    charter = charter_of(bench, world)
    figures = figures_of(charter)
    assert 0.99 < figures.epsilon_aggregate <= 1
    assert [honest for honest, _ in figures.fewer_shares] == [3, 2, 1]
    epsilons = [epsilon for _, epsilon in figures.fewer_shares]
    assert figures.epsilon_aggregate < epsilons[0] < epsilons[1] < epsilons[2]
    assert epsilons[2] == figures.epsilon_collusion
    # Half of the honest shares: half of the noise's variance, twice the loss.
    twice = float(epsilon_of_rho(2 * 2 * charter.round_rho("small"), "1e-6"))
    assert epsilons[1] == pytest.approx(twice, rel=1e-3)
    assert figures.sigma == pytest.approx(2 * figures.share, rel=1e-3)
    assert figures.clip == pytest.approx(0.816, abs=1e-3)


def test_a_rehearsal_really_runs_and_noise_costs_accuracy(
    bench: UtilityBench, world: World
) -> None:
    strict, ample = rehearse(bench, world), rehearse(replace(bench, epsilons=("50",)), world)
    assert strict.alone == ample.alone
    assert len(strict.with_noise) == 3
    assert len(set(strict.with_noise)) > 1
    assert strict.without_noise > strict.alone
    assert strict.cost > ample.cost
    assert abs(ample.cost) < 0.05


@pytest.mark.parametrize("changes", [{"minimum": 7}, {"minimum": 3, "colluders": 3}])
def test_impossible_cohorts_are_refused(
    bench: UtilityBench, world: World, changes: dict[str, int]
) -> None:
    with pytest.raises(PlanImpossible):
        charter_of(replace(bench, **changes), world)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"minimum": 7}, {"colluders": 5}, {"delta": "0.1"}])
def test_impossible_plans_are_refused_before_anything_is_computed(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(PlanImpossible):
        plan(cache=tmp_path / "cache", **changes)
    assert list(tmp_path.iterdir()) == []


def test_the_meaning_names_the_figures(bench: UtilityBench, world: World) -> None:
    charter = charter_of(bench, world)
    figures = figures_of(charter)
    better = " ".join(meaning(charter, figures, Rehearsed("classification", 0.6, 0.8, (0.7, 0.74))))
    assert "2.7 times" in better
    assert "1 in 10^6" in better
    assert f"epsilon {figures.epsilon_collusion:.2f}" in better
    assert "costs 8.0 points of accuracy" in better
    assert "better off together" in better
    worse = " ".join(meaning(charter, figures, Rehearsed("classification", 0.6, 0.7, (0.5,))))
    assert "gains nothing" in worse
    outlined = " ".join(meaning(charter, figures, Rehearsed("segmentation", 0.5, 0.6, (0.59,))))
    assert "costs 1.0 points of Dice" in outlined


def test_the_command_says_it_all(bench: UtilityBench, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from fedhelp_client.data import sources
    from fedhelp_secure.cli import build

    monkeypatch.setattr(
        sources, "resolve", lambda request, **_: tiny_source(240, seed=request.seed)
    )
    called = ["privacy", "plan", "--epsilon", "1", "--draws", "2", "--cache", str(bench.cache)]
    done = CliRunner().invoke(build(called), called)
    assert done.exit_code == 0, done.output
    for said in ("epsilon (aggregate)", "epsilon (collusion)", "only 1", "2 draws", "accuracy"):
        assert said in done.output


def test_the_command_rehearses_segmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from fedhelp_client.data import sources
    from fedhelp_secure.cli import build

    source = tiny_lesions(SEGMENTED, seed=0)
    fill_token_store(tmp_path, source, seed=0)
    monkeypatch.setattr(sources, "resolve", lambda request, **_: source)
    called = ["privacy", "plan", "--task", "segmentation", "--draws", "1", "--rounds", "1"]
    done = CliRunner().invoke(build(called), [*called, "--cache", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "numbers in a release" in done.output
    assert "rehearsed Dice" in done.output
    assert "points of Dice" in done.output
