"""The one connection in which a client has no certificate: joining a federation.

The registrar proves itself all the same, to a client that knows its root by fingerprint. It is a
port of its own, which serves one call: on every other port no call is made without a certificate.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.address import parse_address
from fedhelp_secure.transport.certificates import (
    OwnCertificateUnusable,
    TlsFiles,
    load_certificate,
    own_tls_files,
    server_name,
    utc_now,
)
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.transport.limits import COMMON_OPTIONS
from fedhelp_secure.transport.server import RunningServer, serve_on
from fedhelp_secure.trust.store import TrustStore

_LOGGER = logging.getLogger(__name__)
_WORKERS = 16
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    # A token and a request.
    ("grpc.max_receive_message_length", 128 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.max_concurrent_streams", 4),
    # Whoever comes here makes one call and goes.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 20_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
)


def open_join_channel(root: x509.Certificate, address: str, *, expected: Identity) -> grpc.Channel:
    """A channel to ``expected``, the registrar, at ``address``, for one who has no certificate.

    The server must hold a certificate by ``root`` for exactly ``expected``.
    """
    options: list[tuple[str, int | str]] = [
        *COMMON_OPTIONS,
        ("grpc.ssl_target_name_override", server_name(expected)),
        # A proxy from the environment would see whom we call.
        ("grpc.enable_http_proxy", 0),
    ]
    credentials = grpc.ssl_channel_credentials(root.public_bytes(serialization.Encoding.PEM))
    return grpc.secure_channel(address, credentials, options=options)


def start_join_server(
    state: StateDirectory, listen: str, *, register: Callable[[grpc.Server], None]
) -> RunningServer:
    """Serve what ``register`` adds, to anybody, on ``listen`` (``host:port``; 0: any port).

    The registrar's certificate is presented with its authority's (see `presented_root`), whose
    fingerprint the callers know. Raises AddressMalformed, ListenFailed, StateError or
    OwnCertificateUnusable.
    """
    parse_address(listen, "--join-listen")
    server = grpc.server(
        futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="join"),
        options=_SERVER_OPTIONS,
        maximum_concurrent_rpcs=_WORKERS,
    )
    register(server)
    return serve_on(server, listen, _Chain(state), certificates_of_clients=False)


def presented_root(state: StateDirectory) -> x509.Certificate:
    """The authority that signed the registrar's present certificate: what a joining party sees.

    While authorities change it may be the older one. Raises OwnCertificateUnusable.
    """
    own = load_certificate(own_tls_files(state).certificate)
    for entry in TrustStore(state).current().authorities:
        authority = load_certificate(entry.certificate.encode("ascii"))
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            own.verify_directly_issued_by(authority)
            return authority
    raise OwnCertificateUnusable(
        "the registrar's certificate is by no authority of its trust list; restore its state."
    )


class _Chain:
    """The registrar's certificate and its root, read again before each handshake."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._given = b""

    def first(self) -> grpc.ServerCertificateConfiguration:
        return self._configuration(own_tls_files(self._state))

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """None keeps what is in use."""
        try:
            files = own_tls_files(self._state)
            return None if files.certificate == self._given else self._configuration(files)
        except (OSError, FedHelpError) as error:
            _LOGGER.warning("the renewed certificate is not usable yet: %s", type(error).__name__)
            return None

    def _configuration(self, files: TlsFiles) -> grpc.ServerCertificateConfiguration:
        trusted = TrustStore(self._state).current()
        check_own_certificate(self._state.identity, files, trusted, now=utc_now())
        root = presented_root(self._state).public_bytes(serialization.Encoding.PEM)
        self._given = files.certificate
        chain = files.certificate + root
        return grpc.ssl_server_certificate_configuration([(files.key, chain)])
