"""Renewal over mutual TLS, from the registrar's real service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.certificates import check_own
from support.federation import FEDERATION, Federation, join, make_federation

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_keys.registrar.service import EnrolmentService
from fedhelp_secure.enrolment.renewal import renew
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    load_tls_key,
    own_tls_files,
    replace_tls_pair,
    utc_now,
)
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.client import PeerNotAuthenticated, PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.trust.store import TrustStore


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)


@pytest.fixture(scope="module")
def served(federation: Federation) -> Iterator[RunningServer]:
    registrar = federation.state("registrar")
    service = EnrolmentService(registrar)
    server = start_server(registrar, "127.0.0.1:0", register=service.register)
    yield server
    server.stop()


@pytest.mark.parametrize("party", ["large-1", "decryptor", "registrar"])
def test_a_renewed_party_has_a_new_key_and_can_renew_again(
    federation: Federation, served: RunningServer, party: str
) -> None:
    state = federation.state(party)
    before = own_tls_files(state)
    for _ in range(2):
        renew(state, served.address)
    after = own_tls_files(state)
    assert after.key != before.key
    assert after.certificate != before.certificate
    assert after.authorities == before.authorities
    check_own_certificate(state.identity, after, TrustStore(state).current(), now=utc_now())
    assert sorted(path.name for path in state.tls_key_path.parent.iterdir()) == [
        "certificate.pem",
        "key.pem",
    ]


def test_a_party_that_is_struck_off_the_registry_is_not_renewed(
    federation: Federation, served: RunningServer, tmp_path: Path
) -> None:
    registrar = federation.state("registrar")
    registry = registrar.role_directory() / "registry.json"
    kept = registry.read_bytes()
    state = join(registrar, tmp_path, Identity(FEDERATION, Role.HOSPITAL, "gone"))
    registry.write_bytes(kept)
    before = own_tls_files(state)
    with pytest.raises(PeerRefused, match="not in the registry") as refused:
        renew(state, served.address)
    assert refused.value.code == "enrolment"
    assert own_tls_files(state) == before


def test_another_party_at_the_address_is_not_asked(
    federation: Federation, served: RunningServer
) -> None:
    state = federation.state("large-1")
    before = own_tls_files(state)
    with pytest.raises(PeerNotAuthenticated):
        renew(state, served.address, registrar="another")
    assert own_tls_files(state) == before


def test_a_registrar_that_is_down_changes_nothing(federation: Federation) -> None:
    state: StateDirectory = federation.state("large-1")
    before = own_tls_files(state)
    with pytest.raises(UnavailablePeer, match="the registrar cannot be reached"):
        renew(state, "127.0.0.1:1")
    assert own_tls_files(state) == before


def test_a_reader_never_pairs_a_new_key_with_an_old_certificate(federation: Federation) -> None:
    state = federation.state("small-1")
    authority = CertificateAuthority.open(federation.state("registrar"))
    done = threading.Event()
    counts = [0, 0]

    def read(reader: int) -> None:
        while not done.is_set():
            check_own(state, utc_now())
            counts[reader] += 1

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read, reader) for reader in range(2)]
        replaced = 0
        try:
            while replaced < 60 or min(counts) < 10:
                key = generate_tls_key()
                public = load_tls_key(key).public_key()
                issued = authority.issue(state.identity, public, now=utc_now())
                replace_tls_pair(state, key, issued)
                replaced += 1
                if any(reader.done() for reader in readers):
                    break
        finally:
            done.set()
        for future in readers:
            future.result()


def test_two_renewals_at_once_leave_one_whole_pair(
    federation: Federation, served: RunningServer
) -> None:
    state = federation.state("large-1")
    with ThreadPoolExecutor(4) as pool:
        for renewal in [pool.submit(renew, state, served.address) for _ in range(8)]:
            renewal.result()
    check_own(state, utc_now())
