"""What a release cost: the event from which its loss follows.

Both losses are stated for the same patient. *Aggregate* is what anyone outside learns while at
least one of aggregator, decryptor and unmaskers is honest: the noise of ``honest_shares`` shares
hides the patient. *Collusion* is what all of them together learn: this hospital's share alone.

The shares of a weighted sum live on different lattices (weight times the integers). Each has at
least ``MINIMUM_SHARE_UNITS`` deviations on its own lattice, and all have the same deviation after
weighting, so that their sum is within 1e-60 of the discrete Gaussian that is accounted for.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PeerError, PolicyError
from fedhelp_secure.privacy.accountant import rho_of_gaussian
from fedhelp_secure.privacy.loss import TEXT_PATTERN, Loss
from fedhelp_secure.privacy.parameters import (
    MechanismName,
    Rule,
    SamplingRate,
    sensitivity_of,
)

KIND = "ledger-entry"

Rational = Annotated[str, Field(pattern=r"^[0-9]+/[1-9][0-9]*$")]
"""An exact number, "p/q" in lowest terms."""
LossText = Annotated[str, Field(pattern=TEXT_PATTERN)]
"""An exact loss: see `fedhelp_secure.privacy.loss.Loss.text`. A zCDP loss is "p/q"."""
Decimal = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{6}$")]
"""An epsilon, rounded up to six decimals."""
Limit = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$")]
Delta = Annotated[str, Field(pattern=r"^1e-[0-9]{1,2}$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Short = Annotated[str, Field(min_length=1, max_length=200)]


class RehearsalOnly(PolicyError):
    """A charter is for invented numbers, and patients were to be released under it."""

    code = "rehearsal"


class LedgerRefused(PeerError):
    """A ledger is not the unbroken, correct account of what its hospital spent."""

    code = "ledger-refused"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Event(_Record):
    """What every release states: everything from which its loss follows."""

    mechanism: MechanismName
    unit: Literal["patient"]
    adjacency: Literal["add-remove-one"]
    values: int = Field(ge=1)
    """Integers in the release."""
    clip_units: int = Field(ge=1)
    """L2 bound of one patient's vector, or of the whole matrix (grid units)."""
    sensitivity: Rational
    """Of the hospital's own query in L2 norm, exactly (grid units)."""
    rule: Rule
    """Why: a key of `fedhelp_secure.privacy.parameters.RULES`."""
    weight: int = Field(ge=1)
    """The hospital's weight in the federation's sum."""
    sigma_units: int = Field(ge=1)

    @model_validator(mode="after")
    def _the_rule_gives_the_sensitivity(self) -> _Event:
        worked_out = sensitivity_of(self.mechanism, self.clip_units)
        stated = (self.sensitivity, self.rule)
        if stated != (rational_text(worked_out.units), worked_out.rule):
            raise ValueError("sensitivity and rule are not those of the mechanism and its clip")
        return self

    @property
    def sensitivity_units(self) -> int:
        """`sensitivity` as a number: every rule gives a whole one."""
        return int(Fraction(self.sensitivity))


class GaussianEvent(_Event):
    """One release of a query over all of a hospital's patients, noised by shares."""

    mechanism: Literal["probe", "logit_noise"]
    sampling: Literal["none"] = "none"
    sigma_units: int = Field(ge=1)
    """Deviation of the honest cohort's noise on the weighted sum (grid units)."""
    share_units: int = Field(ge=1)
    """Scale of this hospital's own discrete Gaussian share (grid units)."""
    cohort_minimum: int = Field(ge=2)
    """m."""
    colluders: int = Field(ge=1)
    """c."""
    honest_shares: int = Field(ge=1)
    """t = m - c."""

    @model_validator(mode="after")
    def _shares_carry_the_noise(self) -> GaussianEvent:
        if self.honest_shares != self.cohort_minimum - self.colluders:
            raise ValueError("honest_shares must be cohort_minimum - colluders")
        if (self.weight * self.share_units) ** 2 * self.honest_shares < self.sigma_units**2:
            raise ValueError("share_units are too few for sigma_units")
        return self

    @property
    def rho_aggregate(self) -> Fraction:
        """zCDP loss of one patient, seen from outside."""
        return rho_of_gaussian(
            sensitivity=self.weight * self.sensitivity_units, sigma=self.sigma_units
        )

    @property
    def rho_collusion(self) -> Fraction:
        """zCDP loss of one patient if aggregator and all custodians collude."""
        return rho_of_gaussian(sensitivity=self.sensitivity_units, sigma=self.share_units)

    @property
    def loss_aggregate(self) -> Loss:
        """`rho_aggregate`, in the form that composes with every other event."""
        return Loss(self.rho_aggregate)

    @property
    def loss_collusion(self) -> Loss:
        """`rho_collusion`, in the form that composes with every other event."""
        return Loss(self.rho_collusion)


class SampledGaussianEvent(_Event):
    """Steps over Poisson-sampled patients, each noised at the hospital; what is sent follows."""

    mechanism: Literal["dp_sgd"]
    sampling: Literal["poisson"] = "poisson"
    sigma_units: int = Field(ge=1)
    """Scale of the discrete Gaussian that the hospital adds to each step's sum (grid units)."""
    sampling_rate: SamplingRate
    """q: probability of each patient to be in a step."""
    steps: int = Field(ge=1)
    """T."""
    nominal_patients: int = Field(ge=1)
    """Public figure that divides a step's sum, with q; it does not enter the loss."""

    @property
    def honest_shares(self) -> int:
        """One: the hospital's own noise is all that is counted, so that none can be missing."""
        return 1

    @property
    def loss_aggregate(self) -> Loss:
        """Renyi loss of one patient. Others' noise is not counted on, so weights do not matter."""
        return Loss.of_sampled_gaussian(
            rate=Fraction(self.sampling_rate),
            steps=self.steps,
            sensitivity=self.sensitivity_units,
            sigma=self.sigma_units,
        )

    @property
    def loss_collusion(self) -> Loss:
        """The same loss: all of the noise is the hospital's own."""
        return self.loss_aggregate


PrivacyEvent = Annotated[GaussianEvent | SampledGaussianEvent, Field(discriminator="sampling")]
"""One release of one hospital, whichever its mechanism."""


def check_patients_allowed(charter: Charter) -> None:
    """Raises RehearsalOnly if ``charter`` is for invented numbers."""
    if charter.privacy.mechanism == "rehearsal":
        raise RehearsalOnly(
            "this charter is a rehearsal, for invented numbers only: no patient may be released "
            "under it. Run 'fedhelp client rehearse', or ask the registrar for a charter whose "
            "privacy.mechanism is probe, dp_sgd or logit_noise."
        )


def event_of(charter: Charter, hospital: str) -> PrivacyEvent:
    """One round's release of ``hospital`` under ``charter``.

    Raises RehearsalOnly for a rehearsal, and CharterRefused if the hospital is not in the charter.
    """
    check_patients_allowed(charter)
    group = charter.hospital(hospital).group
    privacy, sensitivity = charter.privacy, charter.privacy.sensitivity
    common: dict[str, Any] = {
        "mechanism": privacy.mechanism,
        "unit": privacy.unit,
        "adjacency": privacy.adjacency,
        "values": charter.secure_sum.values,
        "clip_units": privacy.clip_units,
        "sensitivity": rational_text(sensitivity.units),
        "rule": sensitivity.rule,
        "weight": charter.weights.of(group),
        "sigma_units": privacy.sigma_units,
    }
    if privacy.dp_sgd is not None:
        return SampledGaussianEvent(
            **common,
            sampling_rate=privacy.dp_sgd.sampling_rate,
            steps=privacy.dp_sgd.steps,
            nominal_patients=privacy.dp_sgd.nominal_patients,
        )
    return GaussianEvent(
        **common,
        share_units=charter.share_units(group),
        cohort_minimum=charter.cohort.minimum,
        colluders=charter.cohort.colluders,
        honest_shares=charter.cohort.honest,
    )


def rational_text(value: Fraction) -> str:
    """``value`` as "p/q" in lowest terms."""
    return f"{value.numerator}/{value.denominator}"


def decimal_text(epsilon: Fraction) -> str:
    """An epsilon of `epsilon_of_rho`, which has six decimals, with exactly these."""
    millionths = epsilon * 10**6
    if millionths.denominator != 1:
        raise ValueError("an epsilon must have been rounded to six decimals")
    whole, rest = divmod(millionths.numerator, 10**6)
    return f"{whole}.{rest:06d}"
