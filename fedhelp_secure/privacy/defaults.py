"""Public defaults of the ``probe``: how many dimensions a budget can pay for.

The noise on an opened sum has the same deviation in every entry, and more rounds share one budget,
so a smaller epsilon affords fewer dimensions, a stronger ridge and smaller steps. These values were
read from a coarse grid on **public** data: BUSI (Al-Dhabyani et al., 2020; 504 patients, 101 of
them proxies and 101 withheld, the rest at 2 large and 4 small hospitals), DINOv2 ViT-S/14 features,
m = 5, c = 1, delta 1e-6, weights 1; 8 splits for classification, 2 for segmentation, 4 draws of the
noise in each (one draw moves Dice by 0.05: single runs mislead). Neighbouring values differ by less
than the spread: nothing here is fitted closely. The charter's
maker chooses them and the charter pins them; who reports results on BUSI itself should know that
the defaults were chosen on that collection.

================  =========  ====  ======  ====  =======================================
task              epsilon    D     rounds  step  linear head on withheld images
================  =========  ====  ======  ====  =======================================
classification    none       64    10            accuracy 0.69, balanced 0.65
classification    8          32    3       4     accuracy 0.68, balanced 0.64
classification    3          16    4       2     accuracy 0.66, balanced 0.61
classification    1          16    2       4     accuracy 0.61, balanced 0.56
segmentation      none       24    3       4     Dice 0.61
segmentation      8          24    3       4     Dice 0.60
segmentation      3          12    3       4     Dice 0.58
segmentation      1          8     3       2     Dice 0.56
================  =========  ====  ======  ====  =======================================

Patients are split as persons, not as images; splitting by image scores about 0.06 higher on this
collection, because it has many near-duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from fedhelp_secure.errors import ConfigurationError

_TIGHT = 2
"""Below this epsilon in all, the noise decides every choice."""
_AMPLE = 5
"""From this epsilon on, dimensions are limited by the patients rather than by the noise."""


class NoProbeDefaults(ConfigurationError):
    """There are no defaults for this budget or this number of rounds."""

    code = "probe-defaults"


@dataclass(frozen=True, slots=True)
class ProbeDefaults:
    """Public parameters of the probe; decimals are text, as in a charter."""

    dimension: int
    """D: entries of a projected feature, the constant included."""
    clip: str
    """B: L2 bound of one patient's contribution, in units of a feature of norm 1."""
    ridge: str
    """lambda in (A + lambda I)^-1, A the proxies' second moment, whose trace is at most 1."""
    step: str
    """Length of one round's step."""
    nominal: int
    """Patients by which an opened sum is divided: a planning figure, nobody's count."""


def default_probe(
    task: Literal["classification", "segmentation"], epsilon: str | Fraction, rounds: int
) -> ProbeDefaults:
    """Probe parameters for ``task`` when ``rounds`` releases may cost ``epsilon`` together.

    See the module's table for the public data they come from. Raises NoProbeDefaults unless
    ``epsilon`` is a number and both are positive.
    """
    try:
        budget = Fraction(epsilon)
    except ValueError as error:
        raise NoProbeDefaults("epsilon must be a decimal number, such as 3 or 0.5.") from error
    if budget <= 0 or rounds < 1:
        raise NoProbeDefaults("epsilon must be positive, and there must be at least one round.")
    if task == "classification":
        return _classification(budget, rounds)
    return _segmentation(budget, rounds)


def _classification(budget: Fraction, rounds: int) -> ProbeDefaults:
    if budget >= _AMPLE:
        return ProbeDefaults(dimension=32, clip="0.8", ridge="0.02", step="4", nominal=300)
    # Later rounds correct earlier ones: with many, short steps average their noise.
    many = 3 if budget < _TIGHT else 4
    step = "2" if rounds >= many else "4"
    return ProbeDefaults(dimension=16, clip="0.8", ridge="0.05", step=step, nominal=300)


def _segmentation(budget: Fraction, rounds: int) -> ProbeDefaults:
    if budget < _TIGHT:
        step = "1" if rounds >= 5 else "2"
        return ProbeDefaults(dimension=8, clip="0.8", ridge="0.1", step=step, nominal=300)
    dimension = 24 if budget >= _AMPLE else 12
    return ProbeDefaults(dimension=dimension, clip="0.8", ridge="0.1", step="4", nominal=300)
