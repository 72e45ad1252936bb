"""Cosignatures in the C2SP form, and whose they are."""

from __future__ import annotations

import base64

import pytest
from support.federation import Federation

from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.evidence.checkpoint import (
    Checkpoint,
    encode,
    key_id,
    open_checkpoint,
    parse_signature,
    sign_checkpoint,
    split_note,
)
from fedhelp_secure.evidence.cosignature import (
    COSIGNATURE,
    cosign,
    open_cosigned,
    witness_key,
    witnesses,
)
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role

NOW = 1_679_315_147

# https://c2sp.org/tlog-cosignature, the example at its head.
SPECIFIED = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2"
    "oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
)
# Verifier keys that another implementation made (Tracekit, docs/format-v2.md, section 6): name, key
# id, and the type with the public key.
LOG_VKEY = (
    "tracekit.example.org/log/0190f3a0-test+070965d6+AZsfhHkc/HZjBFhU04netcqVRJ2HXydqg4QLBgqznPxx"
)
WITNESS_VKEY = "witness.example.org/w1+257cc7f1+BGG3op9v3HIXXDPBmFc/0CioJHhGCXc+pyvvFPlBZdYO"


@pytest.fixture(scope="module")
def note(federation: Federation) -> bytes:
    head = Checkpoint(log_origin(federation.charter), 7, bytes(range(32)))
    return sign_checkpoint(head, federation.state(Role.AGGREGATOR).signing_key())


def who(federation: Federation, name: str = "small-1", role: Role = Role.HOSPITAL) -> Identity:
    return Identity(federation.charter.federation, role, name)


def made(federation: Federation, note: bytes, key: SigningKey | None = None) -> bytes:
    key = key or federation.state("small-1").signing_key()
    return cosign(note, charter=federation.charter, witness=who(federation), key=key, now=NOW)


def test_the_specifications_line_has_our_form() -> None:
    name, identifier, blob = parse_signature(SPECIFIED)
    assert (name, identifier.hex(), len(blob)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(blob[:8]) == NOW


@pytest.mark.parametrize("vkey", [LOG_VKEY, WITNESS_VKEY])
def test_key_ids_are_those_of_another_implementation(vkey: str) -> None:
    name, identifier, encoded = vkey.split("+", 2)
    raw = base64.b64decode(encoded)
    key = VerifyingKey(raw[1:])
    assert key_id(name, key, raw[:1]).hex() == identifier


def test_a_cosigned_checkpoint_is_a_note_with_two_signatures(
    federation: Federation, note: bytes
) -> None:
    whole = made(federation, note)
    charter = federation.charter
    opened = open_cosigned(whole, charter=charter, witness=who(federation))
    assert opened.unix_seconds == NOW
    assert (opened.witness, opened.checkpoint.size) == (who(federation), 7)
    # Whoever knows the log's key alone reads it as any other checkpoint.
    key = charter.aggregator.verifying_key()
    assert open_checkpoint(whole, origin=log_origin(charter), key=key) == opened.checkpoint
    text, (own, other) = split_note(whole)
    assert f"{text}\n{own}\n".encode() == note
    # What is signed, written out as the specification has it.
    _, identifier, blob = parse_signature(other)
    public = federation.state("small-1").signing_key().public
    assert identifier == key_id(who(federation).uri, public, COSIGNATURE)
    public.check(blob[8:], f"cosignature/v1\ntime {NOW}\n{text}".encode())


def test_what_others_signed_beside_the_log_is_left_out(federation: Federation, note: bytes) -> None:
    twice = made(federation, made(federation, note))
    assert len(split_note(twice)[1]) == 2


def test_no_flipped_bit_goes_unnoticed(federation: Federation, note: bytes) -> None:
    whole = made(federation, note)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(FedHelpError):
            open_cosigned(bytes(flipped), charter=federation.charter, witness=who(federation))


def test_only_the_witness_itself_cosigns(federation: Federation, note: bytes) -> None:
    charter = federation.charter
    with pytest.raises(SignatureRefused):
        open_cosigned(
            made(federation, note, SigningKey.generate()), charter=charter, witness=who(federation)
        )
    for other in (who(federation, "small-2"), who(federation, "auditor", Role.AUDITOR)):
        with pytest.raises(SignatureRefused):
            open_cosigned(made(federation, note), charter=charter, witness=other)
    for nobody in (who(federation, "stranger"), who(federation, "broker", Role.BROKER)):
        with pytest.raises(SignatureRefused, match="nobody in the charter"):
            witness_key(charter, nobody)
    assert len(witnesses(charter)) == len(charter.hospitals) + len(charter.auditors)


def test_a_plain_signature_is_no_cosignature(federation: Federation, note: bytes) -> None:
    """A key that signs a note, or a time that was not signed, says nothing about consistency."""
    key, name = federation.state("small-1").signing_key(), who(federation).uri
    text, (own,) = split_note(note)
    later = f"cosignature/v1\ntime {NOW + 1}\n{text}"
    for kind, blob in (
        (b"\x01", key.sign(text.encode())),
        (COSIGNATURE, key.sign(text.encode())),
        (COSIGNATURE, NOW.to_bytes(8) + key.sign(text.encode())),
        (COSIGNATURE, NOW.to_bytes(8) + key.sign(later.encode())),
        (COSIGNATURE, b""),
    ):
        line = f"— {name} {encode(key_id(name, key.public, kind) + blob)}"
        with pytest.raises((SignatureRefused, MalformedMessage)):
            open_cosigned(
                f"{text}\n{own}\n{line}\n".encode(),
                charter=federation.charter,
                witness=who(federation),
            )


def test_the_logs_own_signature_is_needed(federation: Federation, note: bytes) -> None:
    text, (_, cosignature) = split_note(made(federation, note))
    for lines in ([cosignature], [cosignature, cosignature], [*split_note(note)[1]]):
        with pytest.raises((SignatureRefused, MalformedMessage)):
            open_cosigned(
                f"{text}\n{chr(10).join(lines)}\n".encode(),
                charter=federation.charter,
                witness=who(federation),
            )
    head = Checkpoint(log_origin(federation.charter), 7, bytes(32))
    with pytest.raises(SignatureRefused):
        made(federation, sign_checkpoint(head, SigningKey.generate()))
