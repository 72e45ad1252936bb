"""Our method, its parts, and what others do, in one harness: same splits, seeds and passes.

Everything is measured on images that belong to nobody. Data, noise, models and what a node does at
home are the product's own; see `fedhelp_client.bench.utility`, whose federation this is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedhelp_client.bench.learning_ground import Ground
from fedhelp_client.bench.learning_methods import FULL, Measured, ablate, compare
from fedhelp_client.bench.learning_result import LearningResult, MethodScores, SeedSpread
from fedhelp_client.bench.setting import STRONGER, UtilityBench, Way, mean_of
from fedhelp_client.bench.world import make_world
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.sources import Source
from fedhelp_client.data.types import Task
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.charter import Group

FIGURES: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "auc"),
    "segmentation": ("dice", "hausdorff95"),
}
_GROUPS: tuple[Group, ...] = ("small", "large")


@dataclass(frozen=True, slots=True)
class LearningBench:
    """What to measure. Raises NoProbeDefaults for a budget that is none."""

    federation: UtilityBench
    seeds: tuple[int, ...]
    measured: dict[Group, int]
    """Hospitals of each group whose networks are distilled: the first so many."""
    local: tuple[str, ...]
    """Budgets at which each hospital's own noise is tried."""
    ablation: str | None = None
    """Budget at which each term is switched off, instead of comparing methods."""

    def __post_init__(self) -> None:
        for epsilon in self.local:
            self.federation.probe_of(epsilon)


def run_learning_bench(
    bench: LearningBench,
    source_of: Callable[[int], Source],
    progress: ProgressCallback,
    keep: Callable[[LearningResult], None],
) -> LearningResult:
    """Measure every method for every seed; ``keep`` gets what there is after each seed.

    ``source_of`` gives the data for a seed. Raises SplitImpossible, DataError or CharterRefused if
    data or cohort do not fit.
    """
    began = time.monotonic()
    federation = bench.federation
    store = EmbeddingStore(federation.cache, federation.task)
    groups = federation.groups()
    measured = tuple(
        name
        for group in _GROUPS
        for name in [name for name, of in groups.items() if of == group][: bench.measured[group]]
    )
    of_seeds: list[list[Measured]] = []
    for seed in bench.seeds:
        source = source_of(seed)
        world = make_world(
            source,
            store,
            federation.split(),
            task=federation.task,
            seed=seed,
            progress=lambda step, done, total: None,
            styles=federation.styles,
        )
        ground = Ground(federation, world, measured)
        rows: list[Measured] = []
        methods = ablate(ground, bench.ablation) if bench.ablation else compare(ground, bench.local)
        for row in methods:
            rows.append(row)
            progress(f"seed {seed}: {row.way.name} {row.way.epsilon or ''}", len(rows), 0)
        of_seeds.append(rows)
        result = LearningResult(
            task=federation.task,
            data=source.sentence,
            setting=federation.setting,
            styles=federation.styles,
            seeds=list(bench.seeds[: len(of_seeds)]),
            measured=list(measured),
            ablation=bench.ablation,
            delta=federation.delta,
            scores=_scores(bench, of_seeds),
            seconds=round(time.monotonic() - began, 1),
        )
        keep(result)
    return result


def _scores(bench: LearningBench, of_seeds: Sequence[Sequence[Measured]]) -> list[MethodScores]:
    """Mean over a group's measured hospitals, then the spread over seeds."""
    groups, base = bench.federation.groups(), Way(STRONGER)
    if bench.ablation:
        base = Way(FULL, bench.ablation)
    scores = []
    for group in _GROUPS:
        rows = [[row for row in seed if groups[row.hospital] == group] for seed in of_seeds]
        # A group of which no hospital was measured has no rows.
        for way in dict.fromkeys(row.way for row in rows[0]):
            of_way = [mean_of([row.figures for row in seed if row.way == way]) for seed in rows]
            of_base = [mean_of([row.figures for row in seed if row.way == base]) for seed in rows]
            gains = [mine[0] - other[0] for mine, other in zip(of_way, of_base, strict=True)]
            sent = [row.sent for row in rows[0] if row.way == way]
            scores.append(
                MethodScores(
                    group=group,
                    method=way.name,
                    epsilon=way.epsilon,
                    bytes_sent=sum(sent) // len(sent),
                    figures={
                        name: SeedSpread.of(column)
                        for name, column in zip(
                            FIGURES[bench.federation.task], zip(*of_way, strict=True), strict=True
                        )
                    },
                    gain=SeedSpread.of(gains),
                )
            )
    return scores
