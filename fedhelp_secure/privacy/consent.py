"""A larger budget: a consent, signed by the hospital's privacy officer, recorded in the ledger.

The site policy's file gives the limits one begins with. The file can tighten them, never loosen
them: a limit that the ledger has seen is raised for one period by a consent, and by nothing else.

A consent is a DSSE envelope of the kind ``privacy-consent``, signed by a key of the privacy
officer's own that the policy pins. It names the ledger entry after which it is recorded, so that it
counts once and in one ledger, and the limits that it replaces: a policy file that is tightened
below these later wins over it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedhelp_secure.charter import Digest, Label
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.privacy.events import LedgerRefused, Limit, Timestamp
from fedhelp_secure.privacy.records import Scope
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document

CONSENT_KIND = "privacy-consent"

ALL = "all"
"""The one subject of the lifetime period."""

_SUBJECTS: dict[Scope, str] = {
    "charter": r"sha256:[0-9a-f]{64}",
    "year": r"[0-9]{4}",
    "data-set": r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    "lifetime": ALL,
}


class ConsentRefused(PolicyError):
    """A consent may not be recorded: by another key, for another period, or raising nothing."""

    code = "consent"


class NoPeriod(ConfigurationError):
    """A period is not written as one."""

    code = "period"


@dataclass(frozen=True, slots=True)
class Period:
    """What a limit is for: one charter, one year, one data set, or the ledger's lifetime."""

    scope: Scope
    subject: str

    @classmethod
    def parse(cls, text: str) -> Period:
        """The period written as "year:2026", "data-set:NAME", "charter:DIGEST" or "lifetime"."""
        if text == "lifetime":
            return LIFETIME
        scope, _, subject = text.partition(":")
        for known, pattern in _SUBJECTS.items():
            if scope == known and known != "lifetime" and re.fullmatch(pattern, subject):
                return cls(known, subject)
        raise NoPeriod(
            "a period must be year:YYYY, data-set:NAME, charter:sha256:DIGEST or lifetime."
        )

    def __str__(self) -> str:
        return self.scope if self.scope == "lifetime" else f"{self.scope}:{self.subject}"


LIFETIME = Period("lifetime", ALL)


class Consent(BaseModel):
    """What a privacy officer signs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    hospital: Label
    after: Digest | None
    """The ledger's last entry; None for a ledger that has none."""
    scope: Scope
    subject: str
    epsilon: Limit | None
    """New limit (aggregate) for the period; None to leave it."""
    epsilon_collusion: Limit | None
    instead_of: Limit | None
    """What the policy's file says; None where ``epsilon`` is."""
    instead_of_collusion: Limit | None
    reason: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,200}$")]
    """For whoever reviews budgets. Never about a patient."""
    given_at: Timestamp

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if not re.fullmatch(_SUBJECTS[self.scope], self.subject):
            raise ValueError("the subject is not one of its scope")
        if self.epsilon is None and self.epsilon_collusion is None:
            raise ValueError("a consent must name a limit")
        pairs = (
            (self.epsilon, self.instead_of),
            (self.epsilon_collusion, self.instead_of_collusion),
        )
        if any((new is None) != (old is None) for new, old in pairs):
            raise ValueError("a consent must say what each limit replaces")
        return self

    @property
    def period(self) -> Period:
        """The one period in which it counts."""
        return Period(self.scope, self.subject)


def make_consent(
    *,
    hospital: str,
    after: str | None,
    period: Period,
    given: tuple[str | None, str | None],
    instead_of: tuple[str | None, str | None],
    reason: str,
    given_at: str,
) -> Consent:
    """The consent to the ``given`` (aggregate, collusion) limits; raises ConsentRefused."""
    old, old_collusion = (
        None if new is None else limit for new, limit in zip(given, instead_of, strict=True)
    )
    try:
        return Consent(
            hospital=hospital,
            after=after,
            scope=period.scope,
            subject=period.subject,
            epsilon=given[0],
            epsilon_collusion=given[1],
            instead_of=old,
            instead_of_collusion=old_collusion,
            reason=reason,
            given_at=given_at,
        )
    except ValidationError as error:
        raise ConsentRefused(
            "a consent needs a limit that the site's policy sets, as a decimal such as 4.5, and a "
            "reason of up to 200 printable characters."
        ) from error


def check_consent_key(key: VerifyingKey, *, pinned: str | None, hospital: VerifyingKey) -> None:
    """Raises ConsentRefused unless ``key`` is the ``pinned`` one and not the hospital's own."""
    if pinned is None:
        raise ConsentRefused(
            "the site's policy pins no consent_key; make one with 'fedhelp privacy consent-key' "
            "and have it entered there."
        )
    if key.to_base64() != pinned:
        raise ConsentRefused(
            "the key is not the one that the site's policy pins as consent_key; give the privacy "
            "officer's."
        )
    if key == hospital:
        raise ConsentRefused(
            "the consent key is the hospital's own signing key; the privacy officer needs a key of "
            "their own."
        )


def sign_consent(consent: Consent, key: SigningKey) -> bytes:
    """The DSSE envelope, signed by the privacy officer's ``key``."""
    return key.sign_document(CONSENT_KIND, consent.model_dump(mode="json"))


def open_consent(envelope: bytes, key: VerifyingKey) -> Consent:
    """The consent in ``envelope``; whether it raises anything is for the ledger to say.

    Raises SignatureRefused, MalformedMessage or LedgerRefused.
    """
    document = open_document(CONSENT_KIND, envelope, key)
    try:
        return Consent.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise LedgerRefused("a consent has not the form that the ledger requires.") from error
