"""The learning bench on made-up embeddings and short trainings: every method, every figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.clinics import fill_store, fill_token_store, tiny_lesions, tiny_source
from support.learning import silent

from fedhelp_client import distillation, training
from fedhelp_client.architecture import PRESETS
from fedhelp_client.bench import learning_baselines, learning_methods
from fedhelp_client.bench.learning import LearningBench, run_learning_bench
from fedhelp_client.bench.learning_ground import Ground, figures_of_masks
from fedhelp_client.bench.learning_methods import FAULTLESS, FULL
from fedhelp_client.bench.learning_result import LearningResult, MethodScores
from fedhelp_client.bench.setting import HEAD, NETWORK, STRONGER, UtilityBench
from fedhelp_client.bench.world import make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_secure.privacy.defaults import NoProbeDefaults

PATIENTS = 240


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    fill_store(folder, tiny_source(PATIENTS, seed=0), seed=0)
    return folder


@pytest.fixture
def bench(cache: Path, monkeypatch: pytest.MonkeyPatch) -> LearningBench:
    for presets in PRESETS.values():
        for name, architecture in presets.items():
            monkeypatch.setitem(presets, name, architecture.model_copy(update={"side": 16}))
    monkeypatch.setattr(training, "_MINIMUM_EPOCHS", 1)
    monkeypatch.setattr(learning_baselines, "TURNS", 2)
    short = {key: replace(plan, passes=16) for key, plan in training._PLANS.items()}
    monkeypatch.setattr(training, "_PLANS", short)
    plans = {
        key: replace(plan, training=replace(plan.training, passes=16))
        for key, plan in distillation._PLANS.items()
    }
    monkeypatch.setattr(distillation, "_PLANS", plans)
    federation = UtilityBench(
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
    )
    return LearningBench(federation, seeds=(0,), measured={"small": 1, "large": 1}, local=("3",))


def _run(bench: LearningBench) -> tuple[LearningResult, list[LearningResult]]:
    kept: list[LearningResult] = []
    result = run_learning_bench(
        bench,
        lambda seed: tiny_source(PATIENTS, seed=seed),
        lambda step, done, total: None,
        kept.append,
    )
    return result, kept


def _by_name(result: LearningResult, group: str) -> dict[tuple[str, str | None], MethodScores]:
    return {(one.method, one.epsilon): one for one in result.scores if one.group == group}


def test_every_method_is_measured_for_each_group(bench: LearningBench) -> None:
    result, kept = _run(bench)
    assert kept == [result]
    for group in ("small", "large"):
        scores = _by_name(result, group)
        assert set(scores) == {
            (HEAD, None),
            (NETWORK, None),
            ("network alone, all passes", None),
            (STRONGER, None),
            ("FedMD, no privacy", None),
            ("FedMD, local noise", "3"),
            ("FedAvg, small networks, no privacy", None),
            ("central network", None),
            ("central head", None),
            ("distilled, no noise", None),
            ("kept, no noise", None),
            ("distilled, shared noise", "3"),
            ("kept, shared noise", "3"),
            ("distilled, local noise", "3"),
            ("kept, local noise", "3"),
        }
        for one in scores.values():
            assert set(one.figures) == {"accuracy", "balanced_accuracy", "auc"}
            assert all(0 <= figure.mean <= 1 for figure in one.figures.values())
        stronger = scores[STRONGER, None].figures["accuracy"].mean
        alone = [scores[way, None].figures["accuracy"].mean for way in (HEAD, NETWORK)]
        assert stronger == max(alone)
        assert scores[STRONGER, None].gain.mean == 0
        gained = scores["kept, no noise", None]
        assert gained.gain.mean == pytest.approx(
            gained.figures["accuracy"].mean - stronger, abs=1e-3
        )
        # Logits of a few proxies are far fewer bytes than a network's weights or the images.
        fedmd = scores["FedMD, no privacy", None].bytes_sent
        assert 0 < fedmd < scores["central head", None].bytes_sent
        assert fedmd < scores["FedAvg, small networks, no privacy", None].bytes_sent
        assert scores["distilled, shared noise", "3"].bytes_sent >= 2 * 65536
        assert scores[HEAD, None].bytes_sent == 0
    # A second run reads what the first left, noise included.
    again, _ = _run(bench)
    assert again.scores == result.scores
    assert json.loads(result.model_dump_json())["seeds"] == [0]


def test_each_term_is_switched_off_by_itself(bench: LearningBench) -> None:
    result, _ = _run(replace(bench, ablation="3"))
    expected = {
        FULL,
        *(f"without {term} term" for term in ("own", "teacher", "public", "relation")),
        "without label spreading",
        "without foundation model",
        FAULTLESS,
    }
    assert {name for name, _ in _by_name(result, "small")} == expected
    large = _by_name(result, "large")
    assert {name for name, _ in large} == expected | {"without gates"}
    assert large[FULL, "3"].gain.mean == 0
    aucs = {round(one.figures["auc"].mean, 4) for one in large.values()}
    assert len(aucs) > 3


def _lesions(bench: LearningBench, folder: Path) -> dict[tuple[str, str | None], MethodScores]:
    """The small hospital's figures of ``bench`` in a federation that outlines lesions."""
    fill_token_store(folder, tiny_lesions(80, seed=0), seed=0)
    federation = replace(bench.federation, cache=folder, task="segmentation")
    result = run_learning_bench(
        replace(bench, federation=federation, measured={"small": 1, "large": 0}),
        lambda seed: tiny_lesions(80, seed=seed),
        lambda step, done, total: None,
        lambda result: None,
    )
    return _by_name(result, "small")


def test_a_faultless_teacher_says_what_the_proxies_have(bench: LearningBench, cache: Path) -> None:
    world = make_world(
        tiny_source(PATIENTS, seed=0),
        EmbeddingStore(cache, "classification"),
        bench.federation.split(),
        task="classification",
        seed=0,
        progress=silent,
    )
    labels = [example.label for example in world.proxy.dataset.examples]
    taught = learning_methods._true_labels(Ground(bench.federation, world, ("small-1",)))
    assert taught.argmax(axis=1).tolist() == labels
    assert len(set(labels)) == taught.shape[1]
    assert (taught.max(axis=1) == 1).all()
    assert (taught.sum(axis=1) == 1).all()


def test_a_faultless_teacher_outlines_the_proxies_lesions(
    bench: LearningBench, tmp_path: Path
) -> None:
    source = tiny_lesions(80, seed=0)
    fill_token_store(tmp_path, source, seed=0)
    federation = replace(bench.federation, cache=tmp_path, task="segmentation")
    world = make_world(
        source,
        EmbeddingStore(tmp_path, "segmentation"),
        federation.split(),
        task="segmentation",
        seed=0,
        progress=silent,
    )
    taught = learning_methods._true_labels(Ground(federation, world, ("small-1",)))
    figures = figures_of_masks(taught.argmax(axis=3).astype(np.uint8), world.proxy)
    assert figures == (1.0, 0.0)


@pytest.mark.parametrize("epsilon", ["x", "0", "-1"])
def test_a_budget_that_is_none_is_refused_before_anything_is_measured(
    bench: LearningBench, epsilon: str
) -> None:
    with pytest.raises(NoProbeDefaults):
        replace(bench.federation, epsilons=(epsilon,))
    with pytest.raises(NoProbeDefaults):
        replace(bench, local=(epsilon,))


def test_terms_are_switched_off_for_masks_too(bench: LearningBench, tmp_path: Path) -> None:
    scores = _lesions(replace(bench, ablation="3"), tmp_path)
    assert {name for name, _ in scores} == {
        FULL,
        *(f"without {term} term" for term in ("own", "teacher", "public")),
        "without mask refinement",
        "without own correction",
        FAULTLESS,
    }
    assert len({one.figures["dice"].mean for one in scores.values()}) > 3


def test_segmentation_is_measured_by_dice_and_hausdorff(
    bench: LearningBench, tmp_path: Path
) -> None:
    scores = _lesions(bench, tmp_path)
    assert len(scores) == 18
    for one in scores.values():
        assert 0 <= one.figures["dice"].mean <= 1
        assert 0 <= one.figures["hausdorff95"].mean <= 224 * 2**0.5 + 0.001
    # Tokens of a lesion lie elsewhere: a head finds it, and without noise so do all together.
    assert scores["central head", None].figures["dice"].mean > 0.6
    assert scores["public model, no noise", None].figures["dice"].mean > 0.5
