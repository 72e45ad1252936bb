"""Shipping to a real rsyslog over TLS, which parses what arrives."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support import rsyslog
from support.federation import Federation
from support.pki import Certified, Wish, certify
from support.rsyslog import Program, SyslogServer

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.events import ship as shipping
from fedhelp_secure.evidence.events import source, syslog
from fedhelp_secure.evidence.events.ship import (
    OtherLogShipped,
    Receiver,
    ShippingOptions,
    SyslogCertificateRefused,
    SyslogUnavailable,
    SyslogUnconfirmed,
    ship,
)
from fedhelp_secure.evidence.events.source import SignedLog
from fedhelp_secure.evidence.events.vocabulary import Severity

NOW = datetime.datetime.now(datetime.UTC)
LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


@pytest.fixture(autouse=True)
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback."""
    monkeypatch.setattr(shipping, "SETTLING_SECONDS", 0.3)


@pytest.fixture(scope="module")
def program() -> Program:
    found = rsyslog.find()
    if found is None:
        pytest.skip("rsyslog is neither installed nor could 'make dev' fetch it from Debian")
    return found


@pytest.fixture(scope="module")
def authority() -> Certified:
    return certify(Wish(subject="CN=logs", ca=True), None, now=NOW)


@pytest.fixture
def directory(authority: Certified, tmp_path: Path) -> Path:
    """A server's files, and a client's."""
    server = certify(Wish(subject="CN=syslog", names=[LOOPBACK]), authority, now=NOW)
    client = certify(Wish(subject="CN=auditor"), authority, now=NOW)
    other = certify(Wish(subject="CN=logs", ca=True), None, now=NOW)
    for name, data in {
        "ca.pem": authority.pem,
        "other.pem": other.pem,
        "server.pem": server.pem,
        "server.key": server.key_pem,
        "client.pem": client.pem,
        "client.key": client.key_pem,
    }.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def server(program: Program, directory: Path) -> Iterator[SyslogServer]:
    with rsyslog.running(program, directory) as found:
        yield found


@pytest.fixture(scope="module")
def log(true_bundle: Path) -> SignedLog:
    return source.from_bundle(true_bundle, None)


def receiver(directory: Path, port: int, ca: str = "ca.pem", *, named: bool = False) -> Receiver:
    own = (directory / "client.pem", directory / "client.key") if named else (None, None)
    return Receiver("127.0.0.1", port, directory / ca, *own)


def structured(message: dict[str, Any]) -> dict[str, str]:
    """What rsyslog's own parser found in the structured data."""
    elements = message["$!"]["rfc5424-sd"]
    assert list(elements) == ["fedhelp@32473"]
    return dict(elements["fedhelp@32473"])


def test_every_event_arrives_once_with_its_structured_data(
    server: SyslogServer, directory: Path, log: SignedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "BATCH", 11)
    state = directory / "state.json"
    to = receiver(directory, server.port)
    assert ship(log, to, state_file=state) == range(log.size)
    # Nothing is left to ship, and nothing is.
    assert ship(log, to, state_file=state) == range(log.size, log.size)
    found = server.received(log.size)
    assert log.size > 20
    assert [structured(one)["id"] for one in found] == [
        str(event.identifier) for event in log.events()
    ]
    for one, event in zip(found, log.events(), strict=True):
        data = structured(one)
        assert (data["index"], data["leaf"]) == (str(event.index), event.leaf)
        assert data["agent"] == " ".join(event.agents)
        assert data["charter"] == log.charter.digest
        for name, value in event.details:
            assert data[name] == value
        assert one["msgid"] == event.meaning.kind
        assert one["app-name"] == "fedhelp"
        assert one["hostname"] == "aggregator"
        assert one["pri"] == str(13 * 8 + event.meaning.severity)
        assert one["msg"].strip() == event.meaning.sentence


def test_a_restart_goes_on_where_it_ended(
    program: Program, directory: Path, log: SignedLog
) -> None:
    state = directory / "state.json"
    with rsyslog.running(program, directory) as server:
        to = receiver(directory, server.port)
        assert ship(prefix(log, 9), to, state_file=state) == range(9)
        server.received(9)
    with pytest.raises(SyslogUnavailable):
        ship(log, to, state_file=state)
    assert json.loads(state.read_text())["next"] == 9
    with rsyslog.running(program, directory) as server:
        to = receiver(directory, server.port)
        assert ship(log, to, state_file=state) == range(9, log.size)
        found = server.received(log.size)
    assert [int(structured(one)["index"]) for one in found] == list(range(log.size))


def prefix(log: SignedLog, size: int) -> SignedLog:
    """The log as it was."""
    return SignedLog(log.charter, log.tree, log.leaves[:size], log.entries[:size])


def test_the_command_ships_and_goes_on(
    server: SyslogServer, directory: Path, log: SignedLog, true_bundle: Path
) -> None:
    arguments = [
        *("--to", f"127.0.0.1:{server.port}"),
        *("--ca", str(directory / "ca.pem"), "--state-file", str(directory / "state.json")),
    ]
    for shipped in (log.size, 0):
        command = [sys.executable, "-m", "fedhelp_secure", "audit", "ship", str(true_bundle)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"shipped {shipped} events; the next is {log.size}\n"
    assert len(server.received(log.size)) == log.size


def test_another_authority_is_refused(
    server: SyslogServer, directory: Path, log: SignedLog
) -> None:
    state = directory / "state.json"
    with pytest.raises(SyslogCertificateRefused):
        ship(log, receiver(directory, server.port, "other.pem"), state_file=state)
    assert not state.exists()
    wrong = Receiver("localhost", server.port, directory / "ca.pem")
    with pytest.raises(SyslogCertificateRefused):
        ship(log, wrong, state_file=state)
    assert ship(log, receiver(directory, server.port), start=log.size - 1)
    assert len(server.received(1)) == 1


def test_a_server_that_asks_for_a_certificate(
    program: Program, directory: Path, log: SignedLog
) -> None:
    with rsyslog.running(program, directory, mode="x509/certvalid") as server:
        state = directory / "state.json"
        with pytest.raises(SyslogUnavailable):
            ship(log, receiver(directory, server.port), state_file=state)
        assert not state.exists()
        ship(log, receiver(directory, server.port, named=True), state_file=state)
        assert len(server.received(log.size)) == log.size


def test_a_server_that_never_closes_tls(program: Program, directory: Path, log: SignedLog) -> None:
    with rsyslog.running(program, directory, driver="gtls") as server:
        state = directory / "state.json"
        to = receiver(directory, server.port)
        with pytest.raises(SyslogUnconfirmed, match="--unconfirmed"):
            ship(log, to, state_file=state)
        assert not state.exists()
        ship(log, dataclasses.replace(to, unconfirmed=True), state_file=state)
        found = server.received(2 * log.size)
    # It had them all along: the same ids, twice.
    ids = [structured(one)["id"] for one in found]
    assert ids[: log.size] == ids[log.size :]


def test_hostile_values_stay_in_their_parameter(server: SyslogServer, directory: Path) -> None:
    """What events never hold, the formatter must survive all the same."""
    values = ['x"] [forged@1 a="b"]', "\n<104>1 - - - - - forged", "]", 'a\\" b', "a\r\n9 forged"]
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    head = syslog.header(severity=Severity.NOTICE, time=time, host="h", message_id="hostile")
    texts = [f"{head} {syslog.element('fedhelp@32473', [('v', one)])} said" for one in values]
    to = receiver(directory, server.port)
    shipping.deliver(to, to.context(), b"".join(syslog.frame(text) for text in texts))
    found = server.received(len(values))
    assert [one["msgid"] for one in found] == ["hostile"] * len(values)
    assert [one["msg"].strip() for one in found] == ["said"] * len(values)
    for one, value in zip(found, values, strict=True):
        assert list(structured(one)) == ["v"]
        assert structured(one)["v"] == value.replace("\n", "�").replace("\r", "�")


def cut(secured: ssl.SSLSocket) -> None:
    """Read a little and be gone."""
    with secured:
        secured.recv(10)


def close_first(secured: ssl.SSLSocket) -> None:
    """Say so by TLS at once, whatever the client sends then; that is thrown away."""
    secured.settimeout(0.5)
    with contextlib.suppress(OSError):
        secured.unwrap()
    with socket.socket(fileno=secured.detach()) as plain, contextlib.suppress(TimeoutError):
        plain.settimeout(0.5)
        while plain.recv(1 << 16):
            pass


@pytest.mark.parametrize("behave", [cut, close_first])
def test_a_server_that_did_not_read_to_the_end_has_not_taken_the_batch(
    directory: Path, log: SignedLog, behave: Callable[[ssl.SSLSocket], None]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            behave(context.wrap_socket(plain, server_side=True))

        thread = threading.Thread(target=serve)
        thread.start()
        state = directory / "state.json"
        with pytest.raises(SyslogUnavailable):
            ship(log, receiver(directory, listener.getsockname()[1]), state_file=state)
        thread.join()
    assert not state.exists()


def test_the_state_of_another_log_is_refused(directory: Path, log: SignedLog) -> None:
    state = directory / "state.json"
    root = log.tree.root(3).hex()
    state.write_text(json.dumps({"log": "other/aggregator/log", "next": 3, "root": root}))
    with pytest.raises(OtherLogShipped, match="of another log"):
        ship(log, receiver(directory, 1), state_file=state)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"log":"x/y/log","next":0,"root":"%s"}' % (b"0" * 64),
        b'{"log":"LOG","next":-1,"root":"%s"}' % (b"0" * 64),
        b'{"log":"LOG","next":3,"root":"%s"}' % (b"0" * 64),
        b'{"log":"LOG","next":99999,"root":"%s"}' % (b"0" * 64),
        b'{"log":"LOG","next":3,"root":"%s","more":1}' % (b"0" * 64),
    ],
)
def test_a_state_of_another_history_is_refused(
    directory: Path, log: SignedLog, content: bytes
) -> None:
    state = directory / "state.json"
    content = content.replace(b"LOG", log.origin.encode())
    state.write_bytes(content)
    with pytest.raises(OtherLogShipped):
        ship(log, receiver(directory, 1), state_file=state)
    assert state.read_bytes() == content


def test_options_that_cannot_be_used(directory: Path, log: SignedLog) -> None:
    port = 1
    with pytest.raises(ShippingOptions, match="--certificate and --key together"):
        ship(log, Receiver("127.0.0.1", port, directory / "ca.pem", directory / "client.pem"))
    for ca in ("nowhere.pem", "client.key"):
        with pytest.raises(ShippingOptions, match="--ca"):
            ship(log, receiver(directory, port, ca))
    with pytest.raises(ShippingOptions, match="smaller --from"):
        ship(log, receiver(directory, port), start=log.size + 1)
    state = directory / "state.json"
    state.write_bytes(b"{}")
    with pytest.raises(ShippingOptions, match="leave --from out"):
        ship(log, receiver(directory, port), start=0, state_file=state)


def test_the_events_are_those_of_the_log(federation: Federation, log: SignedLog) -> None:
    assert log.charter.digest == federation.charter.digest
    assert log.warning is not None
    assert digest(log.leaves[0]) != next(log.events()).leaf
