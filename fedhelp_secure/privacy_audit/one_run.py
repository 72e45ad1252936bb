"""The one-run test: many canaries, each in the data or not by the toss of a coin, one release.

Every canary has a direction of its own, so that all can be guessed from one opened sum. The
adversary guesses "in" for the highest scores, "out" for the lowest, and abstains in between; how
many it guesses is fixed from public parameters before the run, as the bounds require.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.privacy_audit.bounds import OneRun, one_run, one_run_gaussian
from fedhelp_secure.privacy_audit.parties import Plan
from fedhelp_secure.privacy_audit.pipeline import VIEWS, Claim, Pipeline, View
from fedhelp_secure.privacy_audit.two_worlds import TooFewRuns

_LARGEST_DIMENSION = 512
_FRACTION_BITS = 16
_SHORTENED = 0.98
"""Clip over the length of a canary's mean: the clip decides its length."""
_FRACTIONS = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Of the canaries that may be guessed."""
FEWEST_CANARIES = 64

_NORMAL = NormalDist()

Bound = Callable[[OneRun, float, float], float]


@dataclass(frozen=True, slots=True)
class OneRunResult:
    """What the attack came to in one view; each bound with the guesses planned for it."""

    view: View
    general: OneRun
    """For `fedhelp_secure.privacy_audit.bounds.one_run`."""
    gaussian: OneRun
    """For `fedhelp_secure.privacy_audit.bounds.one_run_gaussian`."""


def plan_one_run(epsilon: str, rounds: int, canaries: int) -> Plan:
    """A charter with as many orthogonal directions as ``canaries``.

    Raises TooFewRuns under `FEWEST_CANARIES`.
    """
    if canaries < FEWEST_CANARIES:
        raise TooFewRuns(
            f"the one-run test needs at least {FEWEST_CANARIES} canaries; raise --canaries."
        )
    classes = 1 + -(-canaries // _LARGEST_DIMENSION)
    classes = max(2, classes)
    return Plan(
        epsilon=epsilon,
        rounds=rounds,
        dimension=max(2, -(-canaries // (classes - 1))),
        classes=classes,
        clip_units=int(_SHORTENED / classes * 2**_FRACTION_BITS),
        fraction_bits=_FRACTION_BITS,
        canaries=canaries,
    )


def canary(charter: Charter, number: int) -> PatientExamples:
    """One image along axis ``number`` div (C - 1), its soft label one of C - 1 contrasts.

    Residuals against a model that knows nothing are then orthogonal: k entries of one sign and one
    of the other (Helmert contrasts).
    """
    classes = len(charter.classes)
    axis, contrast = divmod(number, classes - 1)
    feature = np.zeros((1, charter.probe.dimension))
    feature[0, axis] = 1.0
    residual = np.zeros(classes)
    residual[: contrast + 1] = 1.0
    residual[contrast + 1] = -(contrast + 1.0)
    target = 1 / classes + residual / (np.linalg.norm(residual) * classes)
    return PatientExamples(feature, np.maximum(target, 0.0)[np.newaxis], np.ones(1))


def run_one_run(
    pipeline: Pipeline[Sequence[PatientExamples]], *, canaries: int, tail: float
) -> tuple[Claim, tuple[OneRunResult, ...]]:
    """One release over all rounds; the claim, and what the adversary came to in each view."""
    charter = pipeline.parties.charter
    debits = pipeline.debit()
    claim = pipeline.claim()
    patients = [canary(charter, number) for number in range(canaries)]
    inside = np.array([secrets.randbits(1) == 1 for _ in patients])
    # Somebody whom everybody knows: a hospital without patients takes no part.
    known = [_bystander(charter)]
    released = [patient for patient, chosen in zip(patients, inside, strict=True) if chosen]
    seen = pipeline.observe(debits, [*known, *released], known, runs=1)
    directions = _directions(pipeline, patients)
    lengths = np.linalg.norm(directions, axis=1)
    results = []
    for view in VIEWS:
        total = seen.of(view)[0].sum(axis=0).astype(np.float64)
        weight = charter.maximum_weight if view == "aggregate" else 1
        scores = directions @ total / lengths - weight * len(debits) * lengths / 2
        mu = _claimed_mu(charter, view)
        results.append(
            OneRunResult(
                view,
                *(
                    _guess(scores, inside, _planned(canaries, mu, bound, claim.delta, tail))
                    for bound in (one_run, one_run_gaussian)
                ),
            )
        )
    return claim, tuple(results)


def _bystander(charter: Charter) -> PatientExamples:
    feature = np.zeros((1, charter.probe.dimension))
    feature[0, 0] = 1.0
    return PatientExamples(feature, np.eye(len(charter.classes))[:1], np.ones(1))


def _directions(
    pipeline: Pipeline[Sequence[PatientExamples]], patients: list[PatientExamples]
) -> NDArray[np.float64]:
    """The canaries' vectors in the first round, [canaries, values]; the model never changes."""
    return np.stack([pipeline.query(1, [patient]) for patient in patients]).astype(np.float64)


def _guess(scores: NDArray[np.float64], inside: NDArray[np.bool_], guesses: int) -> OneRun:
    order = np.argsort(scores)
    half = guesses // 2
    correct = int(np.sum(~inside[order[:half]])) + int(np.sum(inside[order[len(order) - half :]]))
    return OneRun(canaries=len(scores), guesses=2 * half, correct=correct)


def _claimed_mu(charter: Charter, view: View) -> float:
    """Sensitivity over deviation of all rounds together, from the charter."""
    group = charter.hospitals[0].group
    rho = charter.round_rho(group) if view == "aggregate" else charter.round_rho_collusion(group)
    return math.sqrt(2 * float(charter.rounds.count * rho))


def _planned(canaries: int, mu: float, bound: Bound, delta: float | str, tail: float) -> int:
    """How many to guess: what would give the best bound if the noise were as claimed."""
    best = (0.0, 2 * (canaries // 2))
    for fraction in _FRACTIONS:
        guesses = 2 * max(1, int(fraction * canaries / 2))
        expected = OneRun(canaries, guesses, int(guesses * _accuracy(mu, guesses / canaries)))
        best = max(best, (bound(expected, float(delta), tail), guesses))
    return best[1]


def _accuracy(mu: float, fraction: float) -> float:
    """Expected share of right guesses among the ``fraction`` of scores furthest from the middle."""

    def beyond(distance: float) -> tuple[float, float]:
        return _NORMAL.cdf(mu / 2 - distance), _NORMAL.cdf(-mu / 2 - distance)

    low, high = 0.0, mu + 40.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(beyond(middle)) > fraction:
            low = middle
        else:
            high = middle
    right, wrong = beyond(low)
    return right / (right + wrong)
