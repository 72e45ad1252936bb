"""Shipping events to a syslog server over TLS (RFC 5425), from where the last time ended.

Syslog has no acknowledgement. A batch counts as delivered when the server kept the connection open
after all of it was sent, then answered the closing of the TLS session (RFC 5425 section 4.4: it
must), and closed without a reset; only then is the state file moved on. After a break the
batch is sent again under the same ids: at least once, and the same id for the same entry.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError, PeerError, UnavailablePeer
from fedhelp_secure.evidence.events.source import SignedLog
from fedhelp_secure.evidence.events.syslog import EXAMPLE_ENTERPRISE, frame, message
from fedhelp_secure.keystore.files import write_atomically

BATCH = 5000
"""Events a connection."""

SETTLING_SECONDS = 1.0
"""How long a server that refuses this client has to say so: some accept TLS first, and would then
seem to answer a closing that they began."""

_SECONDS = 60.0


class SyslogCertificateRefused(PeerError):
    """The syslog server's certificate is not one that --ca and its name allow."""

    code = "syslog-certificate"


class SyslogUnavailable(UnavailablePeer):
    """The syslog server did not take a batch to its end."""

    code = "syslog-unavailable"


class SyslogUnconfirmed(UnavailablePeer):
    """The syslog server ended the connection without a word that only itself can say."""

    code = "syslog-unconfirmed"


class ShippingOptions(ConfigurationError):
    """A file or number given for shipping cannot be used."""

    code = "syslog-options"


class OtherLogShipped(ConfigurationError):
    """The state file is of another log, or of another history of this one."""

    code = "syslog-state"


@dataclass(frozen=True, slots=True)
class Receiver:
    """A syslog server, and how both sides are told."""

    host: str
    port: int
    authorities: Path
    """PEM of those that may vouch for the server; the system's are not used."""
    certificate: Path | None = None
    """Own certificate chain, PEM, for servers that ask for one."""
    key: Path | None = None
    """Its key, PEM, not encrypted."""
    unconfirmed: bool = False
    """Take the end of the TCP connection for the server's word: whoever is on the way can forge it,
    and hide a batch. For servers that break RFC 5425 section 4.4, as rsyslog does with gtls."""

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, certificate and name verified; raises ShippingOptions."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if (self.certificate is None) != (self.key is None):
            raise ShippingOptions("give --certificate and --key together.")
        try:
            context.load_verify_locations(cafile=self.authorities)
            if self.certificate is not None:
                # An empty password: OpenSSL would else ask on the terminal for one.
                context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise ShippingOptions(
                "--ca, --certificate or --key cannot be used; give PEM files, the key unencrypted."
            ) from error
        return context


class _Shipped(BaseModel):
    """The state file: how far one log was delivered, and the root of that much of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    log: str
    next: Annotated[int, Field(ge=0)]
    root: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def ship(
    log: SignedLog,
    receiver: Receiver,
    *,
    start: int | None = None,
    state_file: Path | None = None,
    enterprise: int = EXAMPLE_ENTERPRISE,
) -> range:
    """Deliver the events from ``start``, or from where ``state_file`` ends; the indices delivered.

    Raises ShippingOptions, OtherLogShipped, SyslogCertificateRefused, SyslogUnavailable,
    SyslogUnconfirmed.
    """
    first = _first(log, start, state_file)
    context = receiver.context()
    for begin in range(first, log.size, BATCH):
        end = min(begin + BATCH, log.size)
        frames = [frame(message(event, enterprise=enterprise)) for event in log.events(begin, end)]
        deliver(receiver, context, b"".join(frames))
        if state_file is not None:
            state = _Shipped(log=log.origin, next=end, root=log.tree.root(end).hex())
            write_atomically(state_file, canonical_json(state.model_dump()))
    return range(first, log.size)


def _first(log: SignedLog, start: int | None, state_file: Path | None) -> int:
    if state_file is not None and state_file.exists():
        if start is not None:
            raise ShippingOptions("the state file says where to begin; leave --from out.")
        return _resumed(log, state_file)
    if start is not None and not 0 <= start <= log.size:
        raise ShippingOptions(f"the log has {log.size} entries; give a smaller --from.")
    return start or 0


def _resumed(log: SignedLog, state_file: Path) -> int:
    try:
        state = _Shipped.model_validate_json(state_file.read_bytes())
    except (OSError, ValidationError) as error:
        raise OtherLogShipped(
            f"{state_file} is not a state file of shipping; give the right one."
        ) from error
    if state.log != log.origin:
        raise OtherLogShipped(f"{state_file} is of another log; keep one for each.")
    if state.next > log.size:
        raise OtherLogShipped("fewer entries are here than were shipped; give a newer log.")
    if log.tree.root(state.next).hex() != state.root:
        raise OtherLogShipped(
            "the log is not a continuation of what was shipped; show it to an auditor."
        )
    return state.next


def deliver(receiver: Receiver, context: ssl.SSLContext, data: bytes) -> None:
    """Send framed messages, and wait until the server has taken them and closed in order.

    Raises SyslogCertificateRefused, SyslogUnavailable or SyslogUnconfirmed.
    """
    address = (receiver.host, receiver.port)
    try:
        with (
            socket.create_connection(address, timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=receiver.host) as secured,
        ):
            secured.sendall(data)
            _check_open(secured)
            _close(secured, unconfirmed=receiver.unconfirmed)
    except ssl.SSLCertVerificationError as error:
        raise SyslogCertificateRefused(
            "the syslog server's certificate is refused; check --ca and the name in --to."
        ) from error
    except OSError as error:
        raise SyslogUnavailable(
            "the syslog server did not take the events to their end; check that it runs, speaks "
            "TLS there and accepts this client's certificate, then run this again."
        ) from error


def _check_open(secured: ssl.SSLSocket) -> None:
    secured.settimeout(SETTLING_SECONDS)
    try:
        secured.recv(1)
    except TimeoutError:
        secured.settimeout(_SECONDS)
        return
    raise ConnectionAbortedError("a syslog server has nothing to say but that it closes")


def _close(secured: ssl.SSLSocket, *, unconfirmed: bool) -> None:
    try:
        # Then the end of the connection: nothing, or a reset if the server left something unread.
        secured.unwrap().recv(1)
    except ssl.SSLEOFError as error:
        if not unconfirmed:
            raise SyslogUnconfirmed(
                "the syslog server ended the connection without closing TLS, so that nobody knows "
                "whether it has the events; if it never does (rsyslog with gtls), give "
                "--unconfirmed, or use its ossl driver."
            ) from error
