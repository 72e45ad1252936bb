"""What a bench runs: the federation, its charters, and the ways of learning that are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise, Terms, make_charter, run_rounds
from fedhelp_client.bench.world import Place, World
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.split import STATED, SplitPlan
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.node.patients import patient_examples
from fedhelp_secure.charter import Group
from fedhelp_secure.privacy.defaults import (
    PROJECTIONS,
    ProbeDefaults,
    default_probe,
    default_rounds,
)
from fedhelp_secure.public_set import PublicSet, fit_projection

WITHOUT_NOISE = "100"
"""A run without noise takes the defaults of this epsilon, the most that any budget affords."""

NETWORK = "network alone"
HEAD = "head alone"
STRONGER = "stronger alone"
CENTRAL = "central, no privacy"
EVERYBODY = "all"
"""In place of a hospital's name, for what is the same for all."""

Setting = Literal["stated", "demo"]
"""``stated``: large hospitals of 125 patients each; ``demo``: the shares of ``fedhelp demo``."""
_SPLITS: dict[Setting, SplitPlan] = {"stated": STATED, "demo": SplitPlan()}


@dataclass(frozen=True, slots=True)
class UtilityBench:
    """What to measure. Raises NoProbeDefaults for a budget that is none."""

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
    task: Task = "classification"
    setting: Setting = "demo"
    styles: bool = True
    """Whether each hospital's images look as its own scanner would show them."""
    networks: bool = True
    """Whether to train the hospitals' own networks, which takes minutes a seed."""

    def __post_init__(self) -> None:
        # Now, not after the minutes that the backbone takes.
        for epsilon in self.epsilons:
            self.probe_of(epsilon)

    def split(self) -> SplitPlan:
        """How patients are spread."""
        return dataclasses.replace(_SPLITS[self.setting], large=self.large, small=self.small)

    def groups(self) -> dict[str, Group]:
        """The hospitals and their groups."""
        names = self.split().hospitals()
        return {name: "large" if name.startswith("large") else "small" for name in names}

    def rounds_of(self, epsilon: str) -> int:
        """How many rounds a budget is spent in."""
        return self.rounds or default_rounds(self.task, epsilon)

    def probe_of(self, epsilon: str) -> ProbeDefaults:
        """The probe that suits a budget."""
        return default_probe(self.task, epsilon, self.rounds_of(epsilon))

    def terms(self, epsilon: str, classes: Sequence[str]) -> Terms:
        """What a charter of this federation with one budget fixes."""
        return Terms(
            task=self.task,
            classes=tuple(classes),
            hospitals=self.groups(),
            minimum=self.minimum,
            colluders=self.colluders,
            epsilon=epsilon,
            delta=self.delta,
            rounds=self.rounds_of(epsilon),
            probe=self.probe_of(epsilon),
        )

    def conditions(self) -> list[tuple[str, Noise, int]]:
        """Every (epsilon, noise, draws) under which models are opened."""
        conditions: list[tuple[str, Noise, int]] = [(WITHOUT_NOISE, "none", 1)]
        conditions += [(epsilon, "shared", self.draws) for epsilon in self.epsilons]
        conditions += [(epsilon, "local", self.draws) for epsilon in self.epsilons]
        return conditions


@dataclass(frozen=True, slots=True)
class Way:
    """One way of learning, with the budget of its release if noise was added."""

    name: str
    epsilon: str | None = None

    @classmethod
    def together(cls, what: str, epsilon: str, noise: Noise) -> Way:
        """``what`` after the rounds of a federation."""
        if noise == "none":
            return cls(f"{what}, no noise")
        return cls(f"{what}, {noise} noise", epsilon)


Figures = tuple[float, ...]
"""Accuracy, balanced accuracy and AUC; or Dice. The first is what gains are of."""
OfHospitals = dict[tuple[Way, str], Figures]


def mean_of(figures: Sequence[Figures]) -> Figures:
    """Entry by entry."""
    return tuple(float(column.mean()) for column in np.array(figures).T)


def public_set_of(world: World, dimension: int, task: Task = "classification") -> PublicSet:
    """The public set of ``world``'s proxies, as ``fedhelp client public-set`` makes it."""
    chosen = PROJECTIONS[task]
    projection = fit_projection(
        world.proxy.embeddings, dimension, whitening=chosen.whitening, constant=chosen.constant
    )
    images = resize_images([example.image for example in world.proxy.dataset.examples])
    return PublicSet(images, projection.apply(world.proxy.embeddings), projection)


def opened_models(
    bench: UtilityBench,
    world: World,
    public_set: PublicSet,
    *,
    epsilon: str,
    noise: Noise,
    draws: int,
) -> Iterator[NDArray[np.float64]]:
    """The public model after all rounds under ``epsilon``, ``draws`` times with fresh noise."""
    charter = make_charter(bench.terms(epsilon, world.test.dataset.classes), public_set)
    patients = {
        name: patient_examples(place.dataset, projected(public_set, place), task=bench.task)
        for name, place in world.hospitals.items()
    }
    for _ in range(draws):
        yield run_rounds(charter, public_set, patients, noise)


def projected(public_set: PublicSet, place: Place) -> NDArray[np.float64]:
    """Image by image, as `fedhelp_client.node.patients.own_features` does."""
    rows = [public_set.projection.apply(embedding) for embedding in place.embeddings]
    return np.stack(rows).astype(np.float64)


def pooled(world: World) -> Dataset:
    """All hospitals' examples, in the order of ``world.hospitals``."""
    examples = [example for place in world.hospitals.values() for example in place.dataset.examples]
    return dataclasses.replace(world.test.dataset, examples=tuple(examples))
