"""Attack: the holder of a token for one party wants to be another: its group, name or role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.registrar import ServedRegistrar, running_registrar

from fedhelp_keys.registrar.invitations import Invitations
from fedhelp_keys.registrar.registry import Registry
from fedhelp_secure.enrolment.joining import fetch_root, join
from fedhelp_secure.enrolment.token import JoinToken
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


@pytest.fixture
def token(registrar: ServedRegistrar) -> str:
    """Of a hospital of this test's own, in the small group."""
    return registrar.invite(f"small-{len(Invitations(registrar.state).all()) + 1}").text


def test_a_rewritten_group_is_another_token(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    before = Registry(registrar.state).members()
    done = registrar.enrol(token.replace(".small.", ".large."), tmp_path / "state")
    assert done.returncode == 1
    assert "does not accept this invitation" in done.stderr
    assert "the token is unknown" in registrar.log
    assert Registry(registrar.state).members() == before


@pytest.mark.parametrize(
    ("identity", "cause"),
    [
        (Identity("testfed", Role.HOSPITAL, "large-1"), "came with the request of"),
        (Identity("testfed", Role.AGGREGATOR, "small-1"), "came with the request of"),
        (Identity("testfed", Role.AUDITOR, "small-1"), "came with the request of"),
        (Identity("testfed", Role.REGISTRAR, "registrar"), "came with the request of"),
    ],
)
def test_a_client_that_does_not_check_is_refused_by_the_registrar(
    registrar: ServedRegistrar, token: str, tmp_path: Path, identity: Identity, cause: str
) -> None:
    before = Registry(registrar.state).members()
    state = StateDirectory.create(tmp_path / "state", identity)
    root = fetch_root(registrar.join_address, registrar.fingerprint)
    with pytest.raises(PeerRefused) as refused:
        join(state, JoinToken.parse(token), registrar.join_address, root)
    assert refused.value.code == "join"
    assert f"{cause} {identity.uri}" in registrar.log
    assert Registry(registrar.state).members() == before


def test_another_roles_command_does_not_take_it(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    done = registrar.enrol(token, tmp_path / "state", group="server")
    assert done.returncode == 1
    assert "this token is for a party of role hospital" in done.stderr
    assert not (tmp_path / "state").exists()


def test_another_partys_state_does_not_take_it(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    StateDirectory.create(tmp_path / "state", Identity("testfed", Role.HOSPITAL, "large-9"))
    done = registrar.enrol(token, tmp_path / "state")
    assert done.returncode == 1
    assert "choose another --state directory" in done.stderr


def test_after_all_that_a_token_is_still_good_for_its_party_and_group(
    registrar: ServedRegistrar, token: str, tmp_path: Path
) -> None:
    before = Registry(registrar.state).members()
    other = Identity("testfed", Role.HOSPITAL, "large-1")
    state = StateDirectory.create(tmp_path / "other", other)
    root = fetch_root(registrar.join_address, registrar.fingerprint)
    with pytest.raises(PeerRefused):
        join(state, JoinToken.parse(token), registrar.join_address, root)
    done = registrar.enrol(token, tmp_path / "state")
    assert done.returncode == 0, done.stderr
    (*others, member) = Registry(registrar.state).members()
    assert tuple(others) == before
    assert (member.name, member.group) == (JoinToken.parse(token).identity.name, "small")
