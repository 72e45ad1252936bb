"""Through a real CONNECT proxy, if the operator names one, and only then."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import BrokerWorld, closed_port, key_digest

from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.provider import CallNotSent, EgressRefused
from fedhelp_server.broker.tunnel import Proxy, ProxyMisconfigured

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


class _Handler(socketserver.StreamRequestHandler):
    server: ConnectProxy

    def handle(self) -> None:
        line = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(line.strip())
        self.wfile.write(self.server.answer)
        if not self.server.answer.startswith(b"HTTP/1.1 200"):
            return
        host, _, port = line.split()[1].rpartition(":")
        with socket.create_connection((host, int(port))) as onward:
            back = threading.Thread(target=self._copy, args=(onward, self.connection))
            back.start()
            self._copy(self.connection, onward)
            back.join()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.server.carried += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


class ConnectProxy(socketserver.ThreadingTCPServer):
    """Relays what CONNECT asks for; keeps what it was asked and every byte that it carried."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.carried = bytearray()
        self.answer = b"HTTP/1.1 200 Connection established\r\n\r\n"

    @property
    def where(self) -> Proxy:
        return Proxy("127.0.0.1", self.server_address[1])


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_call_goes_through_the_proxy_and_the_proxy_reads_nothing(
    world: BrokerWorld, tmp_path: Path, proxy: ConnectProxy
) -> None:
    by_name = world.variant(url=world.server.url.replace("127.0.0.1", "localhost"))
    rules = by_name.rules(proxy=proxy.where)
    with pytest.MonkeyPatch.context() as patched:
        find = socket.getaddrinfo
        patched.setattr(
            socket, "getaddrinfo", lambda _, *rest, **options: find("127.0.0.1", *rest, **options)
        )
        by_name.one_call(tmp_path, provider=by_name.provider(rules)).answer(WHO)
    assert len(world.server.requests) == 1
    # The address that was checked, never the name.
    where = world.server.url.removeprefix("https://")
    assert proxy.asked == [f"CONNECT {where} HTTP/1.1"]
    assert b"dinov2" not in proxy.carried
    [batch] = by_name.journal(tmp_path).batches
    assert batch.tls_key == key_digest(world.server.certificate)


def test_addresses_are_checked_before_the_proxy_is_asked(
    world: BrokerWorld, proxy: ConnectProxy
) -> None:
    provider = world.provider(world.rules(proxy=proxy.where, private_networks=()))
    with pytest.raises(EgressRefused):
        provider.connect()
    assert proxy.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nspeaks before TLS",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"",
    ],
)
def test_a_proxy_that_refuses_is_not_a_call(
    world: BrokerWorld, proxy: ConnectProxy, answer: bytes
) -> None:
    proxy.answer = answer
    with pytest.raises(CallNotSent):
        world.provider(world.rules(proxy=proxy.where, connect_seconds=2.0)).connect()
    assert world.server.requests == []


def test_no_proxy_there_is_not_a_call(world: BrokerWorld) -> None:
    nowhere = Proxy("127.0.0.1", closed_port())
    with pytest.raises(CallNotSent):
        world.provider(world.rules(proxy=nowhere)).connect()
    assert world.server.connections == []


def test_grpc_does_not_go_through_one(world: BrokerWorld, proxy: ConnectProxy) -> None:
    with pytest.raises(ProxyMisconfigured, match="gRPC"):
        world.variant(provider="open-inference-grpc").provider(world.rules(proxy=proxy.where))


def test_a_proxy_is_written_as_a_plain_url() -> None:
    assert Proxy.parse(None) is None
    assert Proxy.parse("http://proxy.example.org:3128") == Proxy("proxy.example.org", 3128)
    assert Proxy.parse("http://[::1]:3128/") == Proxy("::1", 3128)
    for text in ("", "proxy:3128", "https://proxy:1", "http://user:word@proxy:1", "http://p:99999"):
        with pytest.raises(ProxyMisconfigured, match="--proxy"):
            Proxy.parse(text)
