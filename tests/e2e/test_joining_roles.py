"""Every role joins the same way: the line that the registrar prints, pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import check_own
from typer import Typer
from typer.testing import CliRunner

from fedhelp_client.commands import app as client
from fedhelp_keys.custodian.commands import app as custodian
from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_keys.registrar.commands import app as keys
from fedhelp_keys.registrar.joining import JoiningService
from fedhelp_keys.registrar.registry import Registry
from fedhelp_secure.enrolment.commands import app as enrol
from fedhelp_secure.enrolment.request import ContextMissing
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.commands import app as audit
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import (
    generate_tls_key,
    load_tls_key,
    own_tls_files,
    replace_tls_pair,
    utc_now,
)
from fedhelp_secure.transport.joining import start_join_server
from fedhelp_server.aggregator.commands import app as server
from fedhelp_server.broker.commands import app as broker

GROUPS: dict[str, Typer] = {
    "client": client,
    "server": server,
    "broker": broker,
    "custodian": custodian,
    "audit": audit,
    "keys": keys,
    "enrol": enrol,
}
ROLES = [
    ("hospital", "large"),
    ("hospital", "small"),
    ("aggregator", None),
    ("unmasker", None),
    ("broker", None),
    ("auditor", None),
]


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateDirectory]:
    state = found_federation(tmp_path_factory.mktemp("r") / "r", "testfed", now=utc_now())
    service = JoiningService(state)
    served = start_join_server(state, "127.0.0.1:0", register=service.register)
    run(f"fedhelp keys policy --state {state.root} --join-address {served.address}")
    yield state
    served.stop()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(line: str, text: str = "") -> str:
    """What the command ``line`` prints; raises what it raises."""
    _, group, *arguments = shlex.split(line)
    result = CliRunner().invoke(GROUPS[group], arguments, input=text)
    if result.exception is not None:
        raise result.exception
    return result.output


def invited(registrar: StateDirectory, name: str, role: str, group: str | None) -> str:
    chosen = "" if group is None else f"--group {group}"
    return run(f"fedhelp keys invite {name} --role {role} {chosen} --state {registrar.root}")


@pytest.mark.parametrize(("role", "group"), ROLES)
def test_a_pasted_line_enrols_a_party(
    registrar: StateDirectory, role: str, group: str | None
) -> None:
    name = f"{role}-{group or 'one'}"
    line = invited(registrar, name, role, group)
    assert f"{name} is enrolled" in run(line)
    state = StateDirectory.open(Path(name))
    assert (state.identity.role.value, state.identity.name) == (role, name)
    check_own(state, utc_now())
    assert state.governance_key() == registrar.governance_key()
    member = Registry(registrar).find(state.identity)
    assert member is not None
    assert member.group == group


def test_a_decryptor_prepares_its_keys_first(registrar: StateDirectory) -> None:
    line = invited(registrar, "a", "decryptor", None)
    with pytest.raises(ContextMissing, match="run 'fedhelp custodian prepare' first"):
        run(line)
    run("fedhelp custodian prepare --state a")
    assert "a is enrolled" in run(line)


def test_the_shortest_command_is_enough(registrar: StateDirectory) -> None:
    words = shlex.split(invited(registrar, "short", "hospital", "small"))
    token, root = words[words.index("--token") + 1], words[-1]
    run(f"fedhelp client enrol --token {token} --ca-fingerprint {root}")
    assert StateDirectory.open(Path("short")).identity.name == "short"


def test_a_party_that_is_invited_again_keeps_its_keys(registrar: StateDirectory) -> None:
    run(invited(registrar, "again", "hospital", "small"))
    state = StateDirectory.open(Path("again"))
    before, signing = own_tls_files(state), state.signing_key().public
    # As after a renewal: the request that the state keeps is for another TLS key.
    key = generate_tls_key()
    public = load_tls_key(key).public_key()
    issued = CertificateAuthority.open(registrar).issue(state.identity, public, now=utc_now())
    replace_tls_pair(state, key, issued)
    run(invited(registrar, "again", "hospital", "small"))
    after = own_tls_files(state)
    check_own(state, utc_now())
    assert (after.key, state.signing_key().public) == (key, signing)
    assert after.certificate not in (before.certificate, issued)


def test_a_token_may_come_from_a_file_or_from_standard_input(registrar: StateDirectory) -> None:
    for name, source in (("by-file", "token"), ("by-pipe", "-")):
        words = shlex.split(invited(registrar, name, "hospital", "small"))
        token, root = words[words.index("--token") + 1], words[-1]
        Path("token").write_text(f"{token}\n")
        run(
            f"fedhelp client enrol --token-file {source} --ca-fingerprint {root}",
            text=f"{token}\n",
        )
        assert StateDirectory.open(Path(name)).identity.name == name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "by --token or by --token-file"),
        ("--token x --token-file y", "by --token or by --token-file"),
        ("--token x", "not a whole join token"),
        ("--token-file absent", "absent cannot be read as a token"),
        ("--token fhj1.testfed.hospital.x.small." + "A" * 43, "give --registrar HOST:PORT"),
        ("--token fhj1.testfed.broker.x.-." + "A" * 43, "this token is for a party of role broker"),
    ],
)
def test_wrong_options_make_nothing(options: str, sentence: str) -> None:
    root = "sha256:" + "0" * 64
    with pytest.raises(FedHelpError, match=sentence):
        run(f"fedhelp client enrol {options} --ca-fingerprint {root}")
    assert list(Path().iterdir()) == []
