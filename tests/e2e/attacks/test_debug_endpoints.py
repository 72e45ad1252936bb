"""What a running server answers to reflection, health, channelz, admin and plain HTTP: nothing."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from functools import partial

import grpc
import pytest
from e2e.attacks.conftest import AGGREGATOR, Attacked
from support.attacks import plain_connection, rpc_error, tls_connection, unlimited_channel

from fedhelp_secure.transport.access import ACCESS
from fedhelp_secure.transport.identity import Identity, Role

METHODS = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.channelz.v1.Channelz/GetTopChannels",
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    "/fedhelp_secure.wire.v1.Coordinator/Debug",
    "/",
    "/debug/pprof",
]
SERVERS = [Role.AGGREGATOR, Role.DECRYPTOR, Role.UNMASKER]


def _identity(role: Role) -> Identity:
    return Identity(AGGREGATOR.federation, role, role.value)


@pytest.mark.parametrize("role", SERVERS)
def test_every_debug_service_is_unimplemented_for_a_member(attacked: Attacked, role: Role) -> None:
    state, address = attacked.federation.state("registrar"), attacked.servers.addresses[role.value]
    answers = {}
    with unlimited_channel(state, address, _identity(role)) as channel:
        for method in METHODS:
            call: Callable[..., object] = channel.unary_unary(method)
            answers[method] = rpc_error(partial(call, b"", timeout=30)).code()
    assert answers == dict.fromkeys(METHODS, grpc.StatusCode.UNIMPLEMENTED)
    assert not set(METHODS) & set(ACCESS)


@pytest.mark.parametrize("role", SERVERS)
@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_http_gets_no_answer_over_tls(attacked: Attacked, role: Role, protocol: str) -> None:
    state, address = attacked.federation.state("registrar"), attacked.servers.addresses[role.value]
    answer = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        connection = tls_connection(state, address, _identity(role), protocol=protocol)
        with connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            while part := connection.recv(4096):
                answer += part
    assert b"HTTP/1" not in answer
    assert b"200" not in answer


@pytest.mark.parametrize("role", SERVERS)
@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 64],
    ids=["HTTP/1.1", "HTTP/2 in the clear", "zeros"],
)
def test_plain_connections_get_no_answer(
    attacked: Attacked, role: Role, request_bytes: bytes
) -> None:
    answer = b""
    with (
        plain_connection(attacked.servers.addresses[role.value]) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(request_bytes)
        while part := connection.recv(4096):
            answer += part
    # At most a TLS alert (record type 21): not a byte of HTTP.
    assert answer == b"" or answer[0] == 21
    assert b"HTTP" not in answer
