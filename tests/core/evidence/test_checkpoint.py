"""Signed notes against the vectors of Go's sumdb/note, and checkpoints of our own."""

from __future__ import annotations

import base64
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.evidence.checkpoint import (
    Checkpoint,
    key_id,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    sign_note,
)
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.signing import SigningKey

# golang.org/x/mod/sumdb/note, note_test.go: the published key pair and note.
SIGNER_KEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
VERIFIER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NOTE = TEXT + (
    "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpR"
    "Zb6KE6RyyBwJnAM=\n"
)
PETER = SigningKey(
    Ed25519PrivateKey.from_private_bytes(base64.b64decode(SIGNER_KEY.split("+", 4)[4])[1:])
)
KEY = SigningKey.generate()
ORIGIN = "north/hub/log"
HEAD = Checkpoint(ORIGIN, 2, MerkleTree([b"a", b"b"]).root())


def test_the_published_note_is_signed_byte_for_byte() -> None:
    assert PETER.public.raw == base64.b64decode(VERIFIER_KEY.split("+", 2)[2])[1:]
    assert key_id("PeterNeumann", PETER.public).hex() == "c74f20a3"
    assert sign_note(TEXT, name="PeterNeumann", key=PETER) == NOTE.encode()
    assert open_note(NOTE.encode(), name="PeterNeumann", key=PETER.public) == TEXT


def test_a_checkpoint_round_trips() -> None:
    note = sign_checkpoint(HEAD, KEY)
    assert note.startswith(b"north/hub/log\n2\n")
    assert open_checkpoint(note, origin=ORIGIN, key=KEY.public) == HEAD


def test_a_signature_that_stands_twice_is_refused() -> None:
    note = sign_checkpoint(HEAD, KEY)
    twice = note + note.split(b"\n\n")[1]
    with pytest.raises(MalformedMessage, match="twice"):
        open_checkpoint(twice, origin=ORIGIN, key=KEY.public)


def test_no_flipped_bit_goes_unnoticed() -> None:
    note = sign_checkpoint(HEAD, KEY)
    for place in range(len(note)):
        for bit in range(8):
            flipped = bytearray(note)
            flipped[place] ^= 1 << bit
            with pytest.raises(FedHelpError):
                open_checkpoint(bytes(flipped), origin=ORIGIN, key=KEY.public)


def test_a_witness_signature_is_ignored_and_the_logs_still_needed() -> None:
    note, witness = sign_checkpoint(HEAD, KEY), SigningKey.generate()
    cosignature = sign_note(HEAD.body(), name="north/large-1", key=witness).split(b"\n\n")[1]
    assert open_checkpoint(note + cosignature, origin=ORIGIN, key=KEY.public) == HEAD
    body = note.split(b"\n\n")[0]
    with pytest.raises(SignatureRefused):
        open_checkpoint(body + b"\n\n" + cosignature, origin=ORIGIN, key=KEY.public)


def signed(text: str) -> bytes:
    return sign_note(text, name=ORIGIN, key=KEY)


ROOT = HEAD.body().split("\n")[2]


@pytest.mark.parametrize(
    "note",
    [
        signed(f"{ORIGIN}\n02\n{ROOT}\n"),
        signed(f"{ORIGIN}\n+2\n{ROOT}\n"),
        signed(f"{ORIGIN}\n-2\n{ROOT}\n"),
        signed(f"{ORIGIN}\n2\n{ROOT}\nextension\n"),
        signed(f"{ORIGIN}\n2\n"),
        signed(f"{ORIGIN}\n2\n{ROOT[:-4]}\n"),
        signed(f"{ORIGIN}\n2\nnot base64\n"),
        signed(f"{ORIGIN}\n2\n{ROOT[:-2]}{chr(ord(ROOT[-2]) + 1)}=\n"),
        signed(f"{ORIGIN}\n2\r\n{ROOT}\n"),
        b"",
        b"\xff\n\n\xe2\x80\x94 a b\n",
        HEAD.body().encode(),
        HEAD.body().encode() + b"\n",
        signed(HEAD.body())[:-1],
        signed(HEAD.body()) + b"no signature\n",
        signed(HEAD.body()) + "— name AAAA\n".encode(),
        signed(HEAD.body()) + "— name AAAA AAAA\n".encode(),
        signed(HEAD.body()) + "— witness AAAAAAA=\n".encode() * 64,
        # Well formed, but longer than any note of ours with its witnesses.
        signed(HEAD.body()) + f"— witness {'A' * 400}\n".encode() * 50,
    ],
    # Not the bytes, which are signed anew in every process.
    ids=itertools.count(),
)
def test_a_malformed_checkpoint_is_refused(note: bytes) -> None:
    with pytest.raises(MalformedMessage):
        open_checkpoint(note, origin=ORIGIN, key=KEY.public)


def test_another_origin_is_refused() -> None:
    other = Checkpoint("north/other/log", HEAD.size, HEAD.root)
    with pytest.raises(SignatureRefused):
        open_checkpoint(sign_checkpoint(other, KEY), origin=ORIGIN, key=KEY.public)
    renamed = sign_note(other.body(), name=ORIGIN, key=KEY)
    with pytest.raises(SignatureRefused, match="another log"):
        open_checkpoint(renamed, origin=ORIGIN, key=KEY.public)


def test_another_key_is_refused() -> None:
    with pytest.raises(SignatureRefused):
        open_checkpoint(sign_checkpoint(HEAD, KEY), origin=ORIGIN, key=SigningKey.generate().public)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\nb"])
def test_an_origin_that_cannot_name_a_key_is_refused(origin: str) -> None:
    with pytest.raises(MalformedMessage):
        Checkpoint(origin, 0, bytes(32))
