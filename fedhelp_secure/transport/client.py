"""Channels to one expected party over mutual TLS, and its refusals as errors of our own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import grpc

from fedhelp_secure.errors import PeerError, RateLimited, UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.catalogue import CODE_KEY, printable
from fedhelp_secure.transport.certificates import own_tls_files, server_name, utc_now
from fedhelp_secure.transport.chain import check_own_certificate, roots_for
from fedhelp_secure.transport.channel import CheckedChannel
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.transport.limits import COMMON_OPTIONS
from fedhelp_secure.trust.store import HeldTrust, check_not_revoked

_CODE = re.compile(r"[a-z0-9-]{1,64}\Z")
# What gRPC (BoringSSL) says when the server's certificate is not the one expected.
_IMPOSTOR = re.compile("Hostname Verification Check failed|CERTIFICATE_VERIFY_FAILED")
_CROWDED = "Concurrent RPC limit exceeded"


class PeerRefused(PeerError):
    """A peer refused a call; ``code`` is the peer's, or ``peer-refused`` if it gave none."""

    code = "peer-refused"

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class PeerNotAuthenticated(PeerError):
    """Whoever answers at the address is not the expected party of this federation."""

    code = "peer-not-authenticated"


def open_channel(
    state: StateDirectory, address: str, *, expected: Identity, even_if_outdated: bool = False
) -> grpc.Channel:
    """A channel from ``state``'s party to ``expected`` at ``address`` (``host:port``).

    The server must hold a certificate for exactly ``expected`` from an authority that may certify
    it, whatever ``address`` is; gRPC connects on first use. Every call is refused here, with
    Revoked or TrustListOutdated, and running ones are ended, once ``expected`` is revoked or the
    trust list is out of date; ``even_if_outdated`` is for the one call that fetches a new list.
    Raises those,
    OwnCertificateUnusable, CertificateRefused (no authority may certify ``expected``) or StateError
    at once if no call could be made now.
    """
    trust = HeldTrust(state)

    def allowed() -> None:
        trusted = trust.newest() if even_if_outdated else trust.fresh(utc_now())
        check_not_revoked(trusted, expected)

    def connect() -> grpc.Channel:
        files = own_tls_files(state)
        trusted = trust.newest()
        check_own_certificate(state.identity, files, trusted, now=utc_now())
        roots = roots_for(trusted, expected)
        credentials = grpc.ssl_channel_credentials(roots, files.key, files.certificate)
        options: list[tuple[str, int | str]] = [
            *COMMON_OPTIONS,
            ("grpc.ssl_target_name_override", server_name(expected)),
            # A proxy from the environment would see whom we call.
            ("grpc.enable_http_proxy", 0),
        ]
        return grpc.secure_channel(address, credentials, options=options)

    channel = CheckedChannel(connect, allowed)
    channel.ready()
    return channel


@contextlib.contextmanager
def translated_errors(peer: str = "the peer") -> Iterator[None]:
    """Within it, a grpc.RpcError becomes an error of our own; ``peer`` says whom we called.

    UnavailablePeer: nobody answers, or not in time; try again. PeerNotAuthenticated: the wrong
    party answers. PeerRefused: the right one says no.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _translated(error, peer) from error


def _translated(error: grpc.RpcError, peer: str) -> PeerError:
    if not isinstance(error, grpc.Call):
        return UnavailablePeer(f"the call to {peer} was cancelled; try again.")
    status, details = error.code(), error.details() or ""
    code = _code_of(error)
    if status is grpc.StatusCode.UNAVAILABLE and _IMPOSTOR.search(details):
        return PeerNotAuthenticated(
            f"the server at the address of {peer} has no valid certificate of this federation for "
            "it; check the address, and that it is enrolled and its certificate renewed."
        )
    if status is grpc.StatusCode.UNAVAILABLE and code is None:
        return UnavailablePeer(
            f"{peer} cannot be reached, or ended the connection because it does not accept this "
            "party's certificate; check that it runs, its address and its log."
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailablePeer(f"{peer} did not answer in time; try again.")
    if status is grpc.StatusCode.CANCELLED and code is None:
        return UnavailablePeer(f"{peer} ended the call before it was done; try again.")
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and _CROWDED in details:
        return UnavailablePeer(f"{peer} is busy; try again.")
    if code is None:
        return PeerRefused(PeerRefused.code, f"{peer} answered {status.name}; check its version.")
    if code == RateLimited.code:
        return RateLimited(printable(details))
    if code == UnavailablePeer.code:
        return UnavailablePeer(printable(details))
    return PeerRefused(code, printable(details))


def _code_of(call: grpc.Call) -> str | None:
    for key, value in call.trailing_metadata() or ():
        if key == CODE_KEY and isinstance(value, str) and _CODE.match(value):
            return value
    return None
