"""Who may call what: deny by default, one row for each RPC of the wire contract.

A method without a row may be called by nobody. A test compares the table with every RPC in the
descriptors, so that a new RPC is closed until somebody decides.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import cast
from weakref import WeakKeyDictionary

import grpc

from fedhelp_secure.errors import PeerError, PolicyError
from fedhelp_secure.transport.identity import Identity, Role

EVERY_ROLE = frozenset(Role)

_COORDINATOR = "/fedhelp_secure.wire.v1.Coordinator/"
_DECRYPTOR = "/fedhelp_secure.wire.v1.Decryptor/"
_UNMASKER = "/fedhelp_secure.wire.v1.Unmasker/"
_BROKER = "/fedhelp_secure.wire.v1.Broker/"
_EVIDENCE = "/fedhelp_secure.wire.v1.Evidence/"
_ENROLMENT = "/fedhelp_secure.wire.v1.Enrolment/"
_JOINING = "/fedhelp_secure.wire.v1.Joining/"

ACCESS: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        _COORDINATOR + "GetCharter": EVERY_ROLE,
        _COORDINATOR + "WatchRounds": frozenset({Role.HOSPITAL, Role.AUDITOR}),
        _COORDINATOR + "Contribute": frozenset({Role.HOSPITAL}),
        _COORDINATOR + "FetchTeacher": frozenset({Role.HOSPITAL}),
        _COORDINATOR + "GetReceipt": frozenset({Role.HOSPITAL}),
        _COORDINATOR + "GetRoundKeys": frozenset({Role.HOSPITAL}),
        _DECRYPTOR + "GetPublicContext": frozenset(
            {Role.REGISTRAR, Role.AGGREGATOR, Role.HOSPITAL, Role.AUDITOR}
        ),
        _DECRYPTOR + "BeginRound": frozenset({Role.AGGREGATOR}),
        _DECRYPTOR + "DecryptSum": frozenset({Role.AGGREGATOR}),
        _UNMASKER + "BeginRound": frozenset({Role.AGGREGATOR}),
        _UNMASKER + "UnmaskSum": frozenset({Role.AGGREGATOR}),
        _BROKER + "GetAnswer": frozenset({Role.HOSPITAL, Role.AUDITOR}),
        _EVIDENCE + "GetCheckpoint": EVERY_ROLE,
        _EVIDENCE + "GetInclusionProof": EVERY_ROLE,
        _EVIDENCE + "GetConsistencyProof": EVERY_ROLE,
        _EVIDENCE + "Cosign": frozenset({Role.HOSPITAL, Role.AUDITOR}),
        _EVIDENCE + "ListEntries": EVERY_ROLE,
        _EVIDENCE + "Submit": frozenset({Role.BROKER, Role.AUDITOR, Role.HOSPITAL}),
        _EVIDENCE + "ListObjects": frozenset({Role.AUDITOR}),
        _EVIDENCE + "ListCertificates": frozenset({Role.AUDITOR}),
        _ENROLMENT + "GetTrustBundle": EVERY_ROLE,
        _ENROLMENT + "Renew": EVERY_ROLE,
        _ENROLMENT + "RotateKeys": EVERY_ROLE - {Role.REGISTRAR},
        _ENROLMENT + "GetTrustList": EVERY_ROLE,
        # By token, on a port of its own: never with a certificate.
        _JOINING + "Join": frozenset(),
    }
)


_CALLERS: MutableMapping[grpc.ServicerContext, Identity] = WeakKeyDictionary()


class CallerNotAuthenticated(PeerError):
    """The caller's certificate does not say, beyond doubt, who calls."""

    code = "caller-not-authenticated"


class AccessRefused(PolicyError):
    """The caller is known, but its role or federation may not make this call."""

    code = "access"


def presented_chain(context: grpc.ServicerContext) -> bytes:
    """The certificates (PEM) of the connection that this call came by, the caller's own first.

    Raises CallerNotAuthenticated unless there are any. gRPC has checked that they lead to one of
    the authorities that the server was started with, and nothing else.
    """
    # gRPC gives a list for each key, its type stubs say bytes.
    facts = cast("Mapping[str, Sequence[bytes]]", context.auth_context())
    own = facts.get("x509_pem_cert", ())
    if list(facts.get("transport_security_type", ())) != [b"ssl"] or len(own) != 1:
        raise CallerNotAuthenticated(
            "this call came without a client certificate; connect with mutual TLS."
        )
    whole = b"".join(facts.get("x509_pem_cert_chain", ()))
    return whole if whole.startswith(own[0]) else own[0] + whole


def remember_caller(context: grpc.ServicerContext, identity: Identity) -> None:
    """For the interceptor: it has decided that ``identity`` makes this call."""
    _CALLERS[context] = identity


def caller(context: grpc.ServicerContext) -> Identity:
    """Who makes this call, as the server decided when it came.

    Raises CallerNotAuthenticated if nobody has decided: then the call must not be answered.
    """
    try:
        return _CALLERS[context]
    except KeyError:
        raise CallerNotAuthenticated(
            "this call was not admitted; call a server of the federation."
        ) from None


def authorise(method: str, calling: Identity, serving: Identity) -> None:
    """Raises AccessRefused unless the table lets ``calling`` call ``method`` of ``serving``.

    ``method`` is the full name, ``/package.Service/Method``.
    """
    if calling.federation != serving.federation:
        raise AccessRefused(
            "this party serves another federation; check the address you are calling."
        )
    if calling.role not in ACCESS.get(method, frozenset()):
        raise AccessRefused(
            f"a {calling.role.value} may not call {method.rpartition('/')[2]}; "
            "call it as a party whose role may."
        )
