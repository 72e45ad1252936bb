"""500 connections that begin and go no further: an honest party is served, and all are ended."""

from __future__ import annotations

import contextlib
import resource
import ssl

import psutil
from e2e.attacks.conftest import AGGREGATOR, Attacked
from support.aggregator import Party
from support.attacks import ended, plain_connection, tls_connection

from fedhelp_secure.transport.limits import HANDSHAKE_MILLISECONDS, SERVER_LIMITS
from fedhelp_secure.transport.server import _SERVER_OPTIONS
from fedhelp_secure.wire.v1.coordinator_pb2 import GetCharterRequest

CONNECTIONS = 500


def _client_hello() -> bytes:
    """The first flight of a real TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_five_hundred_half_open_connections_shut_nobody_out(
    attacked: Attacked, hurried: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * CONNECTIONS, hard), hard))
    federation, address = attacked.federation, hurried
    with contextlib.ExitStack() as held:
        hello = _client_hello()
        connections = []
        for number in range(CONNECTIONS):
            connection = held.enter_context(plain_connection(address))
            # A third each: nothing at all, half of a hello, a hello and then silence.
            connection.sendall((b"", hello[: len(hello) // 2], hello)[number % 3])
            connections.append(connection)
        # Handshakes that were finished, with a member's certificate, and then nothing.
        member = federation.state("small-1")
        connections += [
            held.enter_context(tls_connection(member, address, AGGREGATOR)) for _ in range(20)
        ]
        honest = Party(federation.state("large-1"), federation.charter, address)
        assert honest.coordinator.GetCharter(GetCharterRequest(), timeout=10).envelope
        assert all(ended(connection) for connection in connections)
        assert honest.coordinator.GetCharter(GetCharterRequest(), timeout=10).envelope
        left = [
            one
            for one in psutil.net_connections("tcp")
            if one.laddr
            and f"{one.laddr[0]}:{one.laddr[1]}" == address
            and one.status == "ESTABLISHED"
        ]
        assert len(left) <= 2


def test_the_products_own_limits_are_set_at_every_server() -> None:
    options = dict(_SERVER_OPTIONS)
    assert options["grpc.server_handshake_timeout_ms"] == HANDSHAKE_MILLISECONDS <= 10_000
    for name, value in SERVER_LIMITS:
        assert options[name] == value
    assert options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"] <= 60_000
