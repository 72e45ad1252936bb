"""Invitations: single use, expiry, binding; between threads and processes, and across a crash."""

from __future__ import annotations

import datetime
import multiprocessing
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedhelp_keys.registrar import joining
from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.commands import app
from fedhelp_keys.registrar.invitations import (
    InvitationRefused,
    Invitations,
    InvitationsUnreadable,
    TokenRefused,
    invited_identity,
)
from fedhelp_keys.registrar.joining import redeem
from fedhelp_keys.registrar.registry import EnrolmentRefused, Registry, enrol
from fedhelp_secure.charter import Group
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.enrolment.token import JoinToken
from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

NOW = utc_now()
DAY = datetime.timedelta(days=1)
SECOND = datetime.timedelta(seconds=1)
HOSPITAL = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", "testfed", now=NOW)


@pytest.fixture
def hospital(tmp_path: Path) -> StateDirectory:
    return StateDirectory.create(tmp_path / "small-1", HOSPITAL)


def invited(registrar: StateDirectory, *, group: Group | None = "small") -> str:
    return Invitations(registrar).invite(HOSPITAL, group, now=NOW, valid=DAY).text


def test_a_token_enrols_whom_it_is_for_in_its_group(
    registrar: StateDirectory, hospital: StateDirectory
) -> None:
    token = invited(registrar)
    bundle = redeem(registrar, token, make_request(hospital), now=NOW)
    install_bundle(hospital, bundle, now=NOW)
    member = Registry(registrar).find(HOSPITAL)
    assert member is not None
    assert member.group == "small"
    assert [entry.standing(NOW) for entry in Invitations(registrar).all()] == ["used"]


def test_the_file_holds_no_token_and_is_the_owners_alone(registrar: StateDirectory) -> None:
    secret = invited(registrar).rpartition(".")[2]
    for path in registrar.root.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_the_same_request_is_answered_again_and_no_other(
    registrar: StateDirectory, hospital: StateDirectory, tmp_path: Path
) -> None:
    token, request = invited(registrar), make_request(hospital)
    redeem(registrar, token, request, now=NOW)
    install_bundle(hospital, redeem(registrar, token, request, now=NOW + SECOND), now=NOW)
    other = StateDirectory.create(tmp_path / "other", HOSPITAL)
    # Not even another request of the same party's: one request uses a token up.
    for late in (make_request(hospital), make_request(other)):
        with pytest.raises(TokenRefused, match="is used up"):
            redeem(registrar, token, late, now=NOW + SECOND)


def test_a_crash_after_the_token_was_used_strands_nobody(
    registrar: StateDirectory, hospital: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def crash(*_: object, **__: object) -> bytes:
        raise Killed

    token, request = invited(registrar), make_request(hospital)
    with monkeypatch.context() as patched:
        patched.setattr(joining, "enrol", crash)
        with pytest.raises(Killed):
            redeem(registrar, token, request, now=NOW)
    assert [entry.status for entry in Invitations(registrar).all()] == ["used"]
    assert Registry(registrar).members() == ()
    install_bundle(hospital, redeem(registrar, token, request, now=NOW), now=NOW)


def withdraw(registrar: StateDirectory) -> None:
    Invitations(registrar).withdraw(HOSPITAL, now=NOW)


def let_be(_: StateDirectory) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "alter", "late", "cause"),
    [
        (let_be, lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"), 0, "unknown"),
        (let_be, lambda token: token.replace(".small.", ".large."), 0, "unknown"),
        (let_be, lambda token: token.replace("small-1", "small-2"), 0, "unknown"),
        (let_be, lambda token: token + "@host:1", 0, "unknown"),
        (let_be, lambda token: token + "x" * 1000, 0, "unknown"),
        (let_be, lambda _: "", 0, "unknown"),
        (let_be, lambda _: "\N{SNOWMAN}", 0, "unknown"),
        (let_be, lambda token: token, 24 * 3600 + 1, "expired at"),
        (withdraw, lambda token: token, 0, "was withdrawn"),
    ],
)
def test_a_token_that_is_not_good_enrols_nobody(
    registrar: StateDirectory,
    hospital: StateDirectory,
    change: Callable[[StateDirectory], None],
    alter: Callable[[str], str],
    late: int,
    cause: str,
) -> None:
    token = alter(invited(registrar))
    change(registrar)
    with pytest.raises(TokenRefused, match=cause):
        redeem(registrar, token, make_request(hospital), now=NOW + late * SECOND)
    assert Registry(registrar).members() == ()
    assert "used" not in [entry.status for entry in Invitations(registrar).all()]


def test_a_token_is_good_to_its_last_second(
    registrar: StateDirectory, hospital: StateDirectory
) -> None:
    redeem(registrar, invited(registrar), make_request(hospital), now=NOW + DAY)


@pytest.mark.parametrize(
    "identity",
    [
        Identity("testfed", Role.HOSPITAL, "small-2"),
        Identity("testfed", Role.AGGREGATOR, "small-1"),
    ],
)
def test_a_token_is_for_one_party(
    registrar: StateDirectory, tmp_path: Path, identity: Identity
) -> None:
    other = StateDirectory.create(tmp_path / "other", identity)
    token = invited(registrar)
    with pytest.raises(TokenRefused, match="came with the request of"):
        redeem(registrar, token, make_request(other), now=NOW)
    assert [entry.status for entry in Invitations(registrar).all()] == ["open"]


def test_a_request_that_cannot_be_enrolled_does_not_use_the_token_up(
    registrar: StateDirectory, hospital: StateDirectory, tmp_path: Path
) -> None:
    elder = StateDirectory.create(tmp_path / "elder", HOSPITAL)
    enrol(registrar, make_request(elder), group="small", now=NOW)
    token = invited(registrar)
    with pytest.raises(EnrolmentRefused, match="enrolled already, with other keys"):
        redeem(registrar, token, make_request(hospital), now=NOW)
    with pytest.raises(MalformedMessage):
        redeem(registrar, token, b"no request", now=NOW)
    # The party with the keys that are known gets a new certificate.
    redeem(registrar, token, make_request(elder), now=NOW)


def _race(arguments: tuple[Path, str, bytes]) -> str:
    root, token, request = arguments
    try:
        redeem(StateDirectory.open(root), token, request, now=NOW)
    except TokenRefused:
        return "refused"
    return "enrolled"


def test_of_many_processes_and_threads_one_uses_the_token(
    registrar: StateDirectory, tmp_path: Path
) -> None:
    token = invited(registrar)
    states = [StateDirectory.create(tmp_path / str(number), HOSPITAL) for number in range(8)]
    tries = [(registrar.root, token, make_request(state)) for state in states]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as processes, ThreadPoolExecutor(4) as threads:
        elsewhere = processes.map_async(_race, tries[:4])
        outcomes = [*threads.map(_race, tries[4:]), *elsewhere.get(timeout=60)]
    assert sorted(outcomes) == ["enrolled"] + ["refused"] * 7
    assert len(Registry(registrar).members()) == 1


def test_a_party_has_one_open_invitation(registrar: StateDirectory) -> None:
    invited(registrar)
    with pytest.raises(InvitationRefused, match="withdraw it"):
        invited(registrar)
    withdraw(registrar)
    with pytest.raises(InvitationRefused, match="no open invitation"):
        withdraw(registrar)
    invited(registrar)
    later = NOW + 2 * DAY
    Invitations(registrar).invite(HOSPITAL, "small", now=later, valid=DAY)
    standings = [entry.standing(later) for entry in Invitations(registrar).all()]
    assert standings == ["withdrawn", "expired", "open"]


@pytest.mark.parametrize(
    ("role", "group"),
    [(Role.HOSPITAL, None), (Role.BROKER, "small"), (Role.REGISTRAR, None)],
)
def test_role_and_group_must_go_together(role: Role, group: Group | None) -> None:
    with pytest.raises(InvitationRefused):
        invited_identity("testfed", role, "x", group)


def test_a_damaged_file_lets_nobody_join(
    registrar: StateDirectory, hospital: StateDirectory
) -> None:
    token = invited(registrar)
    (registrar.role_directory() / "invitations.json").write_bytes(b"{}")
    with pytest.raises(InvitationsUnreadable, match="is damaged"):
        redeem(registrar, token, make_request(hospital), now=NOW)


def _command(registrar: StateDirectory, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--state", str(registrar.root)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_commands_invite_list_and_withdraw(registrar: StateDirectory) -> None:
    with pytest.raises(InvitationRefused, match="--join-address"):
        _command(registrar, "invite", "small-1", "--group", "small")
    _command(registrar, "policy", "--join-address", "registrar.example:7444")
    line = _command(registrar, "invite", "small-1", "--group", "small")
    assert line.count("\n") == 1
    words = line.split()
    assert words[:5] == ["fedhelp", "client", "enrol", "--state", "small-1"]
    token = JoinToken.parse(words[words.index("--token") + 1])
    assert (token.identity, token.group) == (HOSPITAL, "small")
    assert token.address == "registrar.example:7444"
    assert words[-2] == "--ca-fingerprint"
    custodian = _command(registrar, "invite", "b", "--role", "unmasker")
    assert custodian.startswith("fedhelp custodian enrol --state b ")
    _command(registrar, "withdraw", "b", "--role", "unmasker")
    listed = _command(registrar, "invitations")
    assert "open" in listed
    assert "withdrawn" in listed
    assert token.text.rpartition(".")[2] not in listed


def test_who_is_enrolled_in_another_group_is_not_invited(
    registrar: StateDirectory, hospital: StateDirectory
) -> None:
    enrol(registrar, make_request(hospital), group="large", now=NOW)
    with pytest.raises(FedHelpError, match="enrolled in group large"):
        _command(registrar, "invite", "small-1", "--group", "small", "--join-address", "h:1")
