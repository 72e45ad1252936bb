"""The two-world test: is the canary patient in the data, or not?

A canary whose vector is as long as the clip allows is in the target's data (world 1) or not (world
0); the adversary knows everything else. It weighs what it saw over all rounds by a fixed direction
and compares with a threshold. The direction is chosen on a part of the runs, and the rates from
which a bound follows come from the others; the threshold follows from public parameters alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.privacy_audit.bounds import Guesses
from fedhelp_secure.privacy_audit.parties import TARGET, Plan
from fedhelp_secure.privacy_audit.pipeline import VIEWS, Claim, Pipeline, Seen, View

_DIMENSION, _CLASSES = 2, 2
_FRACTION_BITS = 12
_CLIP_UNITS = 1638
"""0.4: the canary's mean is 0.5 long or longer, so that its vector is as long as the clip."""
_IMAGES = 4
"""Of each of two kinds in a patient."""
_SURE = 30.0
_CHOOSING = 8
"""One in so many runs serves to choose the direction."""
_CLEARLY = 3.0
"""Standard errors by which another direction than the canary's must be better to be chosen."""
FEWEST_RUNS = 40

_NORMAL = NormalDist()


class TooFewRuns(ConfigurationError):
    """So few runs or canaries cannot show anything."""

    code = "audit-runs"


@dataclass(frozen=True, slots=True)
class TwoWorlds:
    """What the attack came to in one view; each bound with the threshold planned for it."""

    view: View
    general: Guesses
    """For `fedhelp_secure.privacy_audit.bounds.two_worlds`."""
    gaussian: Guesses
    """For `fedhelp_secure.privacy_audit.bounds.two_worlds_gaussian`."""


_Inputs = TypeVar("_Inputs")


@dataclass(frozen=True, slots=True)
class Worlds(Generic[_Inputs]):
    """What the target releases with the canary in its data, and without."""

    joined: _Inputs
    absent: _Inputs


def plan_two_worlds(epsilon: str, rounds: int, mechanism: MechanismName = "probe") -> Plan:
    """A charter of four values, of which the canary can use all."""
    return Plan(
        epsilon=epsilon,
        rounds=rounds,
        dimension=_DIMENSION,
        classes=_CLASSES,
        clip_units=_CLIP_UNITS,
        fraction_bits=_FRACTION_BITS,
        canaries=1,
        mechanism=mechanism,
    )


def public_models(rounds: int) -> list[NDArray[np.float64]]:
    """Before odd rounds the model knows nothing; before even ones it is wrong about the canary's
    second kind of image. The canary's vectors then differ from one round to the next, as they do
    in a federation that learns."""
    sure = np.array([[0.0, 0.0], [_SURE, -_SURE]])
    return [sure if number % 2 else np.zeros_like(sure) for number in range(rounds)]


def patient(label: int) -> PatientExamples:
    """Eight images of two kinds, all of class ``label``."""
    features = np.repeat(np.eye(_DIMENSION), _IMAGES, axis=0)
    targets = np.tile(np.eye(_CLASSES)[label], (len(features), 1))
    return PatientExamples(features, targets, np.ones(len(features)))


CANARY = patient(1)
OTHERS = (patient(0), patient(0), patient(1))
"""The oldest patient first: the one whose vector is the canary's opposite."""
PATIENTS: Worlds[Sequence[PatientExamples]] = Worlds([*OTHERS, CANARY], OTHERS)
"""For the probe."""

_LOGITS = np.array([[[4.0, -4.0]], [[-4.0, 4.0]]])
MODELS: Worlds[NDArray[np.floating]] = Worlds(_LOGITS, -_LOGITS)
"""For ``logit_noise``: one patient may turn a trained model into its opposite."""


def run_two_worlds(
    pipeline: Pipeline[_Inputs], worlds: Worlds[_Inputs], *, runs: int, tail: float
) -> tuple[Claim, tuple[TwoWorlds, ...]]:
    """``runs`` of each world; the claim, and what the adversary came to in each view.

    ``tail`` is that of the bounds for which thresholds are planned. Raises TooFewRuns under
    `FEWEST_RUNS`.
    """
    if runs < FEWEST_RUNS:
        raise TooFewRuns(f"the two-world test needs at least {FEWEST_RUNS} runs; raise --runs.")
    debits = pipeline.debit()
    claim = pipeline.claim()
    joined = pipeline.observe(debits, worlds.joined, worlds.absent, runs=runs)
    absent = pipeline.observe(debits, worlds.absent, worlds.absent, runs=runs)
    vectors = _vectors(pipeline, worlds, len(debits))
    return claim, tuple(
        _attack(_View.of(pipeline.parties.charter, view), vectors, joined, absent, tail=tail)
        for view in VIEWS
    )


@dataclass(frozen=True, slots=True)
class _View:
    """How one view scales the canary and the noise."""

    view: View
    weight: int
    deviation: int
    """Of the noise in one entry of one round, as the charter has it."""

    @classmethod
    def of(cls, charter: Charter, view: View) -> _View:
        if view == "aggregate":
            return cls(view, charter.weight_of(TARGET), charter.privacy.sigma_units)
        return cls(view, 1, charter.share_units(charter.hospital(TARGET).group))


def _vectors(
    pipeline: Pipeline[_Inputs], worlds: Worlds[_Inputs], rounds: int
) -> NDArray[np.float64]:
    """How the canary moves the target's query in each round, [rounds, values]."""
    return np.stack(
        [
            pipeline.query(number, worlds.joined) - pipeline.query(number, worlds.absent)
            for number in range(1, rounds + 1)
        ]
    ).astype(np.float64)


def _directions(vectors: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """[rounds, values] each, norm 1: what the adversary may weigh its view by.

    The canary's own vectors are best against independent noise. Their differences from one round
    to the next are best against noise that repeats itself.
    """
    directions = [vectors]
    for first in range(len(vectors) - 1):
        contrast = np.zeros_like(vectors)
        contrast[first] = vectors[first] - vectors[first + 1]
        contrast[first + 1] = -contrast[first]
        directions.append(contrast)
    return [direction / np.linalg.norm(direction) for direction in directions]


def _attack(
    view: _View, vectors: NDArray[np.float64], joined: Seen, absent: Seen, *, tail: float
) -> TwoWorlds:
    directions = _directions(vectors)
    signals = [view.weight * float(np.sum(vectors * direction)) for direction in directions]
    weighed = [
        (_weighed(joined.of(view.view), direction), _weighed(absent.of(view.view), direction))
        for direction in directions
    ]
    choosing = len(weighed[0][0]) // _CHOOSING
    scores, mistrust = [], 0.0
    for (inside, outside), signal in zip(weighed, signals, strict=True):
        estimate, error = _separation(inside[:choosing], outside[:choosing], signal / 2)
        scores.append(estimate - mistrust * error)
        # Whatever comes after the first must be better beyond doubt.
        mistrust = _CLEARLY
    chosen = int(np.argmax(scores))
    inside, outside = (values[choosing:] for values in weighed[chosen])
    signal = signals[chosen]
    shift = _planned_shift(signal / view.deviation, len(inside), tail) * view.deviation
    return TwoWorlds(
        view.view,
        general=_guesses(inside, outside, signal / 2 + shift),
        gaussian=_guesses(inside, outside, signal / 2),
    )


def _guesses(
    inside: NDArray[np.float64], outside: NDArray[np.float64], threshold: float
) -> Guesses:
    return Guesses(
        true_positives=int(np.sum(inside > threshold)),
        with_canary=len(inside),
        false_positives=int(np.sum(outside > threshold)),
        without_canary=len(outside),
    )


def _weighed(seen: NDArray[np.int64], direction: NDArray[np.float64]) -> NDArray[np.float64]:
    weighed: NDArray[np.float64] = np.einsum("nrv,rv->n", seen.astype(np.float64), direction)
    return weighed


def _separation(
    inside: NDArray[np.float64], outside: NDArray[np.float64], threshold: float
) -> tuple[float, float]:
    """An estimate of mu and its standard error."""
    scores, variance = [], 0.0
    for values in (inside, outside):
        rate = (float(np.sum(values > threshold)) + 0.5) / (len(values) + 1)
        score = _NORMAL.inv_cdf(rate)
        scores.append(score)
        variance += rate * (1 - rate) / len(values) / _NORMAL.pdf(score) ** 2
    return scores[0] - scores[1], math.sqrt(variance)


def _planned_shift(mu: float, runs: int, tail: float) -> float:
    """How far above the middle, in deviations, a threshold shows most if the noise is as claimed.

    Without a Gaussian assumption few guesses that are nearly all right show more than many.
    """
    quantile = _NORMAL.inv_cdf(1 - tail / 2)
    best = (-math.inf, 0.0)
    for shift in np.linspace(0.0, 4.0, 41).tolist():
        caught = _NORMAL.cdf(mu / 2 - shift)
        blamed = _NORMAL.cdf(-mu / 2 - shift)
        low = caught - quantile * math.sqrt(caught / runs)
        # Wilson's bound: sensible for rates near nothing, too.
        high = blamed + quantile**2 / runs + quantile * math.sqrt(blamed / runs)
        if low > 0:
            best = max(best, (math.log(low / high), shift))
    return best[1]
