"""The entries of a privacy ledger, as they are signed.

A hospital's ledger is a chain of DSSE envelopes (kind ``ledger-entry``). A *reservation* debits one
round before anything of it exists; *outcomes* say later that its contribution was sent, that the
sum with it was opened, or that the round was *aborted*. A *consent* raises one of the site's
limits. A *succession* hands the ledger over to another signing key. Everything in an entry is
public: parameters, losses, digests and times. Counts of patients, training losses, norms, clip
fractions, noise and seeds are never written.

Losses and limits are stated for four periods: the charter, the calendar year (UTC) in which the
round was reserved, the life of the data set, and the lifetime of the ledger. Those of the charter
are at the charter's delta, the others at the site's (``lifetime_delta``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Digest, Group, Label
from fedhelp_secure.policy import PublicKey
from fedhelp_secure.privacy.events import (
    KIND,
    Decimal,
    Delta,
    LedgerRefused,
    Limit,
    LossText,
    PrivacyEvent,
    Short,
    Timestamp,
)
from fedhelp_secure.privacy.parameters import Tuning
from fedhelp_secure.signing import VerifyingKey, open_document, open_joint_document

Scope = Literal["charter", "year", "data-set", "lifetime"]
SCOPES: tuple[Scope, ...] = ("charter", "year", "data-set", "lifetime")

MAXIMUM_STATEMENT_CHARACTERS = 4096

Commit = Annotated[str, Field(pattern=r"^(unknown|[0-9a-f]{40})$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Limits(_Record):
    """The limits under which a debit was allowed; None where there is none."""

    epsilon: Limit
    """Aggregate, under this charter; a site whose own limit is lower refuses the charter."""
    epsilon_collusion: Limit | None = None
    year_epsilon: Limit | None = None
    year_epsilon_collusion: Limit | None = None
    data_set_epsilon: Limit | None = None
    data_set_epsilon_collusion: Limit | None = None
    lifetime_epsilon: Limit | None = None
    """Aggregate, over all charters of this ledger, at ``lifetime_delta``."""
    lifetime_epsilon_collusion: Limit | None = None
    lifetime_delta: Delta

    def of(self, scope: Scope) -> tuple[str | None, str | None]:
        """(aggregate, collusion) limit of one period."""
        return _pair(self, scope)


class SiteLimits(_Record):
    """What the site's own policy file said when an entry was made, before any consent."""

    epsilon: Limit | None = None
    epsilon_collusion: Limit | None = None
    year_epsilon: Limit | None = None
    year_epsilon_collusion: Limit | None = None
    data_set_epsilon: Limit | None = None
    data_set_epsilon_collusion: Limit | None = None
    lifetime_epsilon: Limit | None = None
    lifetime_epsilon_collusion: Limit | None = None
    lifetime_delta: Delta
    consent_key: PublicKey | None = None
    """Of the privacy officer, whose signature alone raises a limit."""

    def of(self, scope: Scope) -> tuple[str | None, str | None]:
        """(aggregate, collusion) limit of one period."""
        return _pair(self, scope)


class Totals(_Record):
    """Everything spent up to and including one reservation."""

    rho_aggregate: LossText
    """Under this charter."""
    rho_collusion: LossText
    epsilon_aggregate: Decimal
    epsilon_collusion: Decimal
    epsilon_fewer_honest: tuple[Decimal, ...] = Field(max_length=8)
    """Aggregate, under this charter, if fewer shares than t are honest: see `fewer_honest`."""
    year_rho_aggregate: LossText
    """Over all charters, in the year of ``reserved_at``."""
    year_rho_collusion: LossText
    data_set_rho_aggregate: LossText
    """Over all charters, of this data set."""
    data_set_rho_collusion: LossText
    lifetime_rho_aggregate: LossText
    """Over all charters of this ledger."""
    lifetime_rho_collusion: LossText

    def of(self, scope: Scope) -> tuple[str, str]:
        """(aggregate, collusion) rho of one period."""
        prefix = "" if scope == "charter" else scope.replace("-", "_") + "_"
        return getattr(self, f"{prefix}rho_aggregate"), getattr(self, f"{prefix}rho_collusion")


class Reservation(_Record):
    """The debit of one round, durable before noise for it is drawn."""

    version: Literal[1] = 1
    status: Literal["reserved"] = "reserved"
    sequence: int = Field(ge=0)
    previous: Digest | None
    """Digest of the envelope before this one; None for the first."""
    federation: Label
    hospital: Label
    group: Group
    charter: Digest
    """The budget that is debited, with the year and the data set."""
    data_set: Label
    round: int = Field(ge=1)
    attempt: Literal[1] = 1
    """A round is drawn once; a retry sends the same bytes."""
    event: PrivacyEvent
    shape: tuple[int, ...] = Field(min_length=1, max_length=4)
    """Of the release: its values are these many, the last axis being the classes."""
    fraction_bits: int
    """One grid unit is 2**-fraction_bits."""
    hospitals: int
    """n, in the charter."""
    proxy: Digest
    public_set: Digest
    tuning: Tuning | None = None
    """How the charter's maker says that its parameters were chosen."""
    previous_aggregate: Digest | None
    """Of the sum that the round before opened, on which this release depends; None if unknown."""
    rho_aggregate: LossText
    """Of this round."""
    rho_collusion: LossText
    delta: Delta
    """At which the epsilons of the charter hold."""
    totals: Totals
    limits: Limits
    site: SiteLimits
    sampler: Short
    sampler_version: Short
    entropy_source: Short
    software_version: Short
    software_commit: Commit
    """Of the source that was installed, if the installation recorded it (PEP 610)."""
    protocol: Short
    reserved_at: Timestamp

    @property
    def at(self) -> str:
        """When the entry was made."""
        return self.reserved_at


class Outcome(_Record):
    """What became of a reserved round."""

    version: Literal[1] = 1
    status: Literal["sent", "opened"]
    sequence: int = Field(ge=0)
    previous: Digest | None
    hospital: Label
    charter: Digest
    round: int = Field(ge=1)
    contribution: Digest
    """Digest of the signed manifest that was sent."""
    contributors: tuple[Label, ...] = Field(default=(), max_length=1000)
    """Whose releases are in the opened sum, in ascending order; none unless it was opened."""
    sum: Digest | None = None
    """Digest of the opened integers, little-endian int64; None unless it was opened."""
    recorded_at: Timestamp

    @model_validator(mode="after")
    def _an_opened_sum_is_named(self) -> Self:
        if (self.status == "opened") != (self.sum is not None and bool(self.contributors)):
            raise ValueError("sum and contributors belong to an opened round, and to no other")
        if list(self.contributors) != sorted(set(self.contributors)):
            raise ValueError("contributors must be in ascending order, each named once")
        if self.status == "opened" and self.hospital not in self.contributors:
            raise ValueError("a sum without the hospital's own contribution is not its outcome")
        return self

    @property
    def at(self) -> str:
        """When the entry was made."""
        return self.recorded_at


class Aborted(_Record):
    """A reserved round that ended without a sum for this hospital; it stays spent."""

    version: Literal[1] = 1
    status: Literal["aborted"] = "aborted"
    sequence: int = Field(ge=0)
    previous: Digest | None
    hospital: Label
    charter: Digest
    round: int = Field(ge=1)
    code: Annotated[str, Field(pattern=r"^[a-z-]{1,60}$")]
    """Why: a stable code, never a value."""
    recorded_at: Timestamp

    @property
    def at(self) -> str:
        """When the entry was made."""
        return self.recorded_at


class Consented(_Record):
    """A consent of the privacy officer: see `fedhelp_secure.privacy.consent`."""

    version: Literal[1] = 1
    status: Literal["consented"] = "consented"
    sequence: int = Field(ge=0)
    previous: Digest | None
    hospital: Label
    site: SiteLimits
    statement: str = Field(max_length=MAXIMUM_STATEMENT_CHARACTERS)
    """DSSE envelope, signed by ``site.consent_key``."""
    recorded_at: Timestamp

    @property
    def at(self) -> str:
        """When the entry was made."""
        return self.recorded_at


class Succeeded(_Record):
    """From the next entry on this hospital signs with another key: see docs/adr/0032.

    The entry's envelope is signed by both: the old key gives way, the new one proves that it is
    held and takes over all entries before.
    """

    version: Literal[1] = 1
    status: Literal["succeeded"] = "succeeded"
    sequence: int = Field(ge=0)
    previous: Digest | None
    hospital: Label
    old_key: PublicKey
    new_key: PublicKey
    recorded_at: Timestamp

    @property
    def at(self) -> str:
        """When the entry was made."""
        return self.recorded_at


Record = Reservation | Outcome | Aborted | Consented | Succeeded
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="status")])


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A record with the envelope that holds it; ``digest`` is the envelope's."""

    digest: str
    envelope: bytes
    record: Record

    @property
    def successor(self) -> VerifyingKey | None:
        """The key that signs all later entries, if this entry changes it."""
        if isinstance(self.record, Succeeded):
            return VerifyingKey.from_base64(self.record.new_key)
        return None


def fewer_honest(honest: int) -> tuple[int, ...]:
    """Numbers of honest shares below ``honest`` for which epsilons are stated: t - 1 to 1.

    At most eight: of more, the seven largest and 1.
    """
    fewer = tuple(range(honest - 1, 0, -1))
    return fewer if len(fewer) <= 8 else (*fewer[:7], 1)


def open_entry(envelope: bytes, key: VerifyingKey) -> LedgerEntry:
    """The entry in ``envelope``, its signature and form checked, its place in the chain not.

    Raises SignatureRefused, MalformedMessage or LedgerRefused.
    """
    document = open_document(KIND, envelope, key)
    try:
        record = _ADAPTER.validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        reason = re.sub(r"\s+", " ", first["msg"])
        raise LedgerRefused(f"a ledger entry is not valid at {where}: {reason}.") from error
    if isinstance(record, Succeeded):
        # Signed by both: nobody is named heir who does not hold the key, and no other signs here.
        if record.old_key != key.to_base64() or record.new_key == record.old_key:
            raise LedgerRefused("a ledger's succession names another key than the one before it.")
        open_joint_document(KIND, envelope, [key, VerifyingKey.from_base64(record.new_key)])
    site = record.site if isinstance(record, Reservation | Consented) else None
    if site is not None and site.consent_key == key.to_base64():
        raise LedgerRefused("the consent key is the hospital's own: its signature consents to all.")
    return LedgerEntry(digest(envelope), envelope, record)


def _pair(limits: Limits | SiteLimits, scope: Scope) -> tuple[str | None, str | None]:
    prefix = "" if scope == "charter" else scope.replace("-", "_") + "_"
    return getattr(limits, f"{prefix}epsilon"), getattr(limits, f"{prefix}epsilon_collusion")
