"""What a hospital has in the end, alone and with the others, on images that belong to nobody.

Everything measured is the product's own: the split, the projection, the patients' integer vectors,
real discrete Gaussian shares, the planner's defaults, the public model, and what a node does at
home. Only transport and encryption are left out: see `fedhelp_client.bench.federation`.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise, Terms, make_charter, run_rounds
from fedhelp_client.bench.networks import network_alone
from fedhelp_client.bench.result import Scores, Spread, UtilityResult
from fedhelp_client.bench.world import Place, World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitPlan
from fedhelp_client.data.types import Dataset
from fedhelp_client.head import keep_classifier, train_head
from fedhelp_client.metrics import accuracy, one_vs_rest_auc
from fedhelp_client.node.patients import patient_examples
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.backbone import EMBEDDING_WIDTH, TOKEN_WIDTH
from fedhelp_secure.charter import Group
from fedhelp_secure.privacy.defaults import PROJECTIONS, default_probe, default_rounds
from fedhelp_secure.public_set import PublicSet, fit_projection

WITHOUT_NOISE = "100"
"""A run without noise takes the defaults of this epsilon, the most that any budget affords."""

NETWORK = "network alone"
HEAD = "head alone"
LAST_LAYER = "head alone, last layer only"
"""For comparison: a head on what `Backbone.embed` gives. Not among those that are the stronger."""
STRONGER = "stronger alone"


@dataclass(frozen=True, slots=True)
class UtilityBench:
    """What to measure."""

    seeds: int
    draws: int
    epsilons: tuple[str, ...]
    large: int
    small: int
    minimum: int
    colluders: int
    delta: str
    rounds: int | None
    """None: `default_rounds` of each budget."""
    cache: Path
    networks: bool = True
    """Whether to train the hospitals' own networks, which takes minutes a seed."""

    def groups(self) -> dict[str, Group]:
        """The hospitals and their groups."""
        names = SplitPlan(large=self.large, small=self.small).hospitals()
        return {name: "large" if name.startswith("large") else "small" for name in names}

    def rounds_of(self, epsilon: str) -> int:
        """How many rounds a budget is spent in."""
        return self.rounds or default_rounds("classification", epsilon)

    def terms(self, epsilon: str, classes: Sequence[str]) -> Terms:
        """What a charter of this federation with one budget fixes."""
        rounds = self.rounds_of(epsilon)
        return Terms(
            task="classification",
            classes=tuple(classes),
            hospitals=self.groups(),
            minimum=self.minimum,
            colluders=self.colluders,
            epsilon=epsilon,
            delta=self.delta,
            rounds=rounds,
            probe=default_probe("classification", epsilon, rounds),
        )


@dataclass(frozen=True, slots=True)
class _Way:
    name: str
    epsilon: str | None


_Figures = tuple[float, float, float]
"""Accuracy, balanced accuracy, AUC."""
_OfHospital = dict[tuple[_Way, str], _Figures]


def run_utility_bench(
    bench: UtilityBench, source_of: Callable[[int], Source], progress: ProgressCallback
) -> UtilityResult:
    """Measure every way for every seed; ``source_of`` gives the data for a seed.

    Raises SplitImpossible, DataError or CharterRefused if data or cohort do not fit.
    """
    began = time.monotonic()
    store = EmbeddingStore(bench.cache, "classification")
    of_seeds: list[_OfHospital] = []
    for seed in range(bench.seeds):
        world = make_world(
            source_of(seed),
            store,
            SplitPlan(large=bench.large, small=bench.small),
            task="classification",
            seed=seed,
            progress=lambda step, done, total: None,
        )
        of_seeds.append(_measure(bench, world, progress))
        progress("seeds", seed + 1, bench.seeds)
    budgets = (*bench.epsilons, WITHOUT_NOISE)
    return UtilityResult(
        data=source_of(0).sentence,
        seeds=list(range(bench.seeds)),
        draws=bench.draws,
        large=bench.large,
        small=bench.small,
        minimum=bench.minimum,
        colluders=bench.colluders,
        delta=bench.delta,
        rounds={epsilon: bench.rounds_of(epsilon) for epsilon in budgets},
        probe={
            epsilon: dataclasses.asdict(
                default_probe("classification", epsilon, bench.rounds_of(epsilon))
            )
            for epsilon in budgets
        },
        scores=_scores(bench.groups(), of_seeds),
        seconds=round(time.monotonic() - began, 1),
    )


def public_set_of(world: World, dimension: int) -> PublicSet:
    """The public set of ``world``'s proxies, as ``fedhelp client public-set`` makes it."""
    chosen = PROJECTIONS["classification"]
    projection = fit_projection(
        world.proxy.embeddings, dimension, whitening=chosen.whitening, constant=chosen.constant
    )
    images = resize_images([example.image for example in world.proxy.dataset.examples])
    return PublicSet(images, projection.apply(world.proxy.embeddings), projection)


def opened_model(
    bench: UtilityBench, world: World, public_set: PublicSet, *, epsilon: str, noise: Noise
) -> NDArray[np.float64]:
    """The public model after all rounds under ``epsilon``, with fresh noise."""
    terms = bench.terms(epsilon, world.test.dataset.classes)
    patients = {
        name: patient_examples(place.dataset, _projected(public_set, place), task="classification")
        for name, place in world.hospitals.items()
    }
    return run_rounds(make_charter(terms, public_set), public_set, patients, noise)


def _measure(bench: UtilityBench, world: World, progress: ProgressCallback) -> _OfHospital:
    figures = _alone(bench, world)
    progress("alone", world.seed, bench.seeds)
    central = train_head(
        _pooled(world),
        np.concatenate([place.embeddings[:, 0] for place in world.hospitals.values()]),
        public_set_of(world, 2).projection,
    )
    scored = _figures(central.soft_labels(world.test.embeddings[:, 0]), world.test)
    figures[_Way("central, no privacy", None), "all"] = scored
    conditions: list[tuple[str, Noise]] = [(WITHOUT_NOISE, "none")]
    conditions += [(epsilon, "shared") for epsilon in bench.epsilons]
    conditions += [(epsilon, "local") for epsilon in bench.epsilons]
    for epsilon, noise in conditions:
        figures |= _distilled(bench, world, epsilon, noise)
        progress(f"epsilon {epsilon}, {noise}", world.seed, bench.seeds)
    return figures


def _alone(bench: UtilityBench, world: World) -> _OfHospital:
    figures: _OfHospital = {}
    projection = public_set_of(world, 2).projection
    last = fit_projection(_last_layer(world.proxy.embeddings), 2)
    for name, place in world.hospitals.items():
        head = train_head(place.dataset, place.embeddings[:, 0], projection)
        of_head = _figures(head.soft_labels(world.test.embeddings[:, 0]), world.test)
        figures[_Way(HEAD, None), name] = of_head
        measured = [of_head]
        of_last = train_head(place.dataset, _last_layer(place.embeddings)[:, 0], last)
        figures[_Way(LAST_LAYER, None), name] = _figures(
            of_last.soft_labels(_last_layer(world.test.embeddings)[:, 0]), world.test
        )
        if bench.networks:
            network = network_alone(
                bench.cache, place.dataset, world.test.dataset, bench.groups()[name], world.seed
            )
            measured.append(_figures(network, world.test))
            figures[_Way(NETWORK, None), name] = measured[-1]
        # By the withheld images themselves: kind to what the federation is compared with.
        figures[_Way(STRONGER, None), name] = max(measured)
    return figures


def _last_layer(summaries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class token and mean patch token of the final layer norm, [N, T, 768]."""
    return summaries[..., -4 * TOKEN_WIDTH :][..., :EMBEDDING_WIDTH]


def _distilled(bench: UtilityBench, world: World, epsilon: str, noise: Noise) -> _OfHospital:
    rounds = bench.rounds_of(epsilon)
    dimension = default_probe("classification", epsilon, rounds).dimension
    public_set = public_set_of(world, dimension)
    way = _Way(f"kept, {noise} noise" if noise != "none" else "kept, no noise", epsilon)
    drawn: dict[str, list[_Figures]] = defaultdict(list)
    for _ in range(1 if noise == "none" else bench.draws):
        model = opened_model(bench, world, public_set, epsilon=epsilon, noise=noise)
        for name, place in world.hospitals.items():
            kept = keep_classifier(place.dataset, place.embeddings[:, 0], public_set, model)
            drawn[name].append(_figures(kept.soft_labels(world.test.embeddings[:, 0]), world.test))
    return {(way, name): _mean(figures) for name, figures in drawn.items()}


def _projected(public_set: PublicSet, place: Place) -> NDArray[np.float64]:
    """Image by image, as `fedhelp_client.node.patients.own_features` does."""
    rows = [public_set.projection.apply(embedding) for embedding in place.embeddings]
    return np.stack(rows).astype(np.float64)


def _pooled(world: World) -> Dataset:
    examples = [example for place in world.hospitals.values() for example in place.dataset.examples]
    return dataclasses.replace(world.test.dataset, examples=tuple(examples))


def _figures(probabilities: NDArray[np.floating], test: Place) -> _Figures:
    labels = np.array([example.label for example in test.dataset.examples])
    measured = accuracy(probabilities.argmax(axis=1), labels)
    return measured.value, measured.balanced, one_vs_rest_auc(probabilities, labels)


def _mean(figures: Sequence[_Figures]) -> _Figures:
    first, second, third = (float(column.mean()) for column in np.array(figures).T)
    return first, second, third


def _scores(groups: Mapping[str, Group], of_seeds: Sequence[_OfHospital]) -> list[Scores]:
    """Mean over a group's hospitals, then the spread over seeds."""
    ways = list(dict.fromkeys(way for way, _ in of_seeds[0]))
    scores = []
    for group in ("small", "large"):
        members = [name for name, of in groups.items() if of == group]
        stronger = [
            _mean([figures[_Way(STRONGER, None), name] for name in members])[0]
            for figures in of_seeds
        ]
        for way in ways:
            shared = (way, "all") in of_seeds[0]
            rows = [
                _mean([figures[way, "all" if shared else name] for name in members])
                for figures in of_seeds
            ]
            of_accuracy, of_balanced, of_auc = zip(*rows, strict=True)
            scores.append(
                Scores(
                    group="small" if group == "small" else "large",
                    way=way.name,
                    epsilon=way.epsilon if "no noise" not in way.name else None,
                    accuracy=Spread.of(of_accuracy),
                    balanced_accuracy=Spread.of(of_balanced),
                    auc=Spread.of(of_auc),
                    gain=Spread.of(
                        [value - base for value, base in zip(of_accuracy, stronger, strict=True)]
                    ),
                )
            )
    return scores
