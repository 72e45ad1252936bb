"""Attack: a token that was found late, or that its maker has withdrawn."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.registrar import ServedRegistrar, fedhelp, running_registrar

from fedhelp_keys.registrar.invitations import Invitations
from fedhelp_keys.registrar.registry import Registry
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

REFUSED = "does not accept this invitation; ask its operator for a new one"


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


def test_an_expired_token_enrols_nobody(registrar: ServedRegistrar, tmp_path: Path) -> None:
    # By hand, into the running registrar's file: the command's shortest time is an hour.
    identity = Identity("testfed", Role.HOSPITAL, "late")
    second = datetime.timedelta(seconds=1)
    token = Invitations(registrar.state).invite(identity, "small", now=utc_now(), valid=second)
    while registrar.standing("late") != ["expired"]:
        time.sleep(0.1)
    done = registrar.enrol(token.text, tmp_path / "state")
    assert done.returncode == 1
    assert REFUSED in done.stderr
    assert "the token of hospital late expired at" in registrar.log
    assert Registry(registrar.state).members() == ()


def test_a_withdrawn_token_enrols_nobody(registrar: ServedRegistrar, tmp_path: Path) -> None:
    token = registrar.invite("gone").text
    withdrawn = fedhelp("keys", "withdraw", "gone", "--state", str(registrar.state.root))
    assert withdrawn.returncode == 0, withdrawn.stderr
    done = registrar.enrol(token, tmp_path / "state")
    assert done.returncode == 1
    assert REFUSED in done.stderr
    assert "the token of hospital gone was withdrawn" in registrar.log
    assert Registry(registrar.state).members() == ()
