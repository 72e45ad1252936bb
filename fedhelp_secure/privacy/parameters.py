"""Public parameters of the mechanisms, as a charter pins them, and what bounds each of them.

The probe's own are `fedhelp_secure.charter.Probe`: its feature space serves every mechanism.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MechanismName = Literal["probe", "dp_sgd", "logit_noise", "rehearsal"]

Rule = Literal["clipped-sum", "whole-matrix", "sampled-clipped-sum"]
"""Why a sensitivity is what it is; see `RULES`."""

SamplingRate = Annotated[str, Field(pattern=r"^(0\.[0-9]{0,5}[1-9]|1)$")]
"""A probability above 0, as a decimal of at most six places."""
Decimal = Annotated[str, Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,6})?$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_ON_PATIENTS = "on patients, spent in "

Chosen = Annotated[
    str,
    Field(
        pattern=r"^(public defaults|rehearsal on phantom|rehearsal on the proxy set"
        r"|on patients, spent in sha256:[0-9a-f]{64})$"
    ),
]
"""How a parameter was chosen. What was tuned on patients names the charter whose budget paid."""


class Tuning(_Document):
    """How a charter's maker chose what shapes a release.

    A choice that looks at patients is a release itself: it costs budget, and a charter that hides
    it claims too little. Whoever signs the charter answers for this declaration.
    """

    dimension: Chosen
    rounds: Chosen
    ridge: Chosen
    clip: Chosen

    def of_patients(self) -> dict[str, str]:
        """By name of the parameter, the digest of the charter that paid for looking at patients."""
        chosen: dict[str, str] = self.model_dump()
        return {
            name: how.removeprefix(_ON_PATIENTS)
            for name, how in chosen.items()
            if how.startswith(_ON_PATIENTS)
        }

    @property
    def sentence(self) -> str:
        """For a person."""
        return "; ".join(f"{name}: {how}" for name, how in self.model_dump().items())


class LogitNoise(_Document):
    """Public parameters of ``logit_noise``."""

    tokens: int = Field(ge=1, le=4096)
    """Rows of labels for one proxy image: 1, or its patch tokens."""


class DpSgdChoices(_Document):
    """What people decide about ``dp_sgd``."""

    model: Literal["linear_head", "group_norm_cnn"]
    """``linear_head`` on the public features, or a small network on the images (classification)."""
    sampling_rate: SamplingRate
    """q: probability with which a patient is in a step, each by a coin of its own."""
    steps: int = Field(ge=1, le=100_000)
    """T."""
    nominal_patients: int = Field(ge=1, le=1_000_000)
    """Public planning figure: a step divides by q times it. Nobody's count of patients."""
    learning_rate: Decimal


class DpSgd(DpSgdChoices):
    """Public parameters of ``dp_sgd``; its noise multiplier is sigma_units / clip_units."""

    tokens: int = Field(ge=1, le=4096)
    """Rows of labels for one proxy image: 1, or its patch tokens."""

    @property
    def rate(self) -> Fraction:
        """q, exactly."""
        return Fraction(self.sampling_rate)


@dataclass(frozen=True, slots=True)
class Bounded:
    """How one mechanism's query is bounded."""

    rule: Rule
    clips: int
    """Clips by which one patient more or less changes a hospital's query, in L2 norm."""


RULES: Mapping[Rule, str] = {
    "clipped-sum": (
        "a sum over patients of vectors clipped one by one in integers: a patient adds one vector, "
        "of norm at most the clip"
    ),
    "whole-matrix": (
        "one matrix clipped as a whole in integers, which a patient may change in any way: two "
        "matrices of norm at most the clip are at most two clips apart"
    ),
    "sampled-clipped-sum": (
        "in every step a sum over sampled patients of vectors clipped one by one in integers: a "
        "sampled patient adds one vector, of norm at most the clip"
    ),
}

BOUNDS: Mapping[MechanismName, Bounded] = {
    "probe": Bounded("clipped-sum", 1),
    # Invented numbers keep the probe's bounds.
    "rehearsal": Bounded("clipped-sum", 1),
    "logit_noise": Bounded("whole-matrix", 2),
    "dp_sgd": Bounded("sampled-clipped-sum", 1),
}


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """L2 change of a hospital's own query by one patient more or less."""

    units: Fraction
    """Grid units, exact."""
    rule: Rule
    """A key of `RULES`."""


def sensitivity_of(mechanism: MechanismName, clip_units: int) -> Sensitivity:
    """Before the hospital's weight; ``clip_units`` is the charter's."""
    bounded = BOUNDS[mechanism]
    return Sensitivity(Fraction(bounded.clips * clip_units), bounded.rule)


def largest_release(
    mechanism: MechanismName, *, clip_units: int, maximum_patients: int, fraction_bits: int
) -> int:
    """Largest magnitude of an entry of one release before its share of noise, in grid units."""
    largest: Mapping[MechanismName, int] = {
        "probe": maximum_patients * clip_units,
        "rehearsal": maximum_patients * clip_units,
        "logit_noise": clip_units,
        # A probability.
        "dp_sgd": 1 << fraction_bits,
    }
    return largest[mechanism]
