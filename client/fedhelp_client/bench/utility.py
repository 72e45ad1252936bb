"""What a hospital has in the end, alone and with the others, on images that belong to nobody.

Everything measured is the product's own: the split, the projection, the patients' integer vectors,
real discrete Gaussian shares, the planner's defaults, the public model, and what a node does at
home. Only transport and encryption are left out: see `fedhelp_client.bench.federation`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from fedhelp_client.bench.classification import measure_classification
from fedhelp_client.bench.result import Scores, Spread, UtilityResult
from fedhelp_client.bench.segmentation import measure_segmentation
from fedhelp_client.bench.setting import (
    EVERYBODY,
    STRONGER,
    WITHOUT_NOISE,
    OfHospitals,
    UtilityBench,
    Way,
    mean_of,
)
from fedhelp_client.bench.world import World, make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.sources import Source
from fedhelp_client.data.types import Task
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.charter import Group

_MEASURES = {"classification": measure_classification, "segmentation": measure_segmentation}
_FIGURES: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "auc"),
    "segmentation": ("dice",),
}


def run_utility_bench(
    bench: UtilityBench, source_of: Callable[[int], Source], progress: ProgressCallback
) -> UtilityResult:
    """Measure every way for every seed; ``source_of`` gives the data for a seed.

    Raises SplitImpossible, DataError or CharterRefused if data or cohort do not fit.
    """
    began = time.monotonic()
    store = EmbeddingStore(bench.cache, bench.task)
    of_seeds: list[OfHospitals] = []
    patients: dict[str, int] = {}
    for seed in range(bench.seeds):
        world = make_world(
            source_of(seed),
            store,
            bench.split(),
            task=bench.task,
            seed=seed,
            progress=lambda step, done, total: None,
            styles=bench.styles,
        )
        patients = patients or _patients(world)
        of_seeds.append(_MEASURES[bench.task](bench, world, progress))
        progress("seeds", seed + 1, bench.seeds)
    budgets = (*bench.epsilons, WITHOUT_NOISE)
    return UtilityResult(
        task=bench.task,
        data=source_of(0).sentence,
        setting=bench.setting,
        styles=bench.styles,
        patients=patients,
        seeds=list(range(bench.seeds)),
        draws=bench.draws,
        large=bench.large,
        small=bench.small,
        minimum=bench.minimum,
        colluders=bench.colluders,
        delta=bench.delta,
        rounds={epsilon: bench.rounds_of(epsilon) for epsilon in budgets},
        probe={epsilon: dataclasses.asdict(bench.probe_of(epsilon)) for epsilon in budgets},
        scores=_scores(bench.task, bench.groups(), of_seeds),
        seconds=round(time.monotonic() - began, 1),
    )


def _patients(world: World) -> dict[str, int]:
    places = world.hospitals | {"proxy": world.proxy, "test": world.test}
    return {name: len(place.dataset.patients()) for name, place in places.items()}


def _scores(
    task: Task, groups: Mapping[str, Group], of_seeds: Sequence[OfHospitals]
) -> list[Scores]:
    """Mean over a group's hospitals, then the spread over seeds."""
    ways = list(dict.fromkeys(way for way, _ in of_seeds[0]))
    scores = []
    present: tuple[Group, ...] = ("small", "large")
    for group in present:
        members = [name for name, of in groups.items() if of == group]
        if not members:
            continue
        stronger = [
            mean_of([figures[Way(STRONGER), name] for name in members])[0] for figures in of_seeds
        ]
        for way in ways:
            shared = (way, EVERYBODY) in of_seeds[0]
            rows = [
                mean_of([figures[way, EVERYBODY if shared else name] for name in members])
                for figures in of_seeds
            ]
            columns = [Spread.of(column) for column in zip(*rows, strict=True)]
            gains = [row[0] - base for row, base in zip(rows, stronger, strict=True)]
            scores.append(
                Scores(
                    group=group,
                    way=way.name,
                    epsilon=way.epsilon,
                    gain=Spread.of(gains),
                    **dict(zip(_FIGURES[task], columns, strict=True)),
                )
            )
    return scores
