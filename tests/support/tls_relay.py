"""A relay that ends TLS on both sides, and keeps what went through in the clear.

With a server's own key it sees what that server would see; with another key it is an impostor.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA_FRAME = 0


@dataclass
class Capture:
    """What the relay has seen, one entry a connection."""

    address: str
    sent: list[bytearray] = field(default_factory=list)
    """By clients, after the handshake, in the clear."""
    answered: list[bytearray] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Of handshakes with clients."""
    connections: int = 0
    hijack_from: int = 0
    """Connections before this one are passed through, byte for byte."""

    def everything(self) -> bytes:
        """All of it as it was, then the contents of HTTP/2 data frames without their headers."""
        streams = [bytes(part) for part in (*self.sent, *self.answered)]
        return b"\x00".join([*streams, *map(_data, streams)])


@contextmanager
def tls_relay(
    chain: Path, key: Path, upstream: str | None, *, certificate: tuple[Path, Path] | None = None
) -> Iterator[Capture]:
    """Listen with ``chain`` and ``key``; pass on to ``upstream``, as the holder of ``certificate``.

    Without ``upstream`` everything that comes is kept, and nothing answered.
    """
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.load_cert_chain(chain, key)
    front.set_alpn_protocols(["h2"])
    back = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    back.check_hostname = False
    back.verify_mode = ssl.CERT_NONE
    back.set_alpn_protocols(["h2"])
    if certificate is not None:
        back.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        capture = Capture(f"127.0.0.1:{listener.getsockname()[1]}")
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                number, capture.connections = capture.connections, capture.connections + 1
                passed = number < capture.hijack_from
                thread = threading.Thread(
                    target=_serve,
                    args=(client, capture, upstream, None if passed else (front, back)),
                )
                thread.start()
                threads.append(thread)

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield capture
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


def _serve(
    client: socket.socket,
    capture: Capture,
    upstream: str | None,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None,
) -> None:
    client.settimeout(15)
    with contextlib.ExitStack() as opened:
        opened.callback(client.close)
        near: socket.socket = client
        if contexts is not None:
            try:
                near = opened.enter_context(contexts[0].wrap_socket(client, server_side=True))
            except OSError as error:
                capture.failures.append(type(error).__name__)
                return
        sent, answered = bytearray(), bytearray()
        capture.sent.append(sent)
        capture.answered.append(answered)
        far: socket.socket | None = None
        if upstream is not None:
            host, _, port = upstream.partition(":")
            far = opened.enter_context(socket.create_connection((host, int(port)), timeout=15))
            if contexts is not None:
                far = opened.enter_context(contexts[1].wrap_socket(far, server_hostname=None))
        with contextlib.suppress(OSError):
            _pump(near, far, sent, answered)


def _pump(
    near: socket.socket, far: socket.socket | None, sent: bytearray, answered: bytearray
) -> None:
    ways = {near: (far, sent)} if far is None else {near: (far, sent), far: (near, answered)}
    while True:
        pending = [end for end in ways if isinstance(end, ssl.SSLSocket) and end.pending()]
        ready = pending or select.select(list(ways), [], [], 15)[0]
        if not ready:
            return
        for end in ready:
            data = end.recv(65536)
            if not data:
                return
            other, kept = ways[end]
            kept += data
            if other is not None:
                other.sendall(data)


def _data(stream: bytes) -> bytes:
    """The contents of the data frames (RFC 9113, 4.1) in one direction of a connection."""
    position = len(_PREFACE) if stream.startswith(_PREFACE) else 0
    contents = bytearray()
    while position + 9 <= len(stream):
        length = int.from_bytes(stream[position : position + 3], "big")
        if stream[position + 3] == _DATA_FRAME:
            contents += stream[position + 9 : position + 9 + length]
        position += 9 + length
    return bytes(contents)
