"""Attack: somebody else has the token too. It works once, for whoever comes first; both see it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.registrar import ServedRegistrar, running_registrar

from fedhelp_keys.registrar.registry import Registry
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role

REFUSED = "does not accept this invitation; ask its operator for a new one"


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


def enrolled_key(registrar: ServedRegistrar, name: str) -> str:
    member = Registry(registrar.state).find(Identity("testfed", Role.HOSPITAL, name))
    assert member is not None
    return member.signing_key


def test_a_token_that_was_used_is_worth_nothing(registrar: ServedRegistrar, tmp_path: Path) -> None:
    token = registrar.invite("small-1").text
    joined = registrar.enrol(token, tmp_path / "hospital")
    assert joined.returncode == 0, joined.stderr
    stolen = registrar.enrol(token, tmp_path / "thief")
    assert stolen.returncode == 1
    assert REFUSED in stolen.stderr
    assert not (tmp_path / "thief" / "tls" / "certificate.pem").exists()
    hospital = StateDirectory.open(tmp_path / "hospital")
    assert enrolled_key(registrar, "small-1") == hospital.signing_key().public.to_base64()
    assert "the token of hospital small-1 is used up" in registrar.log
    assert token.rpartition(".")[2] not in registrar.log
    # The hospital itself may run its command again, as if the answer had been lost.
    again = registrar.enrol(token, tmp_path / "hospital")
    assert again.returncode == 0, again.stderr


def test_of_two_at_once_one_is_enrolled_and_the_other_knows(
    registrar: ServedRegistrar, tmp_path: Path
) -> None:
    token = registrar.invite("small-2").text
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(registrar.enrol, token, tmp_path / name) for name in "ab"]
        done = {name: attempt.result() for name, attempt in zip("ab", tries, strict=True)}
    assert sorted(one.returncode for one in done.values()) == [0, 1]
    (loser,) = (name for name, one in done.items() if one.returncode)
    assert REFUSED in done[loser].stderr
    winner = StateDirectory.open(tmp_path / ("b" if loser == "a" else "a"))
    assert enrolled_key(registrar, "small-2") == winner.signing_key().public.to_base64()
    assert registrar.standing("small-2") == ["used"]
