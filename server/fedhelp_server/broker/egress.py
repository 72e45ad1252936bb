"""The only way out: to the charter's host, at an address that was checked, over verified TLS.

The name is resolved once and the connection goes to the very address that was checked, so a name
that changes its mind (DNS rebinding) changes nothing. No environment variable has a say: a proxy is
used only if the operator names it, and TLS keys are written to no file.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedhelp_secure.canonical import check_digest_form, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, InternalError, MalformedMessage
from fedhelp_secure.foundation_model import ANSWER_LIMIT_BYTES
from fedhelp_server.broker.addresses import Address, Network, check_address
from fedhelp_server.broker.provider import (
    CallLost,
    CallNotSent,
    Contact,
    EgressRefused,
    Stopping,
)
from fedhelp_server.broker.tunnel import Proxy, open_tunnel

_PART = 64 * 1024
_ADDRESSES_TRIED = 4


class EgressMisconfigured(ConfigurationError):
    """An option that limits where the broker may connect cannot be used."""

    code = "egress-option"


@dataclass(frozen=True, slots=True)
class EgressRules:
    """What the broker's operator sets."""

    ca: Path | None = None
    """The only certificates to trust (PEM); None for the system's."""
    pin: str | None = None
    """Digest of the server's SubjectPublicKeyInfo; None for any that TLS verifies."""
    private_networks: tuple[Network, ...] = ()
    """Networks that are not public and may be connected to all the same."""
    proxy: Proxy | None = None
    """The site's own way out; None for none, whatever the environment says."""
    connect_seconds: float = 10.0
    seconds: float = 600.0
    """Of one request, from its first byte to the last byte of its answer."""
    answer_bytes: int = ANSWER_LIMIT_BYTES
    """Of the message that answers one request."""


def parse_pin(text: str | None) -> str | None:
    """``text`` unchanged; raises EgressMisconfigured unless it is a digest or None."""
    if text is None:
        return None
    try:
        return check_digest_form(text)
    except MalformedMessage as error:
        raise EgressMisconfigured(
            "--pin takes sha256: and 64 hexadecimal digits; see docs/broker-operator.md."
        ) from error


class Line:
    """One TLS connection; what is sent and received on it must be over by a deadline."""

    def __init__(self, secure: ssl.SSLSocket, contact: Contact, egress: Egress) -> None:
        self._socket = secure
        self._deadline = time.monotonic() + egress.rules.seconds
        self._egress = egress
        self.contact = contact

    def send(self, data: bytes) -> None:
        """All of ``data``; raises CallLost."""
        view = memoryview(data)
        while view:
            self._limit()
            try:
                sent = self._socket.send(view[:_PART])
            except OSError as error:
                raise self._lost(error) from error
            view = view[sent:]

    def receive(self) -> bytes:
        """What comes next; empty at the end. Raises CallLost."""
        self._limit()
        try:
            data = self._socket.recv(_PART)
        except OSError as error:
            raise self._lost(error) from error
        if not data and self._egress.closed:
            raise CallLost("stopped")
        return data

    def certificate(self) -> bytes:
        """The server's, DER."""
        return self._socket.getpeercert(binary_form=True) or b""

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise CallLost("timeout")
        try:
            self._socket.settimeout(left)
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> CallLost:
        if self._egress.closed:
            return CallLost("stopped")
        return CallLost("timeout" if isinstance(error, TimeoutError) else "connection")


class Egress:
    """Connections to one charter's foundation model."""

    def __init__(self, charter: Charter, rules: EgressRules) -> None:
        """Raises EgressMisconfigured, or CharterRefused if the charter's model is at no host."""
        model = charter.foundation_model
        if model.hostname is None:
            raise InternalError("a local model needs no way out.")
        self.host, self.port, self.rules = model.hostname, model.port, rules
        self._tls = _context(rules.ca)
        self._guard = threading.Lock()
        self._open: socket.socket | None = None
        self._closed = False

    @property
    def authority(self) -> str:
        """Host and port as HTTP writes them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def resolve(self) -> list[Address]:
        """The host's addresses; raises EgressRefused if any of them may not be connected to.

        Raises CallNotSent if it has none.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise CallNotSent(
                "the foundation model's host has no address; check the charter's URL and the "
                "name server."
            ) from error
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            check_address(address, self.rules.private_networks)
        return addresses

    def connect(self) -> Line:
        """A line to the host; nothing but a TLS handshake has been sent on it.

        Raises CallNotSent or EgressRefused.
        """
        if self._closed:
            raise Stopping
        address, plain = self._first(self.resolve())
        with contextlib.ExitStack() as undo:
            undo.callback(plain.close)
            secure = self._secured(plain, undo)
            contact = Contact(_spelled(address, self.port), _key_digest(secure))
            if self.rules.pin is not None and contact.tls_key != self.rules.pin:
                raise EgressRefused(
                    "the foundation model's TLS key is not the pinned one; nothing was sent. The "
                    "broker's operator must find out why and mend --pin."
                )
            undo.pop_all()
        return Line(secure, contact, self)

    def _first(self, addresses: list[Address]) -> tuple[Address, socket.socket]:
        """The first of the checked addresses that answers, and a connection to it."""
        for address in addresses[:_ADDRESSES_TRIED]:
            with contextlib.suppress(OSError):
                return address, self._dial(address)
        raise _unreachable()

    def _dial(self, address: Address) -> socket.socket:
        seconds = self.rules.connect_seconds
        if self.rules.proxy is None:
            return socket.create_connection((str(address), self.port), timeout=seconds)
        return open_tunnel(self.rules.proxy, _spelled(address, self.port), seconds=seconds)

    def _secured(self, plain: socket.socket, undo: contextlib.ExitStack) -> ssl.SSLSocket:
        try:
            secure = self._tls.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
            undo.callback(secure.close)
            self._admit(secure)
            secure.do_handshake()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _unreachable() from error
        return secure

    def _admit(self, connection: socket.socket) -> None:
        """Let `close` break ``connection``; raises CallNotSent if it has been called."""
        with self._guard:
            if self._closed:
                raise Stopping
            self._open = connection

    def close(self) -> None:
        """Break the connection that is open, if any, and allow no other."""
        with self._guard:
            self._closed = True
            if self._open is not None:
                with contextlib.suppress(OSError):
                    # The plain socket's: TLS objects are not for two threads at once.
                    socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def _unreachable() -> CallNotSent:
    return CallNotSent(
        "the foundation model cannot be reached, or its certificate is not trusted; check that it "
        "runs, the charter's URL and --ca."
    )


def _context(ca: Path | None) -> ssl.SSLContext:
    # Not create_default_context: it writes TLS keys to a file that the environment may name.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # One trusted leaf certificate is enough, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cafile=str(ca))
    except OSError as error:  # ssl.SSLError included
        raise EgressMisconfigured(
            f"{ca} holds no certificate in PEM; give the foundation model's with --ca."
        ) from error
    return context


def _key_digest(secure: ssl.SSLSocket) -> str:
    certificate = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
    key = certificate.public_key()
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _spelled(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
