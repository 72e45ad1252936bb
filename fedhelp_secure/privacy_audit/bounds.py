"""Lower bounds on epsilon from how often an adversary guessed right.

Every function gives a number that the true epsilon exceeds except with probability ``tail``,
however the adversary guessed. A bound above a claim refutes the claim; a bound below it proves
nothing. Bounds are rounded down.

Sources: Clopper and Pearson 1934 (rates); Dong, Roth, Su 2022, corollary 2.13 (Gaussian trade-off
to epsilon); Steinke, Nasr, Jagielski 2023, theorem 5.2 (one run); Mahloujifar, Melis, Chaudhuri
2024, algorithm 3 (one run, f-DP). The Gaussian ones refute claims about Gaussian noise only: a
mechanism may have the claimed epsilon at one delta and no Gaussian trade-off at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import InternalError

_NORMAL = NormalDist()
_BISECTIONS = 60
_LARGEST_EPSILON = 1024.0
_LARGEST_MU = 64.0
_NEGLIGIBLE = 1e-300


class BoundMisused(InternalError):
    """Counts or probabilities do not describe an experiment."""

    code = "audit-bound"


@dataclass(frozen=True, slots=True)
class Guesses:
    """What an adversary's guesses about one canary came to, over many runs in each world."""

    true_positives: int
    with_canary: int
    """Runs in which the canary was in the data."""
    false_positives: int
    without_canary: int

    def __post_init__(self) -> None:
        _check_counts(self.true_positives, self.with_canary)
        _check_counts(self.false_positives, self.without_canary)


@dataclass(frozen=True, slots=True)
class OneRun:
    """What guesses about many canaries in one run came to."""

    canaries: int
    guesses: int
    """How many of them were guessed at all: a number fixed before the run."""
    correct: int

    def __post_init__(self) -> None:
        _check_counts(self.correct, self.guesses)
        _check_counts(self.guesses, self.canaries)


def two_worlds_gaussian(guesses: Guesses, delta: float, tail: float) -> float:
    """Epsilon at ``delta`` of the Gaussian mechanism that these rates need at least."""
    caught, blamed = _rates(guesses, tail)
    if not 0 < caught <= 1 or not 0 <= blamed < 1:
        return 0.0
    return gaussian_epsilon(_quantile(caught) - _quantile(blamed), delta)


def two_worlds(guesses: Guesses, delta: float, tail: float) -> float:
    """The epsilon of (epsilon, ``delta``)-DP that these rates need at least, whatever the noise."""
    caught, blamed = _rates(guesses, tail)
    # "In" and "out" are each a guess, and either may be the one that gives the patient away.
    ratios = [(caught - delta, blamed), (1 - blamed - delta, 1 - caught)]
    logs = [math.log(above / below) for above, below in ratios if above > 0 and below > 0]
    return max(0.0, *logs) if logs else 0.0


def one_run(run: OneRun, delta: float, tail: float) -> float:
    """The epsilon of (epsilon, ``delta``)-DP that so many right guesses in one run need."""

    def refuted(epsilon: float) -> bool:
        accuracy = 1 / (1 + math.exp(-epsilon))
        # P[X >= correct - i] for i = 0, 1, ...: X the right guesses of randomised response.
        tails = _tails(run.guesses, accuracy)[run.correct :: -1]
        slack = (tails[1:] - tails[0]) / np.arange(1, len(tails))
        largest = float(slack.max(initial=0.0))
        return float(tails[0]) + 2 * run.canaries * delta * largest < tail

    return _largest_refuted(refuted, _LARGEST_EPSILON)


def one_run_gaussian(run: OneRun, delta: float, tail: float) -> float:
    """Epsilon at ``delta`` of the Gaussian mechanism that so many right guesses need."""
    mu = _largest_refuted(lambda mu: _gaussian_refuted(run, mu, tail), _LARGEST_MU)
    return gaussian_epsilon(mu, delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at ``delta`` of a Gaussian mechanism of sensitivity over deviation ``mu``."""
    if mu <= 0:
        return 0.0
    log_delta = math.log(delta)
    return _largest_refuted(lambda epsilon: _log_delta(mu, epsilon) > log_delta, _LARGEST_EPSILON)


def clopper_pearson(successes: int, trials: int, tail: float) -> tuple[float, float]:
    """Bounds of the probability of success, each wrong with probability at most ``tail``."""
    _check_counts(successes, trials)
    low = 0.0
    if successes > 0:
        low = _largest_refuted(lambda rate: _at_least(successes, trials, rate) < tail, 1.0)
    high = 1.0
    if successes < trials:
        misses = trials - successes
        high = 1 - _largest_refuted(lambda rate: _at_least(misses, trials, rate) < tail, 1.0)
    return low, high


def _rates(guesses: Guesses, tail: float) -> tuple[float, float]:
    caught, _ = clopper_pearson(guesses.true_positives, guesses.with_canary, tail / 2)
    _, blamed = clopper_pearson(guesses.false_positives, guesses.without_canary, tail / 2)
    return caught, blamed


def _gaussian_refuted(run: OneRun, mu: float, tail: float) -> bool:
    """Whether ``run`` is too good for mu-GDP: the recursion of the f-DP audit.

    From ``correct`` downward, bounds the probability of so many right (and wrong) guesses; no
    assignment of probabilities that mu-GDP allows sums to one if the last sum is too large.
    """
    right = tail * run.correct / run.canaries
    wrong = tail * (run.guesses - run.correct) / run.canaries
    for place in range(run.correct - 1, -1, -1):
        next_wrong = _NORMAL.cdf(_quantile(right) - mu) if right < 1 else 1.0
        if next_wrong <= wrong:
            # Neither changes any more.
            break
        right = min(1.0, right + place / (run.guesses - place) * (next_wrong - wrong))
        wrong = next_wrong
    return right + wrong > run.guesses / run.canaries


def _largest_refuted(refuted: Callable[[float], bool], limit: float) -> float:
    """The largest value up to ``limit`` that is refuted, from below; 0 if none is."""
    low, high = 0.0, limit
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low


def _at_least(successes: int, trials: int, rate: float) -> float:
    return float(_tails(trials, rate)[successes])


def _tails(trials: int, rate: float) -> NDArray[np.float64]:
    """P[X >= k] for k = 0 to ``trials``, X binomial."""
    if rate <= 0 or rate >= 1:
        return np.array([1.0] + [float(rate >= 1)] * trials)
    counts = np.arange(trials + 1)
    logs = _log_binomials(trials) + counts * math.log(rate)
    logs += (trials - counts) * math.log1p(-rate)
    tails: NDArray[np.float64] = np.cumsum(np.exp(logs)[::-1])[::-1]
    return np.minimum(tails, 1.0)


@cache
def _log_binomials(trials: int) -> NDArray[np.float64]:
    factorials = np.array([math.lgamma(count + 1) for count in range(trials + 1)])
    logs: NDArray[np.float64] = factorials[-1] - factorials - factorials[::-1]
    return logs


def _log_delta(mu: float, epsilon: float) -> float:
    """log of Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu)."""
    above = _log_cdf(mu / 2 - epsilon / mu)
    below = epsilon + _log_cdf(-mu / 2 - epsilon / mu)
    if above == -math.inf or below >= above:
        return -math.inf
    return above + math.log(-math.expm1(below - above))


def _log_cdf(value: float) -> float:
    probability = math.erfc(-value / math.sqrt(2)) / 2
    return math.log(probability) if probability > 0 else -math.inf


def _quantile(probability: float) -> float:
    return _NORMAL.inv_cdf(min(max(probability, _NEGLIGIBLE), 1 - 2**-53))


def _check_counts(part: int, whole: int) -> None:
    if not 0 <= part <= whole or whole < 1:
        raise BoundMisused("a count must lie between 0 and a positive number of trials.")
