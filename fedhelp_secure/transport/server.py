"""A gRPC server that speaks mutual TLS and nothing else.

TLS 1.2 is the oldest version (gRPC's own floor); between two of our parties it is 1.3. A client
without a certificate of one of the trust list's authorities does not get past the handshake.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

import grpc

from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.access import caller
from fedhelp_secure.transport.admission import Admission
from fedhelp_secure.transport.certificates import TlsFiles, own_tls_files, utc_now
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.interceptors import AccessInterceptor
from fedhelp_secure.transport.limits import (
    COMMON_OPTIONS,
    KEEPALIVE_MILLISECONDS,
    SERVER_LIMITS,
)
from fedhelp_secure.transport.rates import RateInterceptor, Rates
from fedhelp_secure.trust.store import TrustStore

__all__ = ["ListenFailed", "RunningServer", "caller", "serve_until_signal", "start_server"]

_LOGGER = logging.getLogger(__name__)
_LISTEN = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})\Z")
_GRACE_SECONDS = 5.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_CHECKED_EVERY = datetime.timedelta(days=1)
"""How often a certificate that does not change is looked at, for the warning before its end."""
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *COMMON_OPTIONS,
    *SERVER_LIMITS,
    # A second server on one port is an error, not a silent sharing of its calls.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MILLISECONDS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
)


class ListenFailed(ConfigurationError):
    """The address to listen on is malformed, or cannot be had."""

    code = "listen"


class CertificateSource(Protocol):
    """A server's certificate as it is at each handshake."""

    def first(self) -> grpc.ServerCertificateConfiguration:
        """The present one; raises if it cannot be used."""

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """The present one if it has changed; None keeps what is in use."""


class RunningServer:
    """A started server."""

    def __init__(self, server: grpc.Server, host: str, port: int) -> None:
        self._server = server
        self.port = port
        self.address = f"{host}:{port}"

    def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones ``grace`` seconds, then end; returns when ended."""
        self._server.stop(grace).wait()

    def wait(self) -> None:
        """Return when the server has been stopped."""
        self._server.wait_for_termination()


def start_server(
    state: StateDirectory,
    listen: str,
    *,
    register: Callable[[grpc.Server], None],
    maximum_workers: int = 32,
    rates: Rates | None = None,
) -> RunningServer:
    """Serve what ``register`` adds, as ``state``'s party, on ``listen`` (``host:port``; 0: any).

    Each running call, a watch too, occupies one of ``maximum_workers`` threads; calls beyond are
    refused at once rather than kept waiting. ``rates`` says how much one identity may ask. Raises
    ListenFailed, StateError, SignatureRefused (of the trust list) or OwnCertificateUnusable.
    """
    parsed = _LISTEN.match(listen)
    if parsed is None or int(parsed["port"]) > 65535:
        raise ListenFailed("--listen must have the form HOST:PORT, for example 127.0.0.1:9443.")
    source = _CertificateSource(state)
    admission = Admission(state)
    server = grpc.server(
        futures.ThreadPoolExecutor(maximum_workers, thread_name_prefix="rpc"),
        interceptors=[RateInterceptor(admission.identify, rates), AccessInterceptor(admission)],
        options=_SERVER_OPTIONS,
        maximum_concurrent_rpcs=maximum_workers,
    )
    register(server)
    return serve_on(server, listen, source, certificates_of_clients=True)


def serve_on(
    server: grpc.Server, listen: str, source: CertificateSource, *, certificates_of_clients: bool
) -> RunningServer:
    """Start ``server`` on ``listen``, well formed, with what ``source`` gives at each handshake.

    Raises ListenFailed, and what ``source`` raises at first.
    """
    credentials = grpc.dynamic_ssl_server_credentials(
        source.first(),
        # None is gRPC's documented way to keep what is in use; its stubs leave it out.
        cast("Callable[[], grpc.ServerCertificateConfiguration]", source.newer),
        require_client_authentication=certificates_of_clients,
    )
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ListenFailed(
            f"cannot listen on {listen}; choose a free port and an address of this machine."
        ) from error
    server.start()
    return RunningServer(server, listen.rpartition(":")[0], port)


def serve_until_signal(server: RunningServer, ready_file: Path | None) -> None:
    """Run until SIGTERM or SIGINT, then stop cleanly. Call it from the main thread.

    ``ready_file`` gets ``host:port`` and a newline as soon as callers may connect, and is removed
    at the end.
    """
    with _signals() as wait_for_one:
        try:
            if ready_file is not None:
                write_atomically(ready_file, f"{server.address}\n".encode("ascii"))
            wait_for_one()
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
            server.stop(_GRACE_SECONDS)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """While open, SIGTERM and SIGINT end what is given, a wait, and nothing else.

    The wait is for a byte that the interpreter's own handler writes. An Event set by a handler
    could hang for good: its lock is not reentrant, should the signal come on the way into the
    wait; and a signal that the kernel gives to another thread does not wake the main one.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        # Without handlers of their own the signals would end the process, and write no byte.
        previous = {number: signal.signal(number, _noted) for number in _STOPPING}
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def wait_for_one() -> None:
            while reader.recv(1)[0] not in _STOPPING:
                pass

        try:
            yield wait_for_one
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                signal.signal(number, handler)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The byte is written already."""


class _CertificateSource:
    """The server's certificate and authorities, read again when a file changes: no restart."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._seen = (0, 0)
        self._checked = utc_now()

    def first(self) -> grpc.ServerCertificateConfiguration:
        return self._read()

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake; None keeps what is in use."""
        try:
            if self._changed() == self._seen and utc_now() < self._checked + _CHECKED_EVERY:
                return None
            return self._read()
        except (OSError, FedHelpError) as error:
            _LOGGER.warning("the renewed certificate is not usable yet: %s", type(error).__name__)
            return None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        # First: what is replaced while it is read is then read again.
        changed = self._changed()
        files = own_tls_files(self._state)
        trusted = TrustStore(self._state).current()
        check_own_certificate(self._state.identity, files, trusted, now=utc_now())
        self._seen, self._checked = changed, utc_now()
        return _configuration(files)

    def _changed(self) -> tuple[int, int]:
        return _modified(self._state.tls_certificate_path), _modified(TrustStore(self._state).path)


def _modified(path: Path) -> int:
    """Nanoseconds, 0 where there is no file: reading it then says what to do about it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.authorities
    )
