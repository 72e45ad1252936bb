"""The trust list: one document that says which authorities may certify whom, and who is revoked.

It is canonical JSON in a DSSE envelope, signed by the federation's governance key. A list has a
sequence number that grows with every change; the same content may be issued again with a later
time, so that whoever holds it can tell how old its knowledge is. A party refuses a list older than
the one it has (rollback), and every call once its list is older than the list itself allows.
"""

from __future__ import annotations

import datetime
import functools
from typing import Annotated, Any, Literal

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document, peek_document
from fedhelp_secure.transport.identity import Identity, check_label
from fedhelp_secure.trust.governance import (
    MOST_SUCCESSIONS,
    GovernanceSuccession,
    check_successions,
    open_succession,
    successor_of,
)

KIND = "trust-list"
LIMIT_BYTES = 1 << 20
"""Of an envelope; a revocation is some 200 bytes."""

MAXIMUM_AGE_SECONDS = range(60, 30 * 24 * 3600 + 1)
DEFAULT_MAXIMUM_AGE_SECONDS = 24 * 3600
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Uri = Annotated[str, Field(pattern=r"^spiffe://[a-z0-9-]{1,63}/[a-z]{1,20}/[a-z0-9-]{1,63}$")]
Reason = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Authority(_Document):
    """A certificate authority, and for whom it may speak."""

    certificate: str
    """PEM, one certificate: the trust anchor of a chain."""
    identities: tuple[Uri, ...] | None = None
    """Whom it may certify; None is everybody of the federation."""
    subjects: dict[str, Uri] = {}
    """Identities of certificates without a URI name, by their subject (RFC 4514)."""


class Revocation(_Document):
    """One party that is out, for good: it may come back under another name only."""

    identity: Uri
    reason: Reason
    revoked: Time

    @property
    def revoked_at(self) -> datetime.datetime:
        """``revoked``, aware."""
        return _moment(self.revoked)


class TrustList(_Document):
    """Equal lists have equal bytes; `issued` and `sequence` order them."""

    version: Literal[1] = 1
    federation: str
    sequence: int = Field(ge=1)
    """Grows by one with every change of authorities or revocations."""
    issued: Time
    maximum_age_seconds: int = Field(ge=MAXIMUM_AGE_SECONDS[0], le=MAXIMUM_AGE_SECONDS[-1])
    """After ``issued``; then nobody is admitted until there is a newer list."""
    authorities: tuple[Authority, ...] = Field(min_length=1, max_length=64)
    revocations: tuple[Revocation, ...] = Field(max_length=4096)
    """In the order in which they were made."""
    governance: tuple[str, ...] = Field(default=(), max_length=MOST_SUCCESSIONS)
    """Every change of the governance key, oldest first: see `fedhelp_secure.trust.governance`."""

    @model_validator(mode="after")
    def _consistent(self) -> TrustList:
        check_label(self.federation, "a federation's name")
        revoked = [entry.identity for entry in self.revocations]
        if len(set(revoked)) != len(revoked):
            raise ValueError("a party is revoked twice")
        named = list(revoked)
        for authority in self.authorities:
            x509.load_pem_x509_certificate(authority.certificate.encode("ascii"))
            named += [*(authority.identities or ()), *authority.subjects.values()]
        for uri in named:
            if Identity.from_uri(uri).federation != self.federation:
                raise ValueError("an identity of another federation is named")
        return self

    @property
    def issued_at(self) -> datetime.datetime:
        """``issued``, aware."""
        return _moment(self.issued)

    @property
    def expires_at(self) -> datetime.datetime:
        """When nobody may be admitted on this list any more."""
        return self.issued_at + datetime.timedelta(seconds=self.maximum_age_seconds)

    def revocation_of(self, identity: Identity) -> Revocation | None:
        """The entry that puts ``identity`` out, or None."""
        uri = identity.uri
        return next((entry for entry in self.revocations if entry.identity == uri), None)

    def successions(self) -> tuple[GovernanceSuccession, ...]:
        """The changes of the governance key, each checked; raises as `open_succession` does."""
        return tuple(open_succession(text.encode("utf-8")) for text in self.governance)

    def governance_key(self, known: VerifyingKey) -> VerifyingKey:
        """Who governs by this list, for a party that knows ``known``."""
        return successor_of(known, self.successions())

    def document(self) -> dict[str, Any]:
        """As plain JSON values; a federation whose key was never changed does not say so."""
        document = self.model_dump(mode="json")
        if not self.governance:
            del document["governance"]
        return document


@functools.lru_cache(maxsize=64)
def _moment(text: str) -> datetime.datetime:
    # Asked for with every call that a server takes; parsing it would be most of what that costs.
    return datetime.datetime.strptime(text, TIME_FORMAT).replace(tzinfo=datetime.UTC)


def sign_trust_list(trusted: TrustList, governance_key: SigningKey) -> bytes:
    """``trusted`` in its DSSE envelope."""
    return governance_key.sign_document(KIND, trusted.document())


def open_trust_list(envelope: bytes, governance_key: VerifyingKey) -> TrustList:
    """The list in ``envelope``, signed by ``governance_key`` or by who has succeeded it.

    Raises SignatureRefused, or MalformedMessage if it is none.
    """
    if len(envelope) > LIMIT_BYTES:
        raise MalformedMessage("a trust list is too long; ask the registrar for another.")
    signer, unverified = governance_key, peek_document(KIND, envelope)
    if unverified.get("governance"):
        signer = _signer(_parsed(unverified), governance_key)
    return _parsed(open_document(KIND, envelope, signer))


def _signer(stated: TrustList, known: VerifyingKey) -> VerifyingKey:
    """Who must have signed a list that states successions, for a party that knows ``known``.

    Believed only as far as the keys have signed each other, beginning with the known one.
    """
    successions = stated.successions()
    check_successions(successions, federation=stated.federation, sequence=stated.sequence)
    signer = successor_of(known, successions)
    if signer != successions[-1].new_key:
        raise SignatureRefused("a trust list is of another governance key; do not use it.")
    return signer


def _parsed(document: dict[str, Any]) -> TrustList:
    try:
        return TrustList.model_validate_json(canonical_json(document))
    except (ValidationError, ValueError) as error:
        raise MalformedMessage("a trust list does not have the form of this version.") from error
