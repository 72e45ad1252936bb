"""Where the broker may connect: addresses, names that change their minds, and pinned keys."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from support.broker import (
    BrokerProcess,
    BrokerWorld,
    Exchange,
    RecordingServer,
    key_digest,
)

from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.addresses import NetworkMisconfigured, check_address, parse_network
from fedhelp_server.broker.call import CallSpent
from fedhelp_server.broker.egress import EgressMisconfigured, parse_pin
from fedhelp_server.broker.provider import EgressRefused
from fedhelp_server.broker.states import CallState

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public_addresses_are_allowed(address: str) -> None:
    check_address(ipaddress.ip_address(address), ())


NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "fd00::1",
    "::ffff:10.1.2.3",
    "::ffff:127.0.0.1",
    "64:ff9b::10.1.2.3",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]
NEVER = [
    "0.0.0.0",  # noqa: S104
    "169.254.169.254",
    "224.0.0.1",
    "::",
    "fe80::1",
    "ff02::1",
    "::ffff:169.254.1.1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC + NEVER)
def test_others_are_not(address: str) -> None:
    with pytest.raises(EgressRefused, match="--allow-private-network"):
        check_address(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", NEVER)
def test_some_are_never_allowed(address: str) -> None:
    everything = (parse_network("0.0.0.0/0"), parse_network("::/0"))
    with pytest.raises(EgressRefused):
        check_address(ipaddress.ip_address(address), everything)


def test_an_allowed_network_is_no_other() -> None:
    allowed = (parse_network("10.1.2.0/24"),)
    check_address(ipaddress.ip_address("10.1.2.3"), allowed)
    check_address(ipaddress.ip_address("::ffff:10.1.2.3"), allowed)
    for address in ("10.1.3.3", "127.0.0.1", "fd00::1"):
        with pytest.raises(EgressRefused):
            check_address(ipaddress.ip_address(address), allowed)


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0 /8"])
def test_a_network_is_written_exactly(text: str) -> None:
    with pytest.raises(NetworkMisconfigured, match="--allow-private-network"):
        parse_network(text)


def test_a_pin_is_a_digest() -> None:
    assert parse_pin(None) is None
    assert parse_pin("sha256:" + "a" * 64) == "sha256:" + "a" * 64
    for text in ("", "a" * 64, "sha256:" + "A" * 64, "sha1:" + "a" * 40):
        with pytest.raises(EgressMisconfigured, match="--pin"):
            parse_pin(text)


def resolving(*answers: str) -> str:
    """Python: ``localhost`` resolves to ``answers`` in turn, the last one for ever."""
    return (
        "import socket\n"
        f"answers, ask = {list(answers)!r}, socket.getaddrinfo\n"
        "def resolve(host, port, *args, **kwargs):\n"
        "    if host != 'localhost': return ask(host, port, *args, **kwargs)\n"
        "    found = answers.pop(0) if len(answers) > 1 else answers[0]\n"
        "    return [entry for one in found.split()\n"
        "            for entry in ask(one, port, *args, **kwargs)]\n"
        "socket.getaddrinfo = resolve\n"
    )


@pytest.fixture
def by_name(world: BrokerWorld) -> BrokerWorld:
    """The charter names the recording server ``localhost``."""
    return world.variant(url=world.server.url.replace("127.0.0.1", "localhost"))


def test_a_name_that_changes_its_mind_is_resolved_once(
    by_name: BrokerWorld, tmp_path: Path
) -> None:
    """DNS rebinding: one address for the check, another one, where nobody is, after it."""
    rebinding = resolving("127.0.0.1", "127.0.0.2")
    options = ("--allow-private-network", "127.0.0.1/32")
    with BrokerProcess(by_name, tmp_path, dies=rebinding, options=options) as broker:
        by_name.fetch(broker.address)
    [request] = by_name.server.requests
    assert request.headers["Host"].startswith("localhost:")
    [batch] = by_name.journal(tmp_path).batches
    assert batch.address is not None
    assert batch.address.startswith("127.0.0.1:")


@pytest.mark.parametrize("found", ["169.254.169.254", "127.0.0.1 10.0.0.1"])
def test_a_name_with_an_address_that_is_not_allowed_is_not_connected_to(
    by_name: BrokerWorld, tmp_path: Path, found: str
) -> None:
    with (
        BrokerProcess(by_name, tmp_path, dies=resolving(found)) as broker,
        pytest.raises(PeerRefused) as caught,
    ):
        by_name.fetch(broker.address)
    assert caught.value.code == "egress"
    assert by_name.server.connections == []
    assert by_name.journal(tmp_path).state is CallState.OPEN


def test_the_first_address_that_answers_is_taken(
    by_name: BrokerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = socket.getaddrinfo

    def two(host: str, *rest: Any, **options: Any) -> list[Any]:  # noqa: ANN401
        if host != "localhost":
            return find(host, *rest, **options)
        return [*find("127.0.0.2", *rest, **options), *find("127.0.0.1", *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    connection = by_name.provider().connect()
    connection.close()
    assert connection.contact is not None
    assert connection.contact.address.startswith("127.0.0.1:")


def test_a_redirect_reaches_nobody(world: BrokerWorld, tmp_path: Path) -> None:
    with RecordingServer(tmp_path / "elsewhere") as elsewhere:

        def redirect(exchange: Exchange) -> None:
            exchange.reply(b"", status=307, headers={"Location": elsewhere.url})

        world.server.act = redirect
        with pytest.raises(CallSpent, match="redirect"):
            world.one_call(tmp_path).answer(WHO)
        assert elsewhere.connections == []


def test_another_key_than_the_pinned_one_costs_nothing(world: BrokerWorld, tmp_path: Path) -> None:
    pinned = world.provider(world.rules(pin=key_digest(world.server.certificate)))
    other = world.provider(world.rules(pin="sha256:" + "0" * 64))
    with pytest.raises(EgressRefused, match="--pin"):
        world.one_call(tmp_path, provider=other).answer(WHO)
    assert world.server.requests == []
    world.one_call(tmp_path, provider=pinned).answer(WHO)
    assert len(world.server.requests) == 1


def test_tls_keys_are_written_nowhere(
    world: BrokerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    world.one_call(tmp_path).answer(WHO)
    assert not keys.exists()


def test_the_path_of_the_charter_is_kept(tmp_path: Path, world: BrokerWorld) -> None:
    deeper = world.variant(url=f"{world.server.url}/base/")
    deeper.one_call(tmp_path).answer(WHO)
    [request] = deeper.server.requests
    assert request.path == "/base/v2/models/dinov2-small/infer"
    assert f"https://{request.headers['Host']}" == world.server.url
