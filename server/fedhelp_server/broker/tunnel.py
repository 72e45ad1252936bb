"""A tunnel through the site's HTTP proxy (CONNECT, RFC 9110 section 9.3.6), if there is one."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

import h11

from fedhelp_secure.errors import ConfigurationError

_HEADER_BYTES = 16 * 1024
_URL = re.compile(r"http://([a-z0-9.-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})/?")


class ProxyMisconfigured(ConfigurationError):
    """The option --proxy cannot be used."""

    code = "proxy-option"


class TunnelRefused(OSError):
    """The proxy did not open a tunnel; nothing of a request has been sent."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the site's proxy is. It sees addresses and lengths; the TLS inside is not its."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str | None) -> Proxy | None:
        """From ``http://host:port``; None for None. Raises ProxyMisconfigured."""
        if text is None:
            return None
        match = _URL.fullmatch(text)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ProxyMisconfigured("--proxy takes a URL like http://proxy.example.org:3128.")
        return cls(match[1].strip("[]"), int(match[2]))


def open_tunnel(proxy: Proxy, target: str, *, seconds: float) -> socket.socket:
    """A connection through ``proxy`` to ``target``, an IP address and port.

    An address, not a name: what was checked is what the proxy connects to. Raises OSError.
    """
    connection = socket.create_connection((proxy.host, proxy.port), timeout=seconds)
    try:
        _ask(connection, target)
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, target: str) -> None:
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEADER_BYTES)
    request = h11.Request(method="CONNECT", target=target, headers=[("Host", target)])
    connection.sendall(machine.send(request) or b"")
    machine.send(h11.EndOfMessage())
    try:
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                # Byte by byte would be exact; a server that speaks before TLS begins is refused.
                machine.receive_data(connection.recv(_HEADER_BYTES))
            elif isinstance(event, h11.Response):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise TunnelRefused("the proxy hung up")
    except h11.RemoteProtocolError as error:
        raise TunnelRefused("the proxy does not speak HTTP") from error
    if not 200 <= event.status_code < 300 or machine.trailing_data[0]:
        raise TunnelRefused("the proxy refused")
