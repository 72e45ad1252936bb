"""What the attacks share: raw TLS to a server, a channel without our client's limits, its log."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc
from support.processes import Servers

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import own_tls_files, server_name
from fedhelp_secure.transport.identity import Identity

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""With it a client begins HTTP/2 (RFC 9113, section 3.4)."""
EMPTY_SETTINGS = bytes.fromhex("000000040000000000")

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def plain_connection(address: str) -> socket.socket:
    """TCP alone; reads give up after 60 s."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def tls_connection(
    state: StateDirectory, address: str, expected: Identity, *, protocol: str = "h2"
) -> ssl.SSLSocket:
    """TLS as ``state``'s party, the handshake done, and nothing of ``protocol`` sent yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(state.ca_path)
    context.load_cert_chain(state.tls_certificate_path, state.tls_key_path)
    context.set_alpn_protocols([protocol])
    return context.wrap_socket(plain_connection(address), server_hostname=server_name(expected))


def unlimited_channel(state: StateDirectory, address: str, expected: Identity) -> grpc.Channel:
    """A channel that would send and take anything."""
    files = own_tls_files(state)
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    options = [*UNLIMITED, ("grpc.ssl_target_name_override", server_name(expected))]
    return grpc.secure_channel(address, credentials, options=options)


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def log_of(servers: Servers, name: str) -> str:
    """What the server called ``name`` has written so far."""
    path: Path = servers.running[name].log
    return path.read_text(errors="surrogateescape")
