"""Other long-lived keys for a party under its own name: asked for, signed by the old and the new.

The statement names both pairs and is signed by both signing keys: the old one allows the change,
the new one proves that it is held. It counts once: it has the number of the rotation. The registrar
is asked before the state uses the new keys, and the keys of a try that failed are used by the next,
so whatever is cut short is done again. See docs/adr/0032.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.enrolment.renewal import alone
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.keystore.generations import FIRST, NextKeys
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.signing import (
    SigningKey,
    VerifyingKey,
    open_joint_document,
    peek_document,
    sign_jointly,
)
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

KIND = "key-rotation"
LIMIT_BYTES = 16 * 1024
_TIMEOUT_SECONDS = 30.0


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    identity: str
    sequence: int = Field(ge=1)
    old_signing_key: str
    new_signing_key: str
    old_sealing_key: str | None
    new_sealing_key: str | None


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """What a party states when it takes other keys."""

    identity: Identity
    sequence: int
    """1 for a party's first rotation."""
    old_signing_key: VerifyingKey
    new_signing_key: VerifyingKey
    old_sealing_key: SealingKey | None
    """None, like the new one, if the sealing key stays the same."""
    new_sealing_key: SealingKey | None


def sign_rotation(rotation: KeyRotation, old: SigningKey, new: SigningKey) -> bytes:
    """The statement's envelope, signed by both keys."""
    document = _Document(
        version=1,
        identity=rotation.identity.uri,
        sequence=rotation.sequence,
        old_signing_key=rotation.old_signing_key.to_base64(),
        new_signing_key=rotation.new_signing_key.to_base64(),
        old_sealing_key=_text(rotation.old_sealing_key),
        new_sealing_key=_text(rotation.new_sealing_key),
    )
    return sign_jointly(KIND, document.model_dump(), [old, new])


def open_rotation(envelope: bytes) -> KeyRotation:
    """The statement in ``envelope``, signed by both keys that it names.

    Whether these are the party's is for the caller to find out. Raises MalformedMessage or
    SignatureRefused.
    """
    if len(envelope) > LIMIT_BYTES:
        raise MalformedMessage("a key rotation is too long; make it again.")
    peeked = peek_document(KIND, envelope)
    named = [
        VerifyingKey.from_base64(str(peeked.get(name)))
        for name in ("old_signing_key", "new_signing_key")
    ]
    opened = open_joint_document(KIND, envelope, named)
    try:
        document = _Document.model_validate_json(canonical_json(opened))
        identity = Identity.from_uri(document.identity)
    except (ValidationError, ValueError) as error:
        raise MalformedMessage("a key rotation does not have the form of this version.") from error
    return KeyRotation(
        identity=identity,
        sequence=document.sequence,
        old_signing_key=named[0],
        new_signing_key=named[1],
        old_sealing_key=_key(document.old_sealing_key),
        new_sealing_key=_key(document.new_sealing_key),
    )


def rotate_keys(
    state: StateDirectory, address: str, *, signer: str = "file:", registrar: str = "registrar"
) -> NextKeys:
    """Make other keys and have the registrar at ``address`` put them into all charters to come.

    ``signer`` is the URI of the new signing key, ``registrar`` the registrar's name. A process that
    runs on ``state`` goes on with the keys that its charter names. Raises UnavailablePeer,
    PeerNotAuthenticated, PeerRefused, StateError and what a signer raises; then the present keys
    stay, and the next try takes the keys that this one has made.
    """
    expected = Identity(state.identity.federation, Role.REGISTRAR, registrar)
    with alone(state):
        keys = state.next_keys(signer)
        old = state.signing_key()
        rotation = KeyRotation(
            identity=state.identity,
            sequence=keys.number - FIRST,
            old_signing_key=old.public,
            new_signing_key=keys.signing_key.public,
            old_sealing_key=None if keys.sealing_key is None else state.unsealing_key().public,
            new_sealing_key=keys.sealing_key,
        )
        request = enrolment_pb2.RotateKeysRequest(
            statement=sign_rotation(rotation, old, keys.signing_key)
        )
        with (
            open_channel(state, address, expected=expected) as channel,
            translated_errors("the registrar"),
        ):
            enrolment_pb2_grpc.EnrolmentStub(channel).RotateKeys(request, timeout=_TIMEOUT_SECONDS)
        state.adopt(keys)
    return keys


def _text(key: SealingKey | None) -> str | None:
    return None if key is None else key.to_base64()


def _key(text: str | None) -> SealingKey | None:
    return None if text is None else SealingKey.from_base64(text)
