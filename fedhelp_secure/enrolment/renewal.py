"""A new certificate before the present one expires, over mutual TLS from the registrar."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from cryptography import x509

from fedhelp_secure.enrolment.lifetimes import renewal_due, renewal_late
from fedhelp_secure.enrolment.own_certificate import check_renewable, has_own_certificate
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.keystore.files import exclusive, make_directory
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.chain import check_own_certificate
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.refresh import TrustListRefresh
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

_LOGGER = logging.getLogger(__name__)
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
    with alone(state):
        with open_channel(state, address, expected=expected) as channel:
            stub = enrolment_pb2_grpc.EnrolmentStub(channel)
            with translated_errors("the registrar"):
                response = stub.Renew(request, timeout=_TIMEOUT_SECONDS)
        files = certificates.TlsFiles(key, response.certificate, authorities=b"")
        trusted = TrustStore(state).current()
        check_own_certificate(state.identity, files, trusted, now=certificates.utc_now())
        certificates.replace_tls_pair(state, key, response.certificate)


class Renewal:
    """The task of renewing ``state``'s certificate by ``renew`` once two thirds of it are over."""

    what = "renewing the certificate"

    def __init__(self, state: StateDirectory, renew: Callable[[], None]) -> None:
        self._state = state
        self._renew = renew

    def due_in(self) -> float:
        """Seconds until two thirds of the present certificate's life are over."""
        return (renewal_due(self._certificate()) - certificates.utc_now()).total_seconds()

    def run(self) -> None:
        """Renew, and say so in one line of the log."""
        self._renew()
        _LOGGER.info(
            "the certificate of %s is renewed; it is valid until %s",
            self._state.identity,
            self._certificate().not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def failure_level(self) -> int:
        """A warning; an error once the certificate has less than a sixth of its life left."""
        try:
            late = renewal_late(self._certificate()) <= certificates.utc_now()
        except (FedHelpError, OSError):
            late = True
        return logging.ERROR if late else logging.WARNING

    def _certificate(self) -> x509.Certificate:
        return certificates.load_certificate(self._state.read(self._state.tls_certificate_path))


def upkeep_of(state: StateDirectory, registrar: str | None) -> Upkeep:
    """What a long-running party does in the background, with the registrar's address or without.

    Without, nothing: then its certificate is renewed by ``fedhelp enrol renew``, and its trust
    list by ``fedhelp enrol trust``. A certificate of another authority is never renewed.
    """
    kept = Upkeep()
    if registrar is not None:
        kept.add(TrustListRefresh(state, registrar))
        if not has_own_certificate(state):
            kept.add(Renewal(state, lambda: renew(state, registrar)))
    return kept


@contextlib.contextmanager
def alone(state: StateDirectory) -> Iterator[None]:
    """One renewal of a state at a time, also between processes: a pair is of one key."""
    path = state.root / "enrolment" / "renewal.lock"
    make_directory(path.parent)
    with exclusive(path):
        yield
