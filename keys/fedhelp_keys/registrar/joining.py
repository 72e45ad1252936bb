"""The registrar's join port: TLS without a client certificate, and one call, by token.

Every refusal is the same sentence; the cause is in the log. It is a port of its own, so that on the
other one no call is ever made without a certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent import futures
from typing import NoReturn, cast
from urllib.parse import unquote

import grpc

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_keys.registrar.invitations import Invitation, Invitations
from fedhelp_keys.registrar.registry import check_admissible, enrol
from fedhelp_secure.enrolment.address import parse_address
from fedhelp_secure.enrolment.request import open_request
from fedhelp_secure.errors import FedHelpError, PeerError, PolicyError, UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.catalogue import CODE_KEY, printable, refusal_of
from fedhelp_secure.transport.certificates import (
    TlsFiles,
    check_own_certificate,
    own_tls_files,
    utc_now,
)
from fedhelp_secure.transport.server import ListenFailed, RunningServer
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

_LOGGER = logging.getLogger(__name__)

MAXIMUM_FAILURES = 10
"""Of one address in `FAILURE_SECONDS`; then it is not heard until the oldest is past."""
FAILURE_SECONDS = 600.0
_MAXIMUM_ADDRESSES = 4096
_WORKERS = 16
_OPTIONS: tuple[tuple[str, int], ...] = (
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


class JoinRefused(PolicyError):
    """What a peer learns of any refusal."""

    code = "join"

    def __init__(self) -> None:
        super().__init__(
            "the registrar does not accept this invitation; ask its operator for a new one."
        )


class TooManyFailures(UnavailablePeer):
    """Too many joins from one address have failed."""

    code = "join-limit"


def redeem(state: StateDirectory, token: str, envelope: bytes, *, now: datetime.datetime) -> bytes:
    """The bundle for the request ``envelope``, if ``token`` is for it; it is used up then.

    Raises TokenRefused, EnrolmentRefused, MalformedMessage, SignatureRefused or
    CertificateRequestRefused, and then the token is not used up.
    """
    request = open_request(envelope)

    def check(invitation: Invitation) -> None:
        check_admissible(state, request, invitation.group)

    invitation = Invitations(state).use(token, request, now=now, check=check)
    return enrol(state, envelope, group=invitation.group, now=now)


class FailureLimit:
    """Counts the failures of each peer address, and forgets old ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises TooManyFailures if ``address`` has failed too often."""
        with self._lock:
            failures = self._failures.get(address)
            while failures and failures[0] < time.monotonic() - FAILURE_SECONDS:
                failures.popleft()
            if failures is not None and len(failures) >= MAXIMUM_FAILURES:
                raise TooManyFailures(
                    "too many joins from this address have failed; wait ten minutes."
                )

    def record(self, address: str) -> None:
        """One more failure of ``address``."""
        with self._lock:
            failures = self._failures.setdefault(address, deque(maxlen=MAXIMUM_FAILURES))
            failures.append(time.monotonic())
            self._failures.move_to_end(address)
            if len(self._failures) > _MAXIMUM_ADDRESSES:
                self._failures.popitem(last=False)


class JoiningService(enrolment_pb2_grpc.JoiningServicer):
    """Serves one registrar's invitations."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._limit = FailureLimit()

    def Join(  # noqa: N802 - the name in the wire contract
        self, request: enrolment_pb2.JoinRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.JoinResponse:
        """The bundle for the request; every refusal of a token or a request is the same one."""
        address = peer_address(context.peer())
        try:
            self._limit.check(address)
            bundle = redeem(self._state, request.token, request.request, now=utc_now())
        except TooManyFailures as error:
            _abort(context, error)
        except (PeerError, PolicyError) as error:
            self._limit.record(address)
            _LOGGER.warning("a join from %s is refused: %s", address, printable(str(error)))
            _abort(context, JoinRefused())
        except Exception as error:
            _LOGGER.error("a join from %s failed", address, exc_info=error)
            _abort(context, error)
        _LOGGER.info("a join from %s is answered", address)
        return enrolment_pb2.JoinResponse(bundle=bundle)


def start_join_server(state: StateDirectory, listen: str) -> RunningServer:
    """Serve `JoiningService`, and nothing else, on ``listen`` (``host:port``; 0: any port).

    The certificates that it presents are the registrar's and the root, whose fingerprint the caller
    knows. Raises AddressMalformed, ListenFailed, StateError or OwnCertificateUnusable.
    """
    parse_address(listen, "--join-listen")
    server = grpc.server(
        futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="join"),
        options=_OPTIONS,
        maximum_concurrent_rpcs=_WORKERS,
    )
    enrolment_pb2_grpc.add_JoiningServicer_to_server(JoiningService(state), server)
    chain = _Chain(state)
    credentials = grpc.dynamic_ssl_server_credentials(
        chain.first(),
        # None is gRPC's documented way to keep what is in use; its stubs leave it out.
        cast("Callable[[], grpc.ServerCertificateConfiguration]", chain.newer),
        require_client_authentication=False,
    )
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise ListenFailed(
            f"cannot listen on {listen}; choose a free port and an address of this machine."
        ) from error
    server.start()
    return RunningServer(server, listen.rpartition(":")[0], port)


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
        check_own_certificate(self._state.identity, files, now=utc_now())
        root = CertificateAuthority.open(self._state).root_pem
        self._given = files.certificate
        return grpc.ssl_server_certificate_configuration([(files.key, files.certificate + root)])


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    refusal = refusal_of(error)
    context.set_trailing_metadata(((CODE_KEY, refusal.code),))
    context.abort(refusal.status, refusal.sentence)


def peer_address(peer: str) -> str:
    """The address in gRPC's ``ipv4:1.2.3.4:567``; of IPv6 the network of 64 bits."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
