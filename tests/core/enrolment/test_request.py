from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.enrolment.request import (
    KIND,
    LIMIT_BYTES,
    ContextMissing,
    make_request,
    open_request,
    request_path,
)
from fedhelp_secure.errors import FedHelpError, MalformedMessage, PeerError
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey, peek_document
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.identity import Identity, Role

HOSPITAL = Identity("testfed", Role.HOSPITAL, "large-1")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.create(tmp_path / "state", HOSPITAL)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.DECRYPTOR])
def test_a_request_says_who_asks_and_with_which_keys(tmp_path: Path, role: Role) -> None:
    state = StateDirectory.create(tmp_path / "state", Identity("testfed", role, "somebody"))
    envelope = make_request(state)
    opened = open_request(envelope)
    assert opened.identity == state.identity
    assert opened.signing_key == state.signing_key().public
    assert opened.sealing_key.raw == state.unsealing_key().public.raw
    assert opened.context_digest is None
    assert opened.digest == digest(envelope)
    assert request_path(state).read_bytes() == envelope
    assert b"PRIVATE" not in envelope


def test_the_same_keys_are_asked_for_again(state: StateDirectory) -> None:
    first, second = open_request(make_request(state)), open_request(make_request(state))
    assert first.signing_key == second.signing_key
    key = certificates.open_request(first.certificate_request, HOSPITAL)
    assert key == certificates.open_request(second.certificate_request, HOSPITAL)


def test_a_decryptor_names_its_context(tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path / "state", Identity("testfed", Role.DECRYPTOR, "a"))
    with pytest.raises(ContextMissing, match="fedhelp custodian prepare"):
        make_request(state)
    (state.role_directory() / "context.public").write_bytes(b"public context")
    assert open_request(make_request(state)).context_digest == digest(b"public context")


def _document(state: StateDirectory) -> dict[str, Any]:
    return peek_document(KIND, make_request(state))


def _other_tls_request(document: dict[str, Any]) -> None:
    other = Identity("testfed", Role.HOSPITAL, "large-2")
    pem = certificates.make_request(other, certificates.generate_tls_key())
    document["certificate_request"] = pem.decode()


Change = Callable[[dict[str, Any]], object]
CHANGES: dict[str, Change] = {
    "a version to come": lambda document: document.update(version=2),
    "a version as text": lambda document: document.update(version="1"),
    "an entry too many": lambda document: document.update(group="large"),
    "an entry missing": lambda document: document.pop("name"),
    "a role that is none": lambda document: document.update(role="emperor"),
    "another role": lambda document: document.update(role="auditor"),
    "another name": lambda document: document.update(name="large-2"),
    "a name with a path": lambda document: document.update(name="../large-1"),
    "another federation": lambda document: document.update(federation="otherfed"),
    "a number for a name": lambda document: document.update(name=1),
    "no signing key": lambda document: document.update(signing_key=""),
    "no sealing key": lambda document: document.update(sealing_key="AAAA"),
    "a context for a hospital": lambda document: document.update(context_digest=digest(b"x")),
    "a malformed context": lambda document: document.update(context_digest="sha256:x"),
    "no certificate request": lambda document: document.update(certificate_request=""),
    "a certificate request of another": _other_tls_request,
}


@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_signed_request_of_another_form_is_refused(state: StateDirectory, case: str) -> None:
    document = _document(state)
    CHANGES[case](document)
    with pytest.raises(PeerError):
        open_request(state.signing_key().sign_document(KIND, document))


def test_the_signing_key_must_be_the_signers_own(state: StateDirectory) -> None:
    with pytest.raises(PeerError, match="is not signed by the key"):
        open_request(SigningKey.generate().sign_document(KIND, _document(state)))
    document = _document(state)
    document["sealing_key"] = UnsealingKey.generate().public.to_base64()
    outer = json.loads(make_request(state))
    outer["payload"] = base64.b64encode(canonical_json(document)).decode()
    with pytest.raises(PeerError):
        open_request(canonical_json(outer))


def test_a_signature_over_another_kind_is_refused(state: StateDirectory) -> None:
    with pytest.raises(MalformedMessage, match="another kind"):
        open_request(state.signing_key().sign_document("manifest", _document(state)))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b'{"payload": 1}', b"x" * (LIMIT_BYTES + 1)]
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        open_request(data)


@given(data=st.data())
def test_no_changed_byte_passes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    envelope = bytearray(_once(tmp_path_factory))
    position = data.draw(st.integers(0, len(envelope) - 1))
    envelope[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FedHelpError):
        open_request(bytes(envelope))


_MADE: list[bytes] = []


def _once(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not _MADE:
        root = tmp_path_factory.mktemp("request") / "state"
        _MADE.append(make_request(StateDirectory.create(root, HOSPITAL)))
    return _MADE[0]
