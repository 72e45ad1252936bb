"""Signed documents: one byte form for each, and nothing in it that nobody signed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.signing import (
    PAYLOAD_TYPE_PREFIX,
    SigningKey,
    VerifyingKey,
    open_document,
    peek_document,
    peek_kind,
)

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
DOCUMENT = {"round": 3, "name": "small-1"}
ENVELOPE = KEY.sign_document("manifest", DOCUMENT)

Outer = dict[str, Any]


def with_(change: Callable[[Outer], object]) -> bytes:
    outer = json.loads(ENVELOPE)
    change(outer)
    return canonical_json(outer)


def signature_of(envelope: bytes) -> Outer:
    signature: Outer = json.loads(envelope)["signatures"][0]
    return signature


def test_a_document_round_trips() -> None:
    assert open_document("manifest", ENVELOPE, KEY.public) == DOCUMENT
    assert peek_document("manifest", ENVELOPE) == DOCUMENT
    assert peek_kind(ENVELOPE) == "manifest"


def test_the_signature_is_over_dsse_s_own_encoding() -> None:
    """https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md: PAE."""
    payload = canonical_json(DOCUMENT)
    kind = f"{PAYLOAD_TYPE_PREFIX}manifest+json".encode()
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    KEY.public.check(base64.b64decode(signature_of(ENVELOPE)["sig"]), encoded)


def test_another_key_and_another_kind_are_refused() -> None:
    with pytest.raises(SignatureRefused, match="not signed by the key"):
        open_document("manifest", ENVELOPE, OTHER.public)
    with pytest.raises(MalformedMessage, match="another kind"):
        open_document("ledger-entry", ENVELOPE, KEY.public)


@pytest.mark.parametrize(
    "change",
    [
        lambda outer: outer.update(note="unsigned"),
        lambda outer: outer["signatures"][0].update(note="unsigned"),
        lambda outer: outer["signatures"].append(outer["signatures"][0]),
        lambda outer: outer["signatures"].append(
            signature_of(OTHER.sign_document("manifest", DOCUMENT))
        ),
        lambda outer: outer["signatures"].insert(
            0, signature_of(OTHER.sign_document("manifest", DOCUMENT))
        ),
        lambda outer: outer["signatures"].clear(),
        lambda outer: outer.update(signatures={}),
        lambda outer: outer.update(signatures=["sig"]),
        lambda outer: outer.update(payload=outer["payload"].rstrip("=") + "===="),
        lambda outer: outer.pop("payload"),
        lambda outer: outer.pop("payloadType"),
        lambda outer: outer.pop("signatures"),
        lambda outer: outer["signatures"][0].pop("keyid"),
        lambda outer: outer["signatures"][0].update(keyid=0),
        lambda outer: outer["signatures"][0].update(sig=outer["signatures"][0]["sig"] + "\n"),
    ],
)
def test_what_nobody_signed_cannot_ride_along(change: Callable[[Outer], object]) -> None:
    with pytest.raises(FedHelpError):
        open_document("manifest", with_(change), KEY.public)


def test_another_spelling_of_the_same_envelope_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        open_document("manifest", json.dumps(json.loads(ENVELOPE)).encode(), KEY.public)
    with pytest.raises(MalformedMessage):
        open_document("manifest", ENVELOPE + b"\n", KEY.public)


def test_no_flipped_bit_goes_unnoticed() -> None:
    for place in range(len(ENVELOPE)):
        for bit in range(8):
            flipped = bytearray(ENVELOPE)
            flipped[place] ^= 1 << bit
            with pytest.raises(FedHelpError):
                open_document("manifest", bytes(flipped), KEY.public)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(FedHelpError):
        open_document("manifest", data, KEY.public)
    with pytest.raises(FedHelpError):
        peek_document("manifest", data)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64", "=" * 44, "A" * 45])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        VerifyingKey.from_base64(text)


def test_a_key_says_its_public_half_only() -> None:
    assert KEY.public.to_base64() in repr(KEY)
    assert base64.b64encode(KEY.to_pem()).decode() not in repr(KEY)
