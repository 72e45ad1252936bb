from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.registry import enrol
from fedhelp_secure.enrolment.bundle import KIND, BundleRefused, install_bundle
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.signing import SigningKey, peek_document
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.certificates import own_tls_files, utc_now
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustListFromFuture, TrustStore
from fedhelp_secure.trust.trust_list import KIND as TRUST_LIST

HOSPITAL = Identity("testfed", Role.HOSPITAL, "large-1")


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> StateDirectory:
    return found_federation(tmp_path_factory.mktemp("r") / "r", "testfed", now=utc_now())


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory.create(tmp_path / "state", HOSPITAL)


@pytest.fixture
def other_registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "other", "testfed", now=utc_now())


def _bundle(state: StateDirectory, registrar: StateDirectory) -> bytes:
    # The registrar is shared by the tests, which all enrol under one name: an empty registry each.
    registry = registrar.role_directory() / "registry.json"
    registry.unlink(missing_ok=True)
    return enrol(registrar, make_request(state), group="large", now=utc_now())


def _files(state: StateDirectory) -> dict[str, bytes]:
    return {
        str(path.relative_to(state.root)): path.read_bytes()
        for path in sorted(state.root.rglob("*"))
        if path.is_file()
    }


def test_a_bundle_makes_an_enrolled_party(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path
) -> None:
    envelope = _bundle(state, registrar)
    trusted = install_bundle(state, envelope, now=utc_now())
    assert trusted == registrar.signing_key().public == state.governance_key()
    held = TrustStore(state).current()
    check_own_certificate(HOSPITAL, own_tls_files(state), held, now=utc_now())
    assert b"PRIVATE" not in envelope
    # Installing it again changes nothing.
    before = _files(state)
    install_bundle(state, envelope, now=utc_now())
    assert _files(state) == before


def test_a_pinned_governance_key_is_insisted_on(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path
) -> None:
    envelope, before = _bundle(state, registrar), _files(state)
    pinned = SigningKey.generate().public
    with pytest.raises(BundleRefused, match="governance key that was given"):
        install_bundle(state, envelope, now=utc_now(), governance_key=pinned)
    assert _files(state).keys() - {"enrolment/request.json", "tls/key.pem"} <= before.keys()
    install_bundle(state, envelope, now=utc_now(), governance_key=registrar.signing_key().public)


def test_another_registrar_is_not_trusted_later(
    state: StateDirectory,
    registrar: StateDirectory,
    other_registrar: StateDirectory,
    tmp_path: Path,
) -> None:
    install_bundle(state, _bundle(state, registrar), now=utc_now())
    envelope = _bundle(state, other_registrar)
    before = _files(state)
    with pytest.raises(BundleRefused, match="another registrar"):
        install_bundle(state, envelope, now=utc_now())
    assert _files(state) == before


def test_a_bundle_for_another_request_is_refused(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path
) -> None:
    second = StateDirectory.create(tmp_path / "second", HOSPITAL)
    envelope = _bundle(second, registrar)
    make_request(state)
    before = _files(state)
    with pytest.raises(BundleRefused, match="answers another request"):
        install_bundle(state, envelope, now=utc_now())
    assert _files(state) == before


def test_a_bundle_before_any_request_is_refused(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path
) -> None:
    second = StateDirectory.create(tmp_path / "second", HOSPITAL)
    with pytest.raises(StateError):
        install_bundle(state, _bundle(second, registrar), now=utc_now())


def test_an_expired_bundle_is_refused(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path
) -> None:
    envelope = _bundle(state, registrar)
    before = _files(state)
    with pytest.raises(FedHelpError, match="expired"):
        install_bundle(state, envelope, now=utc_now() + datetime.timedelta(days=31))
    assert _files(state) == before


def test_a_bundle_with_a_trust_list_from_the_future_leaves_the_state_as_it_was(
    state: StateDirectory, registrar: StateDirectory
) -> None:
    # Without a certificate, whose own validity would refuse it first.
    (registrar.role_directory() / "registry.json").unlink(missing_ok=True)
    envelope = enrol(
        registrar, make_request(state), group="large", now=utc_now(), own_certificate=True
    )
    before = _files(state)
    with pytest.raises(TrustListFromFuture):
        install_bundle(state, envelope, now=utc_now() - datetime.timedelta(days=1))
    assert _files(state) == before


def _trust_list(document: dict[str, object]) -> dict[str, Any]:
    return peek_document(TRUST_LIST, str(document["trust_list"]).encode())


Change = Callable[[dict[str, object]], object]
CHANGES: dict[str, Change] = {
    "a version to come": lambda document: document.update(version=2),
    "an entry too many": lambda document: document.update(x=1),
    "an entry missing": lambda document: document.pop("certificate"),
    "no certificate": lambda document: document.update(certificate=""),
    "no trust list": lambda document: document.update(trust_list=""),
    "another governance key": lambda document: document.update(
        governance_key=SigningKey.generate().public.to_base64()
    ),
    "the authority as the certificate": lambda document: document.update(
        certificate=_trust_list(document)["authorities"][0]["certificate"]
    ),
}


@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_bundle_of_another_form_changes_nothing(
    state: StateDirectory, registrar: StateDirectory, tmp_path: Path, case: str
) -> None:
    document = peek_document(KIND, _bundle(state, registrar))
    CHANGES[case](document)
    before = _files(state)
    with pytest.raises(FedHelpError):
        install_bundle(state, registrar.signing_key().sign_document(KIND, document), now=utc_now())
    assert _files(state) == before


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"x" * 200_000])
def test_what_is_no_bundle_is_refused(state: StateDirectory, data: bytes) -> None:
    make_request(state)
    with pytest.raises(MalformedMessage):
        install_bundle(state, data, now=utc_now())
