"""A new certificate before the present one expires, over mutual TLS from the registrar."""

from __future__ import annotations

from fedhelp_secure.enrolment.own_certificate import check_renewable
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.refresh import TrustListRefresh
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

_TIMEOUT_SECONDS = 30.0


def renew(state: StateDirectory, address: str, *, registrar: str = "registrar") -> None:
    """Make a new TLS key and have the registrar at ``address`` certify it.

    ``registrar`` is its name. A server that runs on ``state`` takes the new pair at its next
    handshake. Raises OwnAuthority, UnavailablePeer, PeerNotAuthenticated, PeerRefused or
    OwnCertificateUnusable, and then the present pair stays.
    """
    check_renewable(state)
    expected = Identity(state.identity.federation, Role.REGISTRAR, registrar)
    key = certificates.generate_tls_key()
    request = enrolment_pb2.RenewRequest(
        certificate_request=certificates.make_request(state.identity, key)
    )
    with open_channel(state, address, expected=expected) as channel:
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        with translated_errors("the registrar"):
            response = stub.Renew(request, timeout=_TIMEOUT_SECONDS)
    files = certificates.TlsFiles(key, response.certificate, authorities=b"")
    trusted = TrustStore(state).current()
    check_own_certificate(state.identity, files, trusted, now=certificates.utc_now())
    certificates.replace_tls_pair(state, key, response.certificate)


def upkeep_of(state: StateDirectory, registrar: str | None) -> Upkeep:
    """What a long-running party does in the background, with the registrar's address or without.

    Without, nothing: then its trust list is renewed by ``fedhelp enrol trust``.
    """
    kept = Upkeep()
    if registrar is not None:
        kept.add(TrustListRefresh(state, registrar))
    return kept
