"""Clocks may differ by five minutes when a certificate is new, and not at all when it ends."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from concurrent import futures

import grpc
import pytest
from support.federation import FEDERATION, Federation
from support.services import call_get_charter, register

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_secure.enrolment.lifetimes import BACKDATING, DEFAULT_LIFETIME
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.transport.certificates import TlsFiles, load_tls_key, own_tls_files, utc_now
from fedhelp_secure.transport.client import PeerNotAuthenticated, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import start_server

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "large-1")
MARGIN = datetime.timedelta(seconds=20)

# When the registrar, by its own clock, issued it; seen by a party whose clock is right.
INSIDE = {
    "the registrar's clock is almost five minutes ahead": BACKDATING - MARGIN,
    "almost at its end": MARGIN - DEFAULT_LIFETIME,
}
OUTSIDE = {
    "the registrar's clock is more than five minutes ahead": BACKDATING + MARGIN,
    "just past its end": -MARGIN / 10 - DEFAULT_LIFETIME,
}


def issued(federation: Federation, identity: Identity, shift: datetime.timedelta) -> TlsFiles:
    party = "aggregator" if identity == AGGREGATOR else identity.name
    files = own_tls_files(federation.state(party))
    authority = CertificateAuthority.open(federation.state("registrar"))
    key = load_tls_key(files.key).public_key()
    made = authority.issue(identity, key, now=utc_now() + shift)
    return TlsFiles(files.key, made, files.authorities)


def calls_a_right_server(federation: Federation, shift: datetime.timedelta) -> bytes:
    files = issued(federation, HOSPITAL, shift)
    server = start_server(
        federation.state("aggregator"), "127.0.0.1:0", register=register(lambda _: b"here")
    )
    name = "aggregator.aggregator.testfed.fedhelp.internal"
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    options = [("grpc.ssl_target_name_override", name)]
    try:
        with (
            grpc.secure_channel(server.address, credentials, options=options) as channel,
            translated_errors("the aggregator"),
        ):
            return call_get_charter(channel)
    finally:
        server.stop()


def is_called_by_a_right_client(federation: Federation, shift: datetime.timedelta) -> bytes:
    files = issued(federation, AGGREGATOR, shift)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    register(lambda _: b"here")(server)
    credentials = grpc.ssl_server_credentials(
        [(files.key, files.certificate)], files.authorities, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    address = f"127.0.0.1:{port}"
    try:
        with (
            open_channel(federation.state("large-1"), address, expected=AGGREGATOR) as channel,
            translated_errors("the aggregator"),
        ):
            return call_get_charter(channel)
    finally:
        server.stop(None).wait()


Attempt = Callable[[Federation, datetime.timedelta], bytes]
BOTH_SIDES = pytest.mark.parametrize("attempt", [calls_a_right_server, is_called_by_a_right_client])


@BOTH_SIDES
@pytest.mark.parametrize("case", sorted(INSIDE))
def test_a_certificate_just_inside_is_accepted(
    federation: Federation, attempt: Attempt, case: str
) -> None:
    assert attempt(federation, INSIDE[case]) == b"here"


@BOTH_SIDES
@pytest.mark.parametrize("case", sorted(OUTSIDE))
def test_a_certificate_just_outside_is_refused(
    federation: Federation, attempt: Attempt, case: str
) -> None:
    with pytest.raises((UnavailablePeer, PeerNotAuthenticated), match="certificate"):
        attempt(federation, OUTSIDE[case])
