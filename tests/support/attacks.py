"""What the attacks share: raw TLS to a server, a channel without our client's limits, its log."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.certificates import authorities_pem
from support.processes import Servers

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import own_tls_files, server_name
from fedhelp_secure.transport.identity import Identity

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""With it a client begins HTTP/2 (RFC 9113, section 3.4)."""
EMPTY_SETTINGS = bytes.fromhex("000000040000000000")

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def plain_connection(address: str) -> socket.socket:
    """TCP alone; reads give up after 60 s."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def tls_connection(
    state: StateDirectory, address: str, expected: Identity, *, protocol: str = "h2"
) -> ssl.SSLSocket:
    """TLS as ``state``'s party, the handshake done, and nothing of ``protocol`` sent yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authorities_pem(state).decode("ascii"))
    context.load_cert_chain(state.tls_certificate_path, state.tls_key_path)
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(plain_connection(address), server_hostname=server_name(expected))


def unlimited_channel(state: StateDirectory, address: str, expected: Identity) -> grpc.Channel:
    """A channel that would send and take anything."""
    files = own_tls_files(state)
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    options = [*UNLIMITED, ("grpc.ssl_target_name_override", server_name(expected))]
    return grpc.secure_channel(address, credentials, options=options)


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def log_of(servers: Servers, name: str) -> str:
    """What the server called ``name`` has written so far."""
    path: Path = servers.running[name].log
    return path.read_text(errors="surrogateescape")


def rpc_error(call: Callable[[], object]) -> grpc.Call:
    """What ``call`` fails with; fails itself if it does not."""
    with pytest.raises(grpc.RpcError) as failure:
        call()
    assert isinstance(failure.value, grpc.Call)
    return failure.value


HURRIED = {
    "grpc.server_handshake_timeout_ms": 1500,
    "grpc.keepalive_time_ms": 1000,
    "grpc.keepalive_timeout_ms": 1000,
    "grpc.max_connection_idle_ms": 2000,
}
"""A tenth or less of the product's own limits: an attack on them need not last minutes."""

_HURRY = f"""
import fedhelp_secure.transport.server as server
server._SERVER_OPTIONS = tuple((n, {HURRIED}.get(n, v)) for n, v in server._SERVER_OPTIONS)
from fedhelp_secure.cli import main
main()
"""


@contextmanager
def hurried_aggregator(charter: Path, state: Path, directory: Path) -> Iterator[str]:
    """``fedhelp server run`` with HURRIED limits; its ``host:port`` until the block ends."""
    ready, nobody = directory / "hurried", "127.0.0.1:1"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _HURRY, "server", "run", "--listen", "127.0.0.1:0"),
            *("--state", str(state), "--ready-file", str(ready)),
            *("--charter", str(charter), "--decryptor", nobody),
            *("--unmasker", nobody),
        ],
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield ready.read_text().strip()
    finally:
        process.terminate()
        process.wait(timeout=20)


def ended(connection: socket.socket) -> bool:
    """Whether the other side has ended ``connection``; waits for up to a minute."""
    deadline = time.monotonic() + 60
    connection.settimeout(60)
    try:
        while connection.recv(1 << 16):
            assert time.monotonic() < deadline
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
