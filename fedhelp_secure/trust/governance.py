"""The governance key's successors: who signs trust lists and charters after whom.

A succession is a document that the old and the new key have both signed. Every trust list since
carries all of them, so that a party that has missed some lists follows from whichever key it knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import Digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.signing import (
    SigningKey,
    VerifyingKey,
    open_joint_document,
    peek_document,
    sign_jointly,
)

KIND = "governance-succession"
MOST_CHARTERS = 64
"""In one succession."""
MOST_SUCCESSIONS = 32
"""In one trust list, which has at most a mebibyte."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    federation: str
    sequence: int = Field(ge=2)
    old_key: str
    new_key: str
    charters: tuple[Digest, ...] = Field(max_length=MOST_CHARTERS)


@dataclass(frozen=True, slots=True)
class GovernanceSuccession:
    """One change of the governance key."""

    federation: str
    sequence: int
    """Of the first trust list that the new key signs."""
    old_key: VerifyingKey
    new_key: VerifyingKey
    charters: frozenset[str]
    """Digests of the charters for which the old key's signature still counts."""


def sign_succession(
    federation: str, sequence: int, old: SigningKey, new: SigningKey, *, charters: Sequence[str]
) -> bytes:
    """The succession's envelope, signed by both keys; ``charters`` of the old one stay valid.

    Raises MalformedMessage for more charters than a succession names.
    """
    if len(charters) > MOST_CHARTERS:
        raise MalformedMessage(f"a succession names at most {MOST_CHARTERS} charters.")
    document = _Document(
        version=1,
        federation=federation,
        sequence=sequence,
        old_key=old.public.to_base64(),
        new_key=new.public.to_base64(),
        charters=tuple(charters),
    )
    return sign_jointly(KIND, document.model_dump(mode="json"), [old, new])


def open_succession(envelope: bytes) -> GovernanceSuccession:
    """The succession in ``envelope``, signed by both keys that it names.

    Whether the old one is the federation's is for the caller to know. Raises MalformedMessage or
    SignatureRefused.
    """
    peeked = peek_document(KIND, envelope)
    named = [VerifyingKey.from_base64(str(peeked.get(name))) for name in ("old_key", "new_key")]
    opened = open_joint_document(KIND, envelope, named)
    try:
        document = _Document.model_validate_json(canonical_json(opened))
    except ValidationError as error:
        raise MalformedMessage("a governance succession is not of this version's form.") from error
    return GovernanceSuccession(
        document.federation, document.sequence, named[0], named[1], frozenset(document.charters)
    )


def successor_of(known: VerifyingKey, successions: Sequence[GovernanceSuccession]) -> VerifyingKey:
    """The key that follows from ``known`` by ``successions``, which are in order."""
    key = known
    for succession in successions:
        if succession.old_key == key:
            key = succession.new_key
    return key


def check_successions(
    successions: Sequence[GovernanceSuccession], *, federation: str, sequence: int
) -> None:
    """Raises MalformedMessage unless they are one chain, in a list with this ``sequence``."""
    keys = [one.old_key for one in successions[:1]] + [one.new_key for one in successions]
    numbers = [one.sequence for one in successions]
    if (
        any(one.federation != federation for one in successions)
        or [one.old_key for one in successions] != keys[:-1]
        or len(set(keys)) != len(keys)
        or numbers != sorted(set(numbers))
        or any(number > sequence for number in numbers)
    ):
        raise MalformedMessage("a trust list's governance successions are not one chain.")
