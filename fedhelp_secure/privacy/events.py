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
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PeerError, PolicyError
from fedhelp_secure.privacy.accountant import rho_of_gaussian

KIND = "ledger-entry"

Rational = Annotated[str, Field(pattern=r"^[0-9]+/[1-9][0-9]*$")]
"""An exact loss, "p/q" in lowest terms."""
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


class PrivacyEvent(_Record):
    """One release of one hospital: everything from which its loss follows."""

    mechanism: Literal["probe"]
    unit: Literal["patient"]
    adjacency: Literal["add-remove-one"]
    values: int = Field(ge=1)
    """Integers in the release."""
    clip_units: int = Field(ge=1)
    """L2 bound of one patient's vector: the sensitivity of the hospital's own sum (grid units)."""
    weight: int = Field(ge=1)
    """The hospital's weight in the federation's sum."""
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
    def _shares_carry_the_noise(self) -> PrivacyEvent:
        if self.honest_shares != self.cohort_minimum - self.colluders:
            raise ValueError("honest_shares must be cohort_minimum - colluders")
        if (self.weight * self.share_units) ** 2 * self.honest_shares < self.sigma_units**2:
            raise ValueError("share_units are too few for sigma_units")
        return self

    @property
    def rho_aggregate(self) -> Fraction:
        """zCDP loss of one patient, seen from outside."""
        return rho_of_gaussian(sensitivity=self.weight * self.clip_units, sigma=self.sigma_units)

    @property
    def rho_collusion(self) -> Fraction:
        """zCDP loss of one patient if aggregator and both custodians collude."""
        return rho_of_gaussian(sensitivity=self.clip_units, sigma=self.share_units)


def check_patients_allowed(charter: Charter) -> None:
    """Raises RehearsalOnly if ``charter`` is for invented numbers."""
    if charter.privacy.mechanism == "rehearsal":
        raise RehearsalOnly(
            "this charter is a rehearsal, for invented numbers only: no patient may be released "
            "under it. Run 'fedhelp client rehearse', or ask the registrar for a charter whose "
            "privacy.mechanism is probe."
        )


def event_of(charter: Charter, hospital: str) -> PrivacyEvent:
    """One round's release of ``hospital`` under ``charter``.

    Raises RehearsalOnly for a rehearsal, and CharterRefused if the hospital is not in the charter.
    """
    check_patients_allowed(charter)
    group = charter.hospital(hospital).group
    return PrivacyEvent(
        mechanism="probe",
        unit=charter.privacy.unit,
        adjacency=charter.privacy.adjacency,
        values=charter.secure_sum.values,
        clip_units=charter.privacy.clip_units,
        weight=charter.weights.of(group),
        sigma_units=charter.privacy.sigma_units,
        share_units=charter.share_units(group),
        cohort_minimum=charter.cohort.minimum,
        colluders=charter.cohort.colluders,
        honest_shares=charter.cohort.honest,
    )
