"""Attack: somebody else answers at the registrar's join port. The token never leaves.

Each impostor here would read the token if it were sent: it ends TLS itself and keeps what comes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import authorities_pem
from support.registrar import ServedRegistrar, running_registrar
from support.tls_relay import tls_relay

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.registry import Registry
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Role


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


@pytest.fixture(scope="module")
def token(registrar: ServedRegistrar) -> str:
    return registrar.invite("small-1").text


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> StateDirectory:
    """A registrar that calls itself the same, with a root of its own."""
    return found_federation(tmp_path_factory.mktemp("impostor") / "r", "testfed", now=utc_now())


def chain(tmp_path: Path, leaf: Path, *roots: StateDirectory) -> Path:
    path = tmp_path / "chain.pem"
    path.write_bytes(leaf.read_bytes() + b"".join(authorities_pem(root) for root in roots))
    return path


def test_an_impostor_with_another_root_gets_a_handshake_and_nothing_else(
    registrar: ServedRegistrar, token: str, impostor: StateDirectory, tmp_path: Path
) -> None:
    shown = chain(tmp_path, impostor.tls_certificate_path, impostor)
    with tls_relay(shown, impostor.tls_key_path, None) as capture:
        done = registrar.enrol(token, tmp_path / "state", address=capture.address)
    assert done.returncode == 1
    assert "the token was not sent" in done.stderr
    assert capture.connections == 1
    assert capture.everything().strip(b"\x00") == b""
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("passed", [0, 1])
def test_a_man_in_the_middle_who_shows_the_right_root_gets_no_token(
    registrar: ServedRegistrar, token: str, impostor: StateDirectory, tmp_path: Path, passed: int
) -> None:
    # Its chain ends in the real root, which anybody can see; or it lets the first connection
    # through to the real registrar, and takes the second for itself.
    shown = chain(tmp_path, impostor.tls_certificate_path, impostor, registrar.state)
    with tls_relay(shown, impostor.tls_key_path, registrar.join_address) as capture:
        capture.hijack_from = passed
        done = registrar.enrol(token, tmp_path / "state", address=capture.address)
    assert done.returncode == 1
    assert "no valid certificate of this federation" in done.stderr
    assert capture.connections >= 2
    assert capture.failures
    assert token.rpartition(".")[2].encode() not in capture.everything()
    assert not (tmp_path / "state" / "tls" / "certificate.pem").exists()


def test_another_enrolled_party_is_no_registrar(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    # It has a certificate of the right root, for its own name.
    insider = registrar.invite("broker", Role.BROKER).text
    joined = registrar.enrol(insider, tmp_path / "broker", group="broker")
    assert joined.returncode == 0, joined.stderr
    state = StateDirectory.open(tmp_path / "broker")
    shown = chain(tmp_path, state.tls_certificate_path, state)
    with tls_relay(shown, state.tls_key_path, registrar.join_address) as capture:
        done = registrar.enrol(token, tmp_path / "state", address=capture.address)
    assert done.returncode == 1
    assert "no valid certificate of this federation" in done.stderr
    assert token.rpartition(".")[2].encode() not in capture.everything()


def test_no_token_goes_out_in_plaintext(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            client, _ = listener.accept()
            with client:
                heard.extend(client.recv(65536))
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=listen)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = registrar.enrol(token, tmp_path / "state", address=address)
        thread.join()
    assert done.returncode == 1
    assert "does not speak TLS there" in done.stderr
    assert heard.startswith(b"\x16\x03")
    assert b"fhj1" not in heard


def test_the_registrar_with_its_own_key_would_have_seen_it(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    # So that the tests above can fail: the same relay, with the one key that may end TLS here.
    before = [member.name for member in Registry(registrar.state).members()]
    shown = chain(tmp_path, registrar.state.tls_certificate_path, registrar.state)
    with tls_relay(shown, registrar.state.tls_key_path, registrar.join_address) as capture:
        done = registrar.enrol(token, tmp_path / "state", address=capture.address)
    assert done.returncode == 0, done.stderr
    assert token.rpartition(".")[2].encode() in capture.everything()
    members = [member.name for member in Registry(registrar.state).members()]
    assert members == [*before, "small-1"]
