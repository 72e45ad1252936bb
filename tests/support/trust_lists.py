"""Trust lists that no registrar would give out, and a registrar that gives them out."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from fedhelp_secure.errors import PolicyError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import TIME_FORMAT, Revocation, TrustList, sign_trust_list
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc


def changed(trusted: TrustList, **update: object) -> TrustList:
    """``trusted`` with ``update``, checked."""
    return TrustList.model_validate(trusted.model_dump() | update)


def issued(moment: datetime.datetime) -> dict[str, str]:
    """A change of `changed`: the list's time."""
    return {"issued": moment.strftime(TIME_FORMAT)}


def revocation(identity: Identity) -> dict[str, str]:
    """An entry of a list, as plain values."""
    return Revocation(
        identity=identity.uri, reason="left the federation", revoked="2026-01-01T00:00:00Z"
    ).model_dump()


def held(state: StateDirectory) -> bytes:
    """The envelope that ``state`` holds."""
    return TrustStore(state).path.read_bytes()


def signed(registrar: StateDirectory, **update: object) -> bytes:
    """``registrar``'s present list with ``update``, signed by the governance key."""
    present = TrustStore(registrar).current()
    return sign_trust_list(changed(present, **update), registrar.signing_key())


@dataclass
class LyingRegistrar(enrolment_pb2_grpc.EnrolmentServicer):
    """Gives out ``answer`` for the present trust list."""

    answer: bytes
    address: str = ""

    def GetTrustList(  # noqa: N802
        self, request: enrolment_pb2.GetTrustListRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.GetTrustListResponse:
        return enrolment_pb2.GetTrustListResponse(trust_list=self.answer)

    def GetTrustBundle(  # noqa: N802
        self, request: enrolment_pb2.GetTrustBundleRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.GetTrustBundleResponse:
        raise PolicyError("only the trust list is served here.")

    def Renew(  # noqa: N802
        self, request: enrolment_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.RenewResponse:
        raise PolicyError("only the trust list is served here.")

    def RotateKeys(  # noqa: N802
        self, request: enrolment_pb2.RotateKeysRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.RotateKeysResponse:
        raise PolicyError("only the trust list is served here.")


@contextmanager
def lying_registrar(state: StateDirectory, *, listen: str) -> Iterator[LyingRegistrar]:
    """Somebody with the registrar's certificate at the address where parties ask."""
    service = LyingRegistrar(held(state))
    server = start_server(
        state,
        listen,
        register=lambda target: enrolment_pb2_grpc.add_EnrolmentServicer_to_server(service, target),
    )
    service.address = server.address
    try:
        yield service
    finally:
        server.stop()
