"""Polling the registrar's real service over mutual TLS."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator

import pytest
from support.federation import Federation, make_federation
from support.trust_lists import held, issued, signed

from fedhelp_keys.registrar.service import EnrolmentService
from fedhelp_keys.registrar.trust import revoke
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.client import PeerNotAuthenticated, PeerRefused
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.trust.refresh import TrustListRefresh, refresh_trust_list
from fedhelp_secure.trust.store import TrustStore


@pytest.fixture
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)


@pytest.fixture
def served(federation: Federation) -> Iterator[RunningServer]:
    registrar = federation.state("registrar")
    server = start_server(registrar, "127.0.0.1:0", register=EnrolmentService(registrar).register)
    yield server
    server.stop()


def test_a_poll_brings_the_present_list(federation: Federation, served: RunningServer) -> None:
    small, large = federation.state("small-1"), federation.state("large-1")
    revoke(federation.state("registrar"), small.identity, reason="left", now=utc_now())
    trusted = refresh_trust_list(large, served.address)
    assert trusted.revocation_of(small.identity) is not None
    assert trusted == TrustStore(large).current()
    # And nothing is written when there is nothing new.
    written = TrustStore(large).path.stat()
    refresh_trust_list(large, served.address)
    assert TrustStore(large).path.stat() == written
    with pytest.raises(PeerRefused) as refused:
        refresh_trust_list(small, served.address)
    assert refused.value.code == "revoked"


def test_a_list_that_is_out_of_date_does_not_keep_a_party_from_a_new_one(
    federation: Federation, served: RunningServer
) -> None:
    state = federation.state("large-1")
    old = issued(utc_now() - datetime.timedelta(days=2))
    TrustStore(state).path.write_bytes(signed(federation.state("registrar"), **old))
    assert refresh_trust_list(state, served.address).expires_at > utc_now()


def test_nobody_else_is_asked(federation: Federation, served: RunningServer) -> None:
    state = federation.state("large-1")
    before = held(state)
    with pytest.raises(PeerNotAuthenticated):
        refresh_trust_list(state, served.address, registrar="another")
    with pytest.raises(UnavailablePeer):
        refresh_trust_list(state, "127.0.0.1:1")
    assert held(state) == before


def test_a_failure_is_logged_when_it_begins_and_when_it_ends(
    federation: Federation, served: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    task = TrustListRefresh(federation.state("large-1"), served.address)
    assert task.due_in() <= 0
    address = served.address
    served.stop()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            task.run()
        assert caplog.text.count("fetching the trust list failed") == 1
        # It does not back off, as an `Upkeep` does for a task that raises.
        assert 0 < task.due_in() <= 3
        registrar = federation.state("registrar")
        again = start_server(registrar, address, register=EnrolmentService(registrar).register)
        task.run()
        again.stop()
    assert caplog.text.count("fetching the trust list works again") == 1
