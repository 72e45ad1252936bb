"""The statements about a custodian's epochs, under whichever of its signing keys a charter names.

A charter's parties check the chain of epochs with the signing key that it pins. When that key was
rotated, the chain that was stated under the key before is stated again under the new one: the same
epochs, keys and times, each naming the one before it. That is a function of what is stored and of
the key (Ed25519 is deterministic), so that every process, also after a crash or a restore, shows
the same bytes to all who hold a charter under one key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedhelp_secure.canonical import digest
from fedhelp_secure.secure_sum.epochs import DESTROYED_KIND, EPOCH_KIND
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document, signer_of


@dataclass(frozen=True, slots=True)
class Stated:
    """One epoch's statement, and the record that its secret is gone if it is."""

    number: int
    statement: bytes
    destroyed: bytes | None


def restated(
    stored: Sequence[Stated], key: SigningKey, own: Sequence[VerifyingKey]
) -> tuple[Stated, ...]:
    """``stored``, all epochs from the first on, signed with ``key``.

    ``own`` are all keys that the custodian has or had. Raises SignatureRefused for a statement that
    none of them has signed.
    """
    made: list[Stated] = []
    previous: str | None = None
    for one in stored:
        statement = _signed(EPOCH_KIND, one.statement, key, own, {"previous": previous})
        previous = digest(statement)
        destroyed = None
        if one.destroyed is not None:
            changed = {"epoch_statement": previous}
            destroyed = _signed(DESTROYED_KIND, one.destroyed, key, own, changed)
        made.append(Stated(one.number, statement, destroyed))
    return tuple(made)


def own_document(kind: str, envelope: bytes, own: Sequence[VerifyingKey]) -> dict[str, Any]:
    """What is in ``envelope``, which one of the keys ``own`` has signed."""
    return open_document(kind, envelope, signer_of(kind, envelope, own))


def _signed(
    kind: str,
    envelope: bytes,
    key: SigningKey,
    own: Sequence[VerifyingKey],
    changed: Mapping[str, str | None],
) -> bytes:
    signer = signer_of(kind, envelope, own)
    document = open_document(kind, envelope, signer)
    wanted = {**document, **changed}
    if signer == key.public and wanted == document:
        return envelope
    return key.sign_document(kind, wanted)
