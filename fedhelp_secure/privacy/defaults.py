"""Public defaults of the ``probe``: how many dimensions a budget can pay for.

The noise on an opened sum has the same deviation in every entry, and more rounds share one budget,
so a smaller epsilon affords fewer dimensions and needs a stronger ridge. docs/adr/0013 says on
which public data the values for classification were chosen and what else was tried; docs/adr/0005
says it of segmentation. Neighbouring values differ by less than the spread: nothing here is fitted
closely. The charter's maker chooses them and the charter pins them; who reports results on BUSI
itself should know that the defaults were chosen on that collection. ``fedhelp bench utility``
measures what they are worth.

Segmentation, BUSI with 504 patients, 101 of them proxies and 101 withheld, the rest at 2 large and
4 small hospitals; m = 5, c = 1, delta 1e-6; 2 splits with 4 draws of the noise in each:

=======  ====  ======  ====  ===================
epsilon   D    rounds  step  linear head, Dice
=======  ====  ======  ====  ===================
none      24    3       4     0.61
8         24    3       4     0.60
3         12    3       4     0.58
1         8     3       2     0.56
=======  ====  ======  ====  ===================

Patients are split as persons, not as images; splitting by image scores about 0.06 higher on this
collection, because it has many near-duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import sqrt
from typing import Literal

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.accountant import rho_of_epsilon

DELTA = "1e-6"
"""For which ridges are planned."""

NOMINAL = 300
"""Patients of a federation, unless the charter's maker knows better."""

_REALISED = Fraction(3, 2)
"""The noise of all contributors over that of the honest minimum, in variance: six shares of which
four are counted."""
_NOISE_TO_RIDGE, _SPREAD_TO_RIDGE = 2, Fraction(3, 2)
"""The ridge grows with the noise's variance; the rest is for how patients differ from proxies."""

_TIGHT = 2
"""Below this epsilon in all, the noise decides every choice."""
_AMPLE = 5
"""From this epsilon on, dimensions are limited by the patients rather than by the noise."""

_LARGEST_RIDGE = 9999


class NoProbeDefaults(ConfigurationError):
    """There are no defaults for this budget or this number of rounds."""

    code = "probe-defaults"


@dataclass(frozen=True, slots=True)
class ProjectionDefaults:
    """How `fedhelp_secure.public_set.fit_projection` fits the public features of a task."""

    whitening: float
    constant: float


PROJECTIONS: dict[Literal["classification", "segmentation"], ProjectionDefaults] = {
    "classification": ProjectionDefaults(whitening=0.75, constant=0.3),
    "segmentation": ProjectionDefaults(whitening=0.0, constant=1 / sqrt(2)),
}


@dataclass(frozen=True, slots=True)
class ProbeDefaults:
    """Public parameters of the probe; decimals are text, as in a charter."""

    dimension: int
    """D: entries of a projected feature, the constant included."""
    clip: str
    """B: L2 bound of one patient's contribution, in units of a feature of norm 1."""
    update: Literal["gradient", "moments"]
    """How an opened sum moves the model."""
    ridge: str
    """lambda: see `fedhelp_secure.privacy.probe.apply_step`."""
    step: str
    """Length of one round's step."""
    nominal: int
    """Patients by which an opened sum is divided: a planning figure, nobody's count."""


def default_probe(
    task: Literal["classification", "segmentation"],
    epsilon: str | Fraction,
    rounds: int,
    *,
    nominal: int = NOMINAL,
    images: int | None = None,
) -> ProbeDefaults:
    """Probe parameters for ``task`` when ``rounds`` releases may cost ``epsilon`` together.

    ``nominal`` is how many patients the federation plans with; ``images`` how many public images
    there are, which vary in one direction fewer: for classification no more dimensions than they
    can be used. Raises NoProbeDefaults unless
    ``epsilon`` is a number and all three are positive.
    """
    budget = _budget(epsilon)
    if budget <= 0 or rounds < 1 or nominal < 1:
        raise NoProbeDefaults(
            "epsilon and the planned patients must be positive, and there must be at least one "
            "round."
        )
    if task == "classification":
        probe = _classification(budget, nominal)
        return probe if images is None else replace(probe, dimension=min(probe.dimension, images))
    return _segmentation(budget, rounds, nominal)


def default_rounds(task: Literal["classification", "segmentation"], epsilon: str | Fraction) -> int:
    """Rounds that suit a budget: later ones correct earlier ones, and all share the budget.

    Raises NoProbeDefaults unless ``epsilon`` is a number.
    """
    budget = _budget(epsilon)
    if task == "segmentation":
        return 3
    return 2 if budget < _TIGHT else 5


def _budget(epsilon: str | Fraction) -> Fraction:
    try:
        return Fraction(epsilon)
    # "1/0" is a fraction as well.
    except (ValueError, ZeroDivisionError) as error:
        raise NoProbeDefaults("epsilon must be a decimal number, such as 3 or 0.5.") from error


def _classification(budget: Fraction, nominal: int) -> ProbeDefaults:
    dimension = 40 if budget >= _AMPLE else 24 if budget >= _TIGHT else 16
    # No patient's vector is longer at the first round: |z| = 1, and |onehot - 1/3| = sqrt(2/3).
    clip = "0.816"
    variance = _REALISED * Fraction(clip) ** 2 / (2 * rho_of_epsilon(budget, DELTA))
    ridge = min((_NOISE_TO_RIDGE * variance + _SPREAD_TO_RIDGE) / nominal, Fraction(_LARGEST_RIDGE))
    return ProbeDefaults(
        dimension=dimension,
        clip=clip,
        update="moments",
        ridge=f"{max(float(ridge), 1e-6):.6f}",
        step="1",
        nominal=nominal,
    )


def _segmentation(budget: Fraction, rounds: int, nominal: int) -> ProbeDefaults:
    dimension = 24 if budget >= _AMPLE else 12
    step = "4"
    if budget < _TIGHT:
        dimension, step = 8, "1" if rounds >= 5 else "2"
    return ProbeDefaults(
        dimension=dimension,
        clip="0.8",
        update="gradient",
        ridge="0.1",
        step=step,
        nominal=nominal,
    )
