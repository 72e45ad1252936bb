"""Joining with a token: the registrar proves itself before anything secret is sent.

1. A TLS handshake with whoever is at the address, only to see the certificates that it presents.
2. One of them must have the fingerprint that came with the token: the federation's root.
3. A second connection, which accepts that root alone and the registrar's name alone.
4. Over it, the token and the request; the answer is the enrolment bundle.

Who sits in between can show the right root in step 1, but has no certificate of it in step 3.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import socket
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.request import make_request, open_request, request_path
from fedhelp_secure.enrolment.token import JoinToken
from fedhelp_secure.errors import ConfigurationError, PeerError, UnavailablePeer
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.address import parse_address
from fedhelp_secure.transport.client import translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.joining import open_join_channel
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HANDSHAKE_SECONDS = 15.0
_CALL_SECONDS = 60.0
_RECORD_BYTES = 16 * 1024
_HANDSHAKE_BYTES = 256 * 1024
"""A handshake with a chain of certificates is a few KiB."""


class JoinOptions(ConfigurationError):
    """An option of joining is missing or malformed, or contradicts the token or the state."""

    code = "join-options"


class WrongRegistrar(PeerError):
    """Whoever answers at the address has no root certificate of the expected fingerprint."""

    code = "wrong-registrar"


def fingerprint(certificate: x509.Certificate) -> str:
    """``sha256:`` and the SHA-256 of the certificate's DER, in hexadecimal."""
    encoded = certificate.public_bytes(serialization.Encoding.DER)
    return "sha256:" + hashlib.sha256(encoded).hexdigest()


def join(
    state: StateDirectory,
    token: JoinToken,
    address: str,
    root: x509.Certificate,
    *,
    registrar: str = "registrar",
) -> VerifyingKey:
    """Enrol ``state``'s party with ``token`` at the registrar whose root is ``root``.

    Returns the governance key, which came over the verified connection. A call whose answer was
    lost may be made again: the registrar knows the request. Raises ContextMissing, UnavailablePeer,
    PeerNotAuthenticated (nothing secret was sent), PeerRefused or what `install_bundle` raises.
    """
    expected = Identity(state.identity.federation, Role.REGISTRAR, registrar)
    request = enrolment_pb2.JoinRequest(token=token.text, request=_request(state))
    with (
        open_join_channel(root, address, expected=expected) as channel,
        translated_errors("the registrar"),
    ):
        response = enrolment_pb2_grpc.JoiningStub(channel).Join(request, timeout=_CALL_SECONDS)
    return install_bundle(state, response.bundle, now=certificates.utc_now(), root=root)


def fetch_root(address: str, expected_fingerprint: str) -> x509.Certificate:
    """The certificate of ``expected_fingerprint`` that the server at ``address`` presents.

    Nothing is sent but a TLS handshake, and nothing of the answer is trusted but what has the
    fingerprint. Raises JoinOptions, AddressMalformed, UnavailablePeer or WrongRegistrar.
    """
    if not _FINGERPRINT.match(expected_fingerprint):
        raise JoinOptions(
            "--ca-fingerprint must be 'sha256:' and 64 lower-case hexadecimal digits, "
            "as 'fedhelp keys invite' prints it."
        )
    for presented in _presented_chain(address):
        if hmac.compare_digest(fingerprint(presented), expected_fingerprint):
            return presented
    raise WrongRegistrar(
        f"whoever answers at {address} does not have the root certificate {expected_fingerprint}; "
        "the token was not sent. Check the address, and compare the fingerprint with the "
        "registrar's operator over another way."
    )


def _request(state: StateDirectory) -> bytes:
    """The request that is under way already, if it is for the present keys; or a new one.

    A token is used up by one request: the same one again is how a lost answer is asked for anew.
    """
    with contextlib.suppress(PeerError, ConfigurationError):
        kept = state.read(request_path(state))
        opened = open_request(kept)
        key = certificates.open_request(opened.certificate_request, state.identity)
        present = certificates.load_tls_key(certificates.tls_key_of(state)).public_key()
        keys = (state.signing_key().public, state.unsealing_key().public.raw)
        if key == present and (opened.signing_key, opened.sealing_key.raw) == keys:
            return kept
    return make_request(state)


def _presented_chain(address: str) -> list[x509.Certificate]:
    target = parse_address(address, "--registrar")
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # Nobody is trusted here: the caller compares fingerprints, and the real connection verifies.
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    try:
        with socket.create_connection(target, timeout=_HANDSHAKE_SECONDS) as plain:
            _shake_hands(connection, plain)
        return connection.get_peer_cert_chain(as_cryptography=True) or []
    except (OSError, SSL.Error, ValueError) as error:
        raise UnavailablePeer(
            f"the registrar at {address} cannot be reached, or does not speak TLS there; "
            "check the address and the join port."
        ) from error


def _shake_hands(connection: SSL.Connection, plain: socket.socket) -> None:
    deadline = time.monotonic() + _HANDSHAKE_SECONDS
    received = 0
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            _send_pending(connection, plain)
        else:
            _send_pending(connection, plain)
            return
        plain.settimeout(max(0.01, deadline - time.monotonic()))
        data = plain.recv(_RECORD_BYTES)
        received += len(data)
        if not data or received > _HANDSHAKE_BYTES or time.monotonic() > deadline:
            raise ConnectionError("the handshake did not end")
        connection.bio_write(data)


def _send_pending(connection: SSL.Connection, plain: socket.socket) -> None:
    with contextlib.suppress(SSL.WantReadError):
        while True:
            plain.sendall(connection.bio_read(_RECORD_BYTES))
