"""A client that sends HTTP/2 a byte at a time: others are served, and its connection ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

from e2e.attacks.conftest import AGGREGATOR, Attacked
from support.aggregator import Party
from support.attacks import (
    EMPTY_SETTINGS,
    PREFACE,
    ended,
    frame,
    plain_connection,
    tls_connection,
)

from fedhelp_secure.wire.v1.coordinator_pb2 import GetCharterRequest

_PAUSE_SECONDS = 0.05
_LONG_FIELD = b"\x40\x01a" + b"\x7f\x81\x7d" + b"b" * 16_000
_BEGUN = PREFACE + EMPTY_SETTINGS
_HEADERS = frame(1, b"\x83\x86" + _LONG_FIELD, flags=4, stream=1)
_OPEN_HEADERS = frame(1, b"\x83\x86", stream=1)
_CONTINUATIONS = frame(9, b"\x40\x01a\x01b", stream=1) * 2000


def drip(connection: socket.socket, data: bytes) -> None:
    """A byte, a pause, a byte: until the data or the connection ends."""
    with contextlib.suppress(OSError):
        for position in range(len(data)):
            connection.sendall(data[position : position + 1])
            time.sleep(_PAUSE_SECONDS)


def test_every_kind_of_slow_client_is_cut_off_while_others_are_served(
    attacked: Attacked, hurried: str
) -> None:
    federation, address = attacked.federation, hurried
    state = federation.state("small-1")

    def begun(sent: bytes) -> socket.socket:
        connection = tls_connection(state, address, AGGREGATOR)
        connection.sendall(sent)
        return connection

    slow = {
        "TLS": (plain_connection(address), b"\x16\x03\x01\x02\x00\x01\x00" + bytes(600)),
        "preface": (begun(b""), PREFACE + EMPTY_SETTINGS),
        "headers": (begun(_BEGUN), _HEADERS),
        "continuations": (begun(_BEGUN + _OPEN_HEADERS), _CONTINUATIONS),
    }
    senders = [threading.Thread(target=drip, args=each) for each in slow.values()]
    for sender in senders:
        sender.start()
    # All of them hang in the middle of their headers; an honest party does not notice.
    honest = Party(federation.state("large-1"), federation.charter, address)
    for _ in range(5):
        assert honest.coordinator.GetCharter(GetCharterRequest(), timeout=10).envelope
        time.sleep(0.1)
    assert {name: ended(connection) for name, (connection, _) in slow.items()} == dict.fromkeys(
        slow, True
    )
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    assert honest.coordinator.GetCharter(GetCharterRequest(), timeout=10).envelope
    for connection, _ in slow.values():
        connection.close()


def test_a_connection_that_only_answers_pings_is_ended(attacked: Attacked, hurried: str) -> None:
    connection = tls_connection(attacked.federation.state("small-1"), hurried, AGGREGATOR)
    connection.sendall(_BEGUN)
    connection.settimeout(20)
    ping, deadline = bytes.fromhex("0000080600") + bytes(4), time.monotonic() + 20
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while received := connection.recv(1 << 16):
            assert time.monotonic() < deadline
            if ping in received:
                start = received.index(ping) + len(ping)
                connection.sendall(frame(6, received[start : start + 8], flags=1))
    connection.close()
