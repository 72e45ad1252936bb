"""Key epochs: which keys of the custodians a round is under, and who signed that.

A custodian has a numbered sequence of epochs, each with new keys (a decryptor's CKKS keys, an
unmasker's sealing key) and a signed statement that names the statement before it. The charter pins
the first. When a round begins, every custodian binds it to its present epoch in a statement with a
fresh nonce; a hospital's manifest and sealed seeds name all of these statements by one digest, so
nothing made for one round, epoch or beginning opens in another.

The statements are made by `fedhelp_keys.custodian.epochs`. Here is what each of them says, and the
check of one by itself; what they prove together is in `fedhelp_secure.secure_sum.round_keys`.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Digest, Label
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document
from fedhelp_secure.transport.identity import Identity, Role

EPOCH_KIND = "key-epoch"
BEGUN_KIND = "round-begun"
DESTROYED_KIND = "key-epoch-destroyed"

STATEMENT_BYTES = 8 * 1024
"""No statement is longer: an unmasker's key in it has 1,624 characters."""

_NONCE_BYTES = 32

_CustodianRole = Literal["decryptor", "unmasker"]
_Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
_Statement = TypeVar("_Statement", "KeyEpoch", "RoundBegun", "EpochDestroyed")


class KeysRefused(PeerError):
    """A custodian's statements about its keys are not about this round, or do not hold together."""

    code = "round-keys"


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """One epoch's public key."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    federation: Label
    role: _CustodianRole
    name: Label
    epoch: Annotated[int, Field(ge=1)]
    key: str
    """A decryptor's: the digest of its public context. An unmasker's: its sealing key, base64."""
    created: _Time
    previous: Digest | None
    """Of the statement of the epoch before; None for the first."""


@dataclass(frozen=True, slots=True)
class RoundBegun:
    """A (charter, round) bound to an epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    federation: Label
    role: _CustodianRole
    name: Label
    charter: Digest
    round: int
    epoch: Annotated[int, Field(ge=1)]
    epoch_statement: Digest
    """Of the epoch's own statement, and so of its key."""
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """From the operating system: no two beginnings of a round are the same."""


@dataclass(frozen=True, slots=True)
class EpochDestroyed:
    """The secret of an epoch was overwritten and removed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    federation: Label
    role: _CustodianRole
    name: Label
    epoch: Annotated[int, Field(ge=1)]
    epoch_statement: Digest
    destroyed: _Time
    reason: Annotated[str, Field(min_length=1, max_length=200)]
    """ANSWERED, or an operator's sentence."""
    abandoned: bool
    """Whether rounds were bound to it that were never answered."""


ANSWERED = "every round begun under it is answered"

_EPOCH = TypeAdapter(KeyEpoch)
_BEGUN = TypeAdapter(RoundBegun)
_DESTROYED = TypeAdapter(EpochDestroyed)


@dataclass(frozen=True, slots=True)
class CustodianParty:
    """A custodian as its statements are checked."""

    identity: Identity
    key: VerifyingKey
    pinned: str
    """Its public key in the charter, in the form of `KeyEpoch.key`."""
    first_epoch: int
    """Whose key that is."""


def open_epoch(party: CustodianParty, envelope: bytes) -> KeyEpoch:
    """The statement in ``envelope``, its signature, custodian and key's form checked."""
    epoch = _opened(_EPOCH, EPOCH_KIND, party, envelope)
    if party.identity.role is Role.UNMASKER:
        SealingKey.from_base64(epoch.key)
    elif len(epoch.key) != len(digest(b"")):
        raise KeysRefused("a decryptor's epoch must name the digest of its public context.")
    return epoch


def open_begun(party: CustodianParty, envelope: bytes) -> RoundBegun:
    """The statement in ``envelope``, its signature and custodian checked."""
    return _opened(_BEGUN, BEGUN_KIND, party, envelope)


def open_destroyed(party: CustodianParty, envelope: bytes) -> EpochDestroyed:
    """The statement in ``envelope``, its signature and custodian checked."""
    return _opened(_DESTROYED, DESTROYED_KIND, party, envelope)


def sign_epoch(
    signing_key: SigningKey,
    identity: Identity,
    *,
    epoch: int,
    key: str,
    previous: bytes | None,
    now: datetime,
) -> bytes:
    """The statement of an epoch; ``previous`` is the envelope of the one before it."""
    statement = KeyEpoch(
        version=1,
        federation=identity.federation,
        role=_role(identity),
        name=identity.name,
        epoch=epoch,
        key=key,
        created=_written(now),
        previous=None if previous is None else digest(previous),
    )
    return signing_key.sign_document(EPOCH_KIND, asdict(statement))


def sign_begun(
    signing_key: SigningKey,
    identity: Identity,
    *,
    charter_digest: str,
    round_number: int,
    epoch: int,
    epoch_envelope: bytes,
) -> bytes:
    """The statement that a round is bound to ``epoch``; every call gives another nonce."""
    statement = RoundBegun(
        version=1,
        federation=identity.federation,
        role=_role(identity),
        name=identity.name,
        charter=charter_digest,
        round=round_number,
        epoch=epoch,
        epoch_statement=digest(epoch_envelope),
        nonce=secrets.token_hex(_NONCE_BYTES),
    )
    return signing_key.sign_document(BEGUN_KIND, asdict(statement))


def sign_destroyed(
    signing_key: SigningKey,
    identity: Identity,
    *,
    epoch: int,
    epoch_envelope: bytes,
    reason: str,
    abandoned: bool,
    now: datetime,
) -> bytes:
    """The statement that an epoch's secret is gone; make it when it is."""
    statement = EpochDestroyed(
        version=1,
        federation=identity.federation,
        role=_role(identity),
        name=identity.name,
        epoch=epoch,
        epoch_statement=digest(epoch_envelope),
        destroyed=_written(now),
        reason=reason,
        abandoned=abandoned,
    )
    return signing_key.sign_document(DESTROYED_KIND, asdict(statement))


def _opened(
    adapter: TypeAdapter[_Statement], kind: str, party: CustodianParty, envelope: bytes
) -> _Statement:
    if len(envelope) > STATEMENT_BYTES:
        raise MalformedMessage(f"a {kind} statement is longer than 8 KiB; ask its custodian.")
    document = open_document(kind, envelope, party.key)
    try:
        statement = adapter.validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage(
            f"a {kind} statement has other fields than the contract fixes; update the software of "
            "its custodian."
        ) from error
    own = (party.identity.federation, party.identity.role.value, party.identity.name)
    if (statement.federation, statement.role, statement.name) != own:
        raise KeysRefused(f"a {kind} statement names another custodian than signed it; report it.")
    return statement


def _role(identity: Identity) -> _CustodianRole:
    return "decryptor" if identity.role is Role.DECRYPTOR else "unmasker"


def _written(now: datetime) -> str:
    return f"{now:%Y-%m-%dT%H:%M:%SZ}"
