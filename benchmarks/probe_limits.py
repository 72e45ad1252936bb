"""What limits the probe: the backbone, the projection, the way through sums, or the noise.

    python benchmarks/probe_limits.py --data ../shared/data/busi --seeds 8 --cache out/bench-utility

Accuracy, balanced accuracy and AUC on images that belong to nobody, mean over seeds. A line takes
one thing more away from what one hospital with everybody's patients could do.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise
from fedhelp_client.bench.setting import UtilityBench, opened_models, public_set_of
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.sources import Request, resolve
from fedhelp_client.head import train_head
from fedhelp_client.metrics import accuracy, one_vs_rest_auc
from fedhelp_client.node.patients import patient_examples
from fedhelp_secure.privacy.probe import fit_moments, soft_labels

RIDGE = 0.001
"""Of the pooled fits in the projection: the best of 0.0003 to 0.01 at 24 and at 40 dimensions."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--setting", choices=("stated", "demo"), default="stated")
    parser.add_argument("--no-styles", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("out/bench-utility"))
    arguments = parser.parse_args()
    bench = UtilityBench(
        seeds=arguments.seeds,
        draws=arguments.draws,
        epsilons=("1", "3", "8"),
        large=2,
        small=4,
        minimum=5,
        colluders=1,
        delta="1e-6",
        rounds=None,
        cache=arguments.cache,
        setting=arguments.setting,
        styles=not arguments.no_styles,
    )
    seen: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for seed in range(arguments.seeds):
        request = Request(dataset=None, data=arguments.data, task="classification", seed=seed)
        world = make_world(
            resolve(request, environment={}, home=Path.home()),
            EmbeddingStore(arguments.cache, "classification"),
            bench.split(),
            task="classification",
            seed=seed,
            progress=lambda step, done, total: None,
            styles=bench.styles,
        )
        for name, probabilities in _ways(bench, world):
            seen[name].append(_figures(probabilities, world))
    for name, figures in seen.items():
        print(f"{name:60} " + " ".join(f"{value:.3f}" for value in np.mean(figures, axis=0)))


def _ways(bench: UtilityBench, world: World) -> list[tuple[str, NDArray[np.float64]]]:
    pooled = [example for place in world.hospitals.values() for example in place.dataset.examples]
    together = type(world.test.dataset)("pooled", world.test.dataset.classes, tuple(pooled))
    embeddings = np.concatenate([place.embeddings for place in world.hospitals.values()])
    test = world.test.embeddings[:, 0]
    head = train_head(together, embeddings[:, 0], public_set_of(world, 2).projection)
    ways = [("pooled, all entries", head.soft_labels(test))]
    for dimension in (16, 24, 40, 80):
        projection = public_set_of(world, dimension).projection
        rows = projection.apply(embeddings).astype(np.float64)
        patients = patient_examples(together, rows, task="classification")
        stacked = np.concatenate([patient.features for patient in patients])
        targets = np.concatenate([patient.targets for patient in patients])
        weights = np.concatenate([patient.weights / patient.weights.sum() for patient in patients])
        weights /= weights.sum()
        moments = (weights[:, np.newaxis] * stacked).T @ targets
        start = np.zeros_like(moments)
        model = fit_moments(stacked, moments, ridge=RIDGE, start=start, weights=weights)
        applied = projection.apply(test).astype(np.float64)
        ways.append((f"pooled, {dimension} dimensions", soft_labels(model, applied)))
    conditions: list[tuple[str, Noise]] = []
    for epsilon in bench.epsilons:
        conditions += [(epsilon, "none"), (epsilon, "shared"), (epsilon, "local")]
    for epsilon, noise in conditions:
        dimension = bench.probe_of(epsilon).dimension
        public_set = public_set_of(world, dimension)
        applied = public_set.projection.apply(test).astype(np.float64)
        name = f"public model of epsilon {epsilon} ({dimension} dimensions), noise: {noise}"
        draws = 1 if noise == "none" else bench.draws
        for model in opened_models(
            bench, world, public_set, epsilon=epsilon, noise=noise, draws=draws
        ):
            ways.append((name, soft_labels(model, applied)))
    return ways


def _figures(probabilities: NDArray[np.float64], world: World) -> NDArray[np.float64]:
    labels = np.array([example.label for example in world.test.dataset.examples])
    measured = accuracy(probabilities.argmax(axis=1), labels)
    return np.array([measured.value, measured.balanced, one_vs_rest_auc(probabilities, labels)])


if __name__ == "__main__":
    main()
