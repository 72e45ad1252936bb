"""The registrar's online face: trust, renewal of certificates, rotation of parties' keys."""

from __future__ import annotations

import grpc

from fedhelp_keys.registrar.ca import CertificateAuthority
from fedhelp_keys.registrar.key_rotation import accept_rotation
from fedhelp_keys.registrar.registry import EnrolmentRefused, Registry
from fedhelp_keys.registrar.trust import issue_trust_list, standing
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import caller
from fedhelp_secure.transport.certificates import open_request, own_tls_files, utc_now
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.store import TrustStore, check_not_revoked
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc


class EnrolmentService(enrolment_pb2_grpc.EnrolmentServicer):
    """Serves one registrar's state."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._registry = Registry(state)

    def register(self, server: grpc.Server) -> None:
        """Add this service to ``server``."""
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(self, server)

    def GetTrustBundle(  # noqa: N802 - the name in the wire contract
        self, request: enrolment_pb2.GetTrustBundleRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.GetTrustBundleResponse:
        """Every authority's certificate, and the governance key."""
        return enrolment_pb2.GetTrustBundleResponse(
            ca_certificates=own_tls_files(self._state).authorities,
            governance_key=self._state.governance_key().raw,
        )

    def Renew(  # noqa: N802 - the name in the wire contract
        self, request: enrolment_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.RenewResponse:
        """A certificate for the caller's own identity and a new key.

        Raises CertificateRequestRefused, EnrolmentRefused for a caller who is not enrolled or is
        certified by an authority of its own, or Revoked for one who was revoked, also since the
        call began.
        """
        identity = caller(context)
        self._check_renewable(identity)
        key = open_request(request.certificate_request, identity)
        now = utc_now()
        with standing(self._state, identity):
            # Opened anew each time: another generation may sign by now.
            authority = CertificateAuthority.open(self._state, now=now)
            certificate = authority.issue(identity, key, now=now)
        return enrolment_pb2.RenewResponse(certificate=certificate)

    def RotateKeys(  # noqa: N802 - the name in the wire contract
        self, request: enrolment_pb2.RotateKeysRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.RotateKeysResponse:
        """Other keys for the caller's own identity; raises as `accept_rotation` does."""
        sequence = accept_rotation(self._state, caller(context), request.statement)
        return enrolment_pb2.RotateKeysResponse(sequence=sequence)

    def GetTrustList(  # noqa: N802 - the name in the wire contract
        self, request: enrolment_pb2.GetTrustListRequest, context: grpc.ServicerContext
    ) -> enrolment_pb2.GetTrustListResponse:
        """The present trust list, issued anew."""
        return enrolment_pb2.GetTrustListResponse(
            trust_list=issue_trust_list(self._state, now=utc_now())
        )

    def _check_renewable(self, identity: Identity) -> None:
        check_not_revoked(TrustStore(self._state).current(), identity)
        if identity == self._state.identity:
            return
        member = self._registry.find(identity)
        if member is None:
            raise EnrolmentRefused(
                "this party is not in the registry; make a request file and ask to be enrolled."
            )
        if member.own_certificate:
            raise EnrolmentRefused(
                "this party brings its own certificate; renew it at the authority that issued it."
            )
