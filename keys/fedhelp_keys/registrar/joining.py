"""The one call of the registrar's join port: a first certificate for the holder of a token.

Every refusal is the same sentence; the cause is in the log.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import threading
import time
from collections import OrderedDict, deque
from typing import NoReturn
from urllib.parse import unquote

import grpc

from fedhelp_keys.registrar.invitations import Invitation, Invitations
from fedhelp_keys.registrar.registry import check_admissible, enrol
from fedhelp_secure.enrolment.request import open_request
from fedhelp_secure.errors import PeerError, PolicyError, UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.catalogue import CODE_KEY, printable, refusal_of
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

_LOGGER = logging.getLogger(__name__)

MAXIMUM_FAILURES = 10
"""Of one address in `FAILURE_SECONDS`; then it is not heard until the oldest is past."""
FAILURE_SECONDS = 600.0
_MAXIMUM_ADDRESSES = 4096


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

    def register(self, server: grpc.Server) -> None:
        """Add this service to ``server``."""
        enrolment_pb2_grpc.add_JoiningServicer_to_server(self, server)

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
