from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from support.federation import FEDERATION, Federation, join
from support.services import call_get_charter, register

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.state import StateError
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    load_certificate,
    load_tls_key,
    own_tls_files,
    replace_tls_pair,
    utc_now,
)
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import ListenFailed, start_server
from fedhelp_secure.wire.v1 import coordinator_pb2, coordinator_pb2_grpc

AGGREGATOR = Identity(FEDERATION, Role.AGGREGATOR, "aggregator")


@pytest.mark.parametrize(
    "listen",
    ["", "127.0.0.1", ":9000", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "unix:/tmp/x:1"],
)
def test_malformed_addresses_are_refused(federation: Federation, listen: str) -> None:
    with pytest.raises(ListenFailed, match="HOST:PORT"):
        start_server(federation.state("aggregator"), listen, register=register(lambda _: b""))


def test_a_port_is_served_by_one_server_only(federation: Federation) -> None:
    state = federation.state("aggregator")
    first = start_server(state, "127.0.0.1:0", register=register(lambda _: b""))
    try:
        assert first.address == f"127.0.0.1:{first.port}"
        with pytest.raises(ListenFailed, match="choose a free port"):
            start_server(state, first.address, register=register(lambda _: b""))
    finally:
        first.stop()


def test_a_party_without_certificate_cannot_serve(federation: Federation, tmp_path: Path) -> None:
    state = join(
        federation.state("registrar"), tmp_path, Identity(FEDERATION, Role.AUDITOR, "second")
    )
    state.tls_certificate_path.unlink()
    with pytest.raises(StateError, match="enrol this party again"):
        start_server(state, "127.0.0.1:0", register=register(lambda _: b""))


def test_a_stopped_server_is_unavailable(federation: Federation) -> None:
    server = start_server(
        federation.state("aggregator"), "127.0.0.1:0", register=register(lambda _: b"")
    )
    server.stop()
    server.wait()
    with (
        open_channel(federation.state("large-1"), server.address, expected=AGGREGATOR) as channel,
        pytest.raises(UnavailablePeer, match="the aggregator cannot be reached"),
        translated_errors("the aggregator"),
    ):
        call_get_charter(channel)


def test_a_call_beyond_the_workers_is_told_to_try_again(federation: Federation) -> None:
    release = threading.Event()

    def act(_: grpc.ServicerContext) -> bytes:
        release.wait(20)
        return b""

    server = start_server(
        federation.state("aggregator"),
        "127.0.0.1:0",
        register=register(act),
        maximum_workers=1,
    )
    state = federation.state("large-1")
    try:
        with open_channel(state, server.address, expected=AGGREGATOR) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            first = stub.WatchRounds(coordinator_pb2.WatchRoundsRequest(), timeout=20)
            next(first)
            with (
                pytest.raises(UnavailablePeer, match="busy; try again"),
                translated_errors("the aggregator"),
            ):
                call_get_charter(channel)
    finally:
        release.set()
        server.stop()


def test_a_call_that_is_not_answered_in_time_may_be_tried_again(federation: Federation) -> None:
    release = threading.Event()

    def act(_: grpc.ServicerContext) -> bytes:
        release.wait(20)
        return b""

    server = start_server(federation.state("aggregator"), "127.0.0.1:0", register=register(act))
    state = federation.state("large-1")
    try:
        with open_channel(state, server.address, expected=AGGREGATOR) as channel:
            stub = coordinator_pb2_grpc.CoordinatorStub(channel)
            with (
                pytest.raises(UnavailablePeer, match="did not answer in time"),
                translated_errors("the aggregator"),
            ):
                stub.GetCharter(coordinator_pb2.GetCharterRequest(), timeout=0.2)
    finally:
        release.set()
        server.stop()


def test_a_running_server_takes_a_renewed_certificate(
    federation: Federation, tmp_path: Path
) -> None:
    registrar = federation.state("registrar")
    identity = Identity(FEDERATION, Role.AGGREGATOR, "renewing")
    state = join(registrar, tmp_path, identity)
    server = start_server(state, "127.0.0.1:0", register=register(lambda _: b"here"))
    try:
        before = _presented_serial(federation, server.port)
        assert before == _own_serial(state.tls_certificate_path)
        key = generate_tls_key()
        issued = CertificateAuthority.open(registrar).issue(
            identity, load_tls_key(key).public_key(), now=utc_now()
        )
        # A certificate that is not this party's is not taken.
        os.utime(state.tls_certificate_path, ns=(1, 1))
        good = state.tls_certificate_path.read_bytes()
        state.tls_certificate_path.write_bytes(issued)
        assert _presented_serial(federation, server.port) == before
        state.tls_certificate_path.write_bytes(good)
        replace_tls_pair(state, key, issued)
        assert _presented_serial(federation, server.port) == _own_serial(state.tls_certificate_path)
        with open_channel(
            federation.state("large-1"), server.address, expected=identity
        ) as channel:
            assert call_get_charter(channel) == b"here"
    finally:
        server.stop()


def _own_serial(path: Path) -> int:
    return load_certificate(path.read_bytes()).serial_number


def _presented_serial(federation: Federation, port: int) -> int:
    state = federation.state("large-1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=own_tls_files(state).authorities.decode())
    context.load_cert_chain(state.tls_certificate_path, state.tls_key_path)
    context.set_alpn_protocols(["h2"])
    name = "renewing.aggregator.testfed.fedhelp.internal"
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as wrapped,
    ):
        der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
def registrar_process(
    federation: Federation, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """``fedhelp keys serve`` as a process of its own, and its ready file."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "fedhelp_secure", "keys", "serve", "--state"]
    command += [str(federation.state("registrar").root), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--ready-file", str(ready)])
    try:
        deadline = time.monotonic() + 60
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process, ready
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_serving_process_says_when_it_is_ready_and_ends_cleanly(
    registrar_process: tuple[subprocess.Popen[bytes], Path], number: signal.Signals
) -> None:
    process, ready = registrar_process
    host, port = ready.read_text().rstrip("\n").split(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    process.send_signal(number)
    assert process.wait(timeout=10) == 0
    assert not ready.exists()


_ANOTHER_THREAD_IS_TOLD = """
import signal, sys, threading, time
from pathlib import Path
from fedhelp_secure.transport.server import RunningServer, serve_until_signal

class Server(RunningServer):
    def __init__(self):
        self.address = "127.0.0.1:1"
    def stop(self, grace=None):
        print("stopped", flush=True)

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
# As when the kernel picks another of the process' threads for a signal.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
serve_until_signal(Server(), Path(sys.argv[1]))
"""

_AT_EVERY_LINE = """
import os, signal, sys, threading
from fedhelp_secure.transport.server import RunningServer, serve_until_signal

class Server(RunningServer):
    def __init__(self):
        self.address = "127.0.0.1:1"
        self.stopped = False
    def stop(self, grace=None):
        self.stopped = True

def once_at(line):
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if event == "line" and signal.getsignal(signal.SIGTERM) is not before:
            lines += 1
            if lines == line:
                signal.raise_signal(signal.SIGTERM)
        return trace
    server = Server()
    done = threading.Event()

    def tell_late():
        while not done.wait(0.02):
            os.kill(os.getpid(), signal.SIGTERM)

    late = threading.Thread(target=tell_late)
    late.start()
    sys.settrace(trace)
    serve_until_signal(server, None)
    sys.settrace(None)
    done.set()
    late.join()
    assert server.stopped
    return lines >= line

def before(number, frame):
    pass  # a late signal

signal.signal(signal.SIGTERM, before)
line = 1
while once_at(line):
    line += 1
print(line)
"""


def test_a_signal_that_another_thread_gets_stops_a_server(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-c", _ANOTHER_THREAD_IS_TOLD, str(ready)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not ready.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "stopped\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_signal_stops_a_server_whenever_it_comes() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _AT_EVERY_LINE], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 5
