"""Revocation at the registrar: what it changes, what it refuses, and its commands."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.deployment import wait_until
from support.federation import FEDERATION, Federation, join, make_federation
from support.trust_lists import changed, held, issued
from typer.testing import CliRunner

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.commands import app as keys_app
from fedhelp_keys.registrar.registry import Registry, enrol
from fedhelp_keys.registrar.trust import (
    RevocationRefused,
    issue_trust_list,
    keep_issued,
    revoke,
    set_maximum_age,
    standing,
)
from fedhelp_secure.enrolment.commands import app as enrol_app
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.errors import FedHelpError, MalformedMessage
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import Revoked, TrustStore
from fedhelp_secure.trust.trust_list import open_trust_list, sign_trust_list

NOW = utc_now()
SECOND = datetime.timedelta(seconds=1)
HOSPITAL = Identity(FEDERATION, Role.HOSPITAL, "small-1")
AUDITOR = Identity(FEDERATION, Role.AUDITOR, "auditor")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", FEDERATION, now=NOW)


def test_a_revocation_is_the_next_list(registrar: StateDirectory) -> None:
    later = NOW + 5 * SECOND
    trusted = revoke(registrar, HOSPITAL, reason=" left ", now=later)
    assert (trusted.sequence, trusted.issued_at) == (2, later)
    entry = trusted.revocation_of(HOSPITAL)
    assert entry is not None
    assert entry.reason == "left"
    assert TrustStore(registrar).current() == trusted
    # Again: the first reason and time stay.
    again = revoke(registrar, HOSPITAL, reason="other", now=later + SECOND)
    assert (again.sequence, again.revocations) == (2, trusted.revocations)
    assert revoke(registrar, AUDITOR, reason="left", now=later).sequence == 3


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (Identity(FEDERATION, Role.REGISTRAR, "registrar"), "left"),
        (Identity("other", Role.HOSPITAL, "small-1"), "left"),
        (HOSPITAL, ""),
        (HOSPITAL, "   "),
        (HOSPITAL, "x" * 201),
        (HOSPITAL, "two\nlines"),
        (HOSPITAL, "\x1b[2Jgone"),
        (HOSPITAL, "\u202egnorts"),
    ],
)
def test_what_cannot_be_revoked_changes_nothing(
    registrar: StateDirectory, identity: Identity, reason: str
) -> None:
    before = held(registrar)
    with pytest.raises(RevocationRefused):
        revoke(registrar, identity, reason=reason, now=NOW)
    assert held(registrar) == before


def test_revocations_at_the_same_time_are_all_kept(registrar: StateDirectory) -> None:
    names = [f"h-{number}" for number in range(12)]

    def one(name: str) -> None:
        identity = Identity(FEDERATION, Role.HOSPITAL, name)
        # A second state object, as another process has.
        revoke(StateDirectory.open(registrar.root), identity, reason="left", now=utc_now())
        issue_trust_list(registrar, now=utc_now())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, names))
    trusted = TrustStore(registrar).current()
    assert trusted.sequence == 13
    assert {entry.identity.rpartition("/")[2] for entry in trusted.revocations} == set(names)


def test_a_list_from_just_now_is_given_out_as_it_is(registrar: StateDirectory) -> None:
    first = issue_trust_list(registrar, now=NOW + 59 * SECOND)
    assert first == held(registrar)
    second = issue_trust_list(registrar, now=NOW + 60 * SECOND)
    assert second != first
    key = registrar.governance_key()
    assert open_trust_list(second, key).issued_at == NOW + 60 * SECOND
    set_maximum_age(registrar, 60, now=NOW + 60 * SECOND)
    third = issue_trust_list(registrar, now=NOW + 66 * SECOND)
    assert open_trust_list(third, key).issued_at == NOW + 66 * SECOND


def test_a_serving_registrar_does_not_let_its_own_list_grow_old(
    registrar: StateDirectory,
) -> None:
    trusted = TrustStore(registrar).current()
    old = changed(trusted, **issued(NOW - datetime.timedelta(days=2)))
    TrustStore(registrar).path.write_bytes(sign_trust_list(old, registrar.signing_key()))
    kept = Upkeep()
    keep_issued(registrar, kept)
    # Before anybody is served, and then again.
    assert TrustStore(registrar).current().expires_at > utc_now()
    TrustStore(registrar).path.write_bytes(sign_trust_list(old, registrar.signing_key()))
    with kept:
        wait_until(lambda: TrustStore(registrar).current().expires_at > utc_now())


@pytest.mark.parametrize("seconds", [0, 59, 30 * 24 * 3600 + 1])
def test_an_age_that_no_list_may_have_is_refused(
    registrar: StateDirectory, tmp_path: Path, seconds: int
) -> None:
    before = held(registrar)
    with pytest.raises(RevocationRefused, match="60 to 2592000 seconds"):
        set_maximum_age(registrar, seconds, now=NOW)
    assert held(registrar) == before
    with pytest.raises(RevocationRefused, match="60 to 2592000 seconds"):
        found_federation(tmp_path / "other", FEDERATION, now=NOW, trust_list_seconds=seconds)


def test_nobody_is_revoked_while_a_certificate_is_made(registrar: StateDirectory) -> None:
    with ThreadPoolExecutor(1) as pool:
        with standing(registrar, HOSPITAL):
            coming = pool.submit(revoke, registrar, HOSPITAL, reason="left", now=utc_now())
            with pytest.raises(TimeoutError):
                coming.result(0.3)
            assert TrustStore(registrar).current().sequence == 1
        assert coming.result(20).sequence == 2
    with pytest.raises(Revoked), standing(registrar, HOSPITAL):
        raise AssertionError("unreachable")


def test_a_revoked_party_is_not_enrolled_under_its_name(
    registrar: StateDirectory, tmp_path: Path
) -> None:
    state = join(registrar, tmp_path, HOSPITAL)
    revoke(registrar, HOSPITAL, reason="left", now=utc_now())
    members = Registry(registrar).members()
    new = StateDirectory.create(tmp_path / "new", HOSPITAL)
    for each in (state, new):
        with pytest.raises(Revoked):
            enrol(registrar, make_request(each), group="small", now=utc_now())
    assert Registry(registrar).members() == members
    join(registrar, tmp_path, Identity(FEDERATION, Role.HOSPITAL, "small-2"))


# The commands


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=2)


def run(app: Callable[..., object], *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result.output


def test_revoking_says_what_was_done_and_when_it_holds(
    federation: Federation, tmp_path: Path
) -> None:
    registrar = federation.state("registrar")
    state = ("--state", registrar.root)
    said = run(keys_app, "revoke", "small-1", "--reason", "stolen laptop", *state)
    for words in (
        "spiffe://testfed/hospital/small-1 is revoked; the trust list is number 2.",
        "cannot renew its certificate, join or be enrolled",
        "within 10 seconds",
        "admit nobody once theirs is 24 hours old",
        "make a new one without it",
    ):
        assert words in said
    assert "check the spelling" not in said
    again = run(keys_app, "revoke", "small-1", "--reason", "again", *state)
    assert "was revoked already" in again
    assert "stolen laptop" in again
    assert "Nothing was changed" in again
    listed = run(keys_app, "revocations", *state)
    for words in ("hospital small-1", "stolen laptop", "number 2", "24 hours"):
        assert words in listed
    unknown = run(keys_app, "revoke", "smal-1", "--role", "hospital", "--reason", "x", *state)
    assert "check the spelling" in unknown
    said = run(keys_app, "policy", "--trust-list-seconds", "90", *state)
    assert "90 seconds old; it is number 4" in said
    out = tmp_path / "list.json"
    assert "number 4" in run(keys_app, "trust", "--out", out, *state)
    hospital = federation.state("large-1")
    assert "number 4" in run(enrol_app, "trust", out, "--state", hospital.root)
    assert TrustStore(hospital).current() == TrustStore(registrar).current()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (["nobody"], RevocationRefused, "nobody called nobody is enrolled"),
        (["\x1b[2J"], RevocationRefused, "nobody called  \\[2J is enrolled"),
        (["../x", "--role", "hospital"], MalformedMessage, "a party's name"),
        (["registrar", "--role", "registrar"], RevocationRefused, "cannot revoke itself"),
        (["twice"], RevocationRefused, "several parties; give --role: hospital, auditor"),
    ],
)
def test_who_cannot_be_meant_is_not_revoked(
    federation: Federation,
    tmp_path: Path,
    arguments: list[str],
    error: type[FedHelpError],
    sentence: str,
) -> None:
    registrar = federation.state("registrar")
    if arguments == ["twice"]:
        for role in (Role.HOSPITAL, Role.AUDITOR):
            join(registrar, tmp_path, Identity(FEDERATION, role, "twice"))
    before = held(registrar)
    with pytest.raises(error, match=sentence):
        run(keys_app, "revoke", *arguments, "--reason", "x", "--state", registrar.root)
    assert held(registrar) == before
