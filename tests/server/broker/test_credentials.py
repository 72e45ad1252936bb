"""The credential: read from owner-only files, sent to the model, shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.broker import BrokerProcess, BrokerWorld, Exchange, inference_response

from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.credentials import Credential, CredentialRefused, read_credential

WHO = Identity("testfed", Role.HOSPITAL, "small-1")
TOKEN = "sk-very-secret-0123456789"  # noqa: S105


def write(path: Path, data: bytes = TOKEN.encode() + b"\n", mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_file_of_the_owner_alone_is_read(tmp_path: Path) -> None:
    credential = read_credential(write(tmp_path / "token"), None)
    assert credential is not None
    assert credential.authorization() == f"Bearer {TOKEN}"
    assert TOKEN not in repr(credential)
    assert read_credential(None, None) is None


def test_a_systemd_credential_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for mode in (0o400, 0o440):  # the second with an ACL, as units with User= get it
        write(tmp_path / f"token-{mode}", mode=mode)
        credential = read_credential(None, f"token-{mode}")
        assert credential is not None
        assert credential.authorization() == f"Bearer {TOKEN}"
    write(tmp_path / "open", mode=0o444)
    with pytest.raises(CredentialRefused, match="chmod 600"):
        read_credential(None, "open")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(CredentialRefused, match="chmod 600"):
        read_credential(write(tmp_path / "token", mode=mode), None)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"two words", f"{TOKEN}\nX: y".encode(), b"\xff\xfe", b"x" * 5000, b"tab\there"],
)
def test_anything_but_one_token_is_refused_and_not_shown(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CredentialRefused, match="one token") as caught:
        read_credential(write(tmp_path / "token", data), None)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None


def test_absent_files_devices_and_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "absent", tmp_path / "pipe", tmp_path):
        with pytest.raises(CredentialRefused):
            read_credential(path, None)
    write(tmp_path / "token")
    with pytest.raises(CredentialRefused, match="not both"):
        read_credential(tmp_path / "token", "token")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(CredentialRefused, match="LoadCredential"):
        read_credential(None, "token")
    (tmp_path / "inner").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "inner"))
    for name in ("../token", "..", ".", "", "a/b"):
        with pytest.raises(CredentialRefused):
            read_credential(None, name)


@pytest.mark.parametrize("status", [200, 401])
def test_it_reaches_the_model_and_no_log_journal_or_command_line(
    world: BrokerWorld, tmp_path: Path, status: int
) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.reply(inference_response(), status=status, headers={"X-Echo": TOKEN})

    world.server.act = answer
    options = ("--credential-file", str(write(tmp_path / "token")))
    with BrokerProcess(world, tmp_path, options=options) as broker:
        command = Path(f"/proc/{broker.process.pid}/cmdline").read_bytes()
        if status == 200:
            world.fetch(broker.address)
        else:
            with pytest.raises(PeerRefused, match="status-401") as caught:
                world.fetch(broker.address)
            assert TOKEN not in str(caught.value)
    [request] = world.server.requests
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN.encode() not in command
    written = [broker.log, *(path for path in (tmp_path / "broker").rglob("*") if path.is_file())]
    assert len(written) > 5
    for path in written:
        assert TOKEN.encode() not in path.read_bytes(), path


def test_it_goes_to_no_other_server(world: BrokerWorld) -> None:
    provider = world.provider(world.rules(pin="sha256:" + "0" * 64), credential=Credential(TOKEN))
    with pytest.raises(Exception, match="--pin"):
        provider.connect()
    assert world.server.requests == []
