"""Noise and epsilons of a plan, as the charter would have them, and a rehearsal of its worth."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise, make_charter
from fedhelp_client.bench.segmentation import dice_of_model, train_token_head
from fedhelp_client.bench.setting import UtilityBench, opened_models, public_set_of
from fedhelp_client.bench.world import Place, World
from fedhelp_client.data.types import Task
from fedhelp_client.head import Head, KeptClassifier, keep_classifier, train_head
from fedhelp_client.metrics import accuracy
from fedhelp_client.token_head import DIMENSIONS
from fedhelp_secure.charter import Charter, Group
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.accountant import epsilon_of_rho, rho_of_gaussian
from fedhelp_secure.public_set import PublicSet

_ONE_PATIENT: Group = "small"
"""Every group has weight 1 here, so that patients of all groups lose alike."""


class PlanImpossible(ConfigurationError):
    """There is no such cohort or budget."""

    code = "privacy-plan"


@dataclass(frozen=True, slots=True)
class PrivacyFigures:
    """What the accounting says of a plan; epsilons are rounded up."""

    clip: float
    """L2 bound of one patient's vector, as a real."""
    sigma: float
    """Standard deviation of the honest minimum's noise on the opened sum, as a real."""
    share: float
    """Of the noise that each hospital adds, as a real."""
    epsilon_aggregate: float
    epsilon_collusion: float
    fewer_shares: tuple[tuple[int, float], ...]
    """(honest shares, epsilon) if fewer hospitals than planned add their noise."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Mean accuracy or Dice of the small hospitals on images that belong to nobody."""

    task: Task
    alone: float
    """With a head on the public backbone, each from its own patients."""
    without_noise: float
    with_noise: tuple[float, ...]
    """One for each draw of the noise."""

    @property
    def cost(self) -> float:
        """What the noise takes, mean over the draws; negative if it takes none."""
        return self.without_noise - statistics.mean(self.with_noise)


def check_plan(bench: UtilityBench) -> None:
    """Raises PlanImpossible unless a charter can have the cohort and delta of ``bench``."""
    if not re.fullmatch(r"1e-[0-9]{1,2}", bench.delta):
        raise PlanImpossible("delta must have the form 1e-6, one in a million.")
    if bench.minimum > len(bench.groups()) or bench.colluders >= bench.minimum:
        raise PlanImpossible(
            "the minimum must be at most the number of hospitals, and the colluders fewer than it."
        )


def plan_charter(bench: UtilityBench, public_set: PublicSet, classes: Sequence[str]) -> Charter:
    """The charter of a plan with one budget; raises PlanImpossible or CharterRefused."""
    check_plan(bench)
    (epsilon,) = bench.epsilons
    return make_charter(bench.terms(epsilon, classes), public_set)


def figures_of(charter: Charter) -> PrivacyFigures:
    """The accounting of ``charter``, recomputed from its noise."""
    unit = 1 << charter.secure_sum.fraction_bits
    rounds, delta = charter.rounds.count, charter.privacy.delta
    share = charter.share_units(_ONE_PATIENT)
    fewer = tuple(
        (honest, float(epsilon_of_rho(rounds * _rho_of(charter, honest), delta)))
        for honest in range(charter.cohort.honest - 1, 0, -1)
    )
    return PrivacyFigures(
        clip=charter.privacy.clip_units / unit,
        sigma=charter.privacy.sigma_units / unit,
        share=share / unit,
        epsilon_aggregate=float(epsilon_of_rho(rounds * charter.round_rho(_ONE_PATIENT), delta)),
        epsilon_collusion=float(
            epsilon_of_rho(rounds * charter.round_rho_collusion(_ONE_PATIENT), delta)
        ),
        fewer_shares=fewer,
    )


def _rho_of(charter: Charter, honest: int) -> Fraction:
    """Loss of one patient in one round behind ``honest`` shares; the noise is rounded down."""
    sigma = isqrt(charter.share_units(_ONE_PATIENT) ** 2 * honest)
    return rho_of_gaussian(sensitivity=charter.privacy.clip_units, sigma=sigma)


def rehearse(bench: UtilityBench, world: World) -> Rehearsed:
    """Run the plan's rounds on ``world``, whose patients are invented or public."""
    (epsilon,) = bench.epsilons
    public_set = public_set_of(world, bench.probe_of(epsilon).dimension, bench.task)
    small = [name for name, group in bench.groups().items() if group == "small"]
    places = [world.hospitals[name] for name in small]
    together = _outlined if bench.task == "segmentation" else _classified

    def run(noise: Noise, draws: int) -> tuple[float, ...]:
        opened = opened_models(bench, world, public_set, epsilon=epsilon, noise=noise, draws=draws)
        return tuple(together(model, public_set, places, world.test) for model in opened)

    (without_noise,) = run("none", 1)
    return Rehearsed(
        task=bench.task,
        alone=_alone(bench.task, world, places, public_set),
        without_noise=without_noise,
        with_noise=run("shared", bench.draws),
    )


def _alone(task: Task, world: World, places: Sequence[Place], public_set: PublicSet) -> float:
    if task == "segmentation":
        fine = public_set_of(world, DIMENSIONS, task)
        heads = (train_token_head([place], fine) for place in places)
        return statistics.mean(dice_of_model(head, fine, world.test) for head in heads)
    return statistics.mean(
        _accuracy(
            train_head(place.dataset, place.embeddings[:, 0], public_set.projection), world.test
        )
        for place in places
    )


def _classified(
    model: NDArray[np.float64], public_set: PublicSet, places: Sequence[Place], test: Place
) -> float:
    return statistics.mean(
        _accuracy(keep_classifier(place.dataset, place.embeddings[:, 0], public_set, model), test)
        for place in places
    )


def _outlined(
    model: NDArray[np.float64], public_set: PublicSet, _: Sequence[Place], test: Place
) -> float:
    return dice_of_model(model, public_set, test)


def _accuracy(classifier: Head | KeptClassifier, test: Place) -> float:
    probabilities = classifier.soft_labels(test.embeddings[:, 0])
    labels = np.array([example.label for example in test.dataset.examples])
    return accuracy(probabilities.argmax(axis=1), labels).value
