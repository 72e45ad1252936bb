"""Cosignatures: witnesses' signatures beside the log's own (C2SP ``tlog-cosignature``, Ed25519).

A witness states that, when it signed, the checkpoint was the newest that it had seen of this log,
and continued every earlier one. The signed message is ``cosignature/v1``, a line ``time`` with the
seconds since 1970, and the checkpoint's text; the signature line carries the time as 8 bytes, big
endian, before the signature, and its key id has the type 0x04. Source:
https://c2sp.org/tlog-cosignature.

Witnesses are the charter's hospitals and auditors, under their own names (SPIFFE URI) and signing
keys. A message that begins with ``cosignature/v1`` is neither a note's text (which begins with the
log's name) nor a DSSE envelope's (``DSSEv1``): one key may sign all three.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.evidence.checkpoint import (
    Checkpoint,
    encode,
    key_id,
    open_checkpoint,
    parse_signature,
    split_note,
)
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role

COSIGNATURE = b"\x04"
"""Type of a cosignature, part of the key id (c2sp.org/signed-note)."""

_TIME_BYTES = 8
_SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint of the log that one witness has cosigned."""

    witness: Identity
    checkpoint: Checkpoint
    unix_seconds: int
    """When, by the witness's clock."""


def cosign(note: bytes, *, charter: Charter, witness: Identity, key: SigningKey, now: int) -> bytes:
    """``note``, a checkpoint of the charter's log, with the log's line and ``witness``'s alone.

    ``now``: seconds since 1970. Raises MalformedMessage or SignatureRefused for what is no
    checkpoint of this log. The caller must have found it consistent with what it saw before.
    """
    origin, log_key = log_origin(charter), charter.aggregator.verifying_key()
    checkpoint = open_checkpoint(note, origin=origin, key=log_key)
    _, lines = split_note(note)
    wanted = (origin, key_id(origin, log_key))
    (own, *_) = [line for line in lines if parse_signature(line)[:2] == wanted]
    signature = key.sign(_message(checkpoint, now))
    signed = key_id(witness.uri, key.public, COSIGNATURE) + now.to_bytes(_TIME_BYTES) + signature
    return f"{checkpoint.body()}\n{own}\n— {witness.uri} {encode(signed)}\n".encode()


def open_cosigned(note: bytes, *, charter: Charter, witness: Identity) -> Cosigned:
    """What `cosign` made for ``witness``; both signatures checked, and nothing else in it.

    Raises MalformedMessage, or SignatureRefused if the charter names no such witness or a signature
    is not its, or the log's.
    """
    key = witness_key(charter, witness)
    checkpoint = open_checkpoint(
        note, origin=log_origin(charter), key=charter.aggregator.verifying_key()
    )
    _, lines = split_note(note)
    if len(lines) != 2:
        raise MalformedMessage("a cosigned checkpoint has the log's signature and the witness's.")
    name, identifier, blob = parse_signature(lines[1])
    if (name, identifier) != (witness.uri, key_id(witness.uri, key, COSIGNATURE)):
        raise SignatureRefused("a checkpoint is not cosigned by the witness that it is said to be.")
    if len(blob) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise MalformedMessage("a cosignature has 8 bytes of time and 64 of signature.")
    moment = int.from_bytes(blob[:_TIME_BYTES])
    key.check(blob[_TIME_BYTES:], _message(checkpoint, moment))
    return Cosigned(witness, checkpoint, moment)


def witnesses(charter: Charter) -> dict[Identity, VerifyingKey]:
    """Everybody who may cosign: the charter's hospitals, then its auditors."""
    federation = charter.federation
    hospitals = {
        Identity(federation, Role.HOSPITAL, party.name): party.verifying_key()
        for party in charter.hospitals
    }
    auditors = {
        Identity(federation, Role.AUDITOR, party.name): party.verifying_key()
        for party in charter.auditors
    }
    return hospitals | auditors


def witness_key(charter: Charter, witness: Identity) -> VerifyingKey:
    """Raises SignatureRefused if the charter names no such witness."""
    try:
        return witnesses(charter)[witness]
    except KeyError:
        raise SignatureRefused("a checkpoint is cosigned by nobody in the charter.") from None


def _message(checkpoint: Checkpoint, moment: int) -> bytes:
    return f"cosignature/v1\ntime {moment}\n{checkpoint.body()}".encode()
