"""Whoever answers for the registrar cannot make a running party forget a revocation."""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.deployment import Deployment, code_at, deployed, run, wait_until
from support.trust_lists import (
    LyingRegistrar,
    changed,
    held,
    issued,
    lying_registrar,
    revocation,
    signed,
)

from fedhelp_keys.registrar.registry import enrol
from fedhelp_keys.registrar.trust import revoke
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import PeerError
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.trust.refresh import refresh_trust_list
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import sign_trust_list

UNMASK = "/fedhelp_secure.wire.v1.Unmasker/UnmaskSum"
HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def lie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, LyingRegistrar]]:
    """An unmasker that has heard of small-2's revocation, and then hears the liar only.

    The registrar has issued, before the revocation, what an attacker may have kept.
    """
    directory = tmp_path_factory.mktemp("deployment")
    with deployed(directory, servers=[]) as deployment:
        before = held(deployment.registrar)
        (directory / "old-bundle.json").write_bytes(
            enrol(
                deployment.registrar,
                make_request(deployment.federation.state(Role.UNMASKER)),
                group=None,
                now=utc_now(),
            )
        )
        (directory / "old-list.json").write_bytes(before)
        small = deployment.federation.state("small-2").identity
        revoke(deployment.registrar, small, reason="stolen laptop", now=utc_now())
        with lying_registrar(deployment.registrar, listen="127.0.0.1:0") as liar:
            deployment.addresses[Role.REGISTRAR] = liar.address
            deployment.serve(Role.UNMASKER, "custodian", "serve")
            wait_until(lambda: code(deployment) == "revoked")
            yield deployment, liar


def code(deployment: Deployment) -> str:
    return code_at(deployment, deployment.federation.state("small-2"), UNMASK)


def older(registrar: StateDirectory, old: bytes) -> bytes:
    return old


def same_number_without_the_revocation(registrar: StateDirectory, old: bytes) -> bytes:
    return signed(registrar, revocations=(), **issued(utc_now()))


def same_number_for_longer(registrar: StateDirectory, old: bytes) -> bytes:
    return signed(registrar, maximum_age_seconds=30 * 24 * 3600, **issued(utc_now()))


def same_list_from_before(registrar: StateDirectory, old: bytes) -> bytes:
    return signed(registrar, **issued(utc_now() - HOUR))


def signed_by_another_key(registrar: StateDirectory, old: bytes) -> bytes:
    forged = changed(TrustStore(registrar).current(), sequence=9, revocations=())
    return sign_trust_list(forged, SigningKey.generate())


def from_the_future(registrar: StateDirectory, old: bytes) -> bytes:
    return signed(registrar, sequence=9, revocations=(), **issued(utc_now() + HOUR))


def no_list(registrar: StateDirectory, old: bytes) -> bytes:
    return b"{}"


LIES = [
    (older, "is older than the one held here"),
    (same_number_without_the_revocation, "contradicts it"),
    (same_number_for_longer, "contradicts it"),
    (same_list_from_before, "is older than the one held here"),
    (signed_by_another_key, "is not signed by the key"),
    (from_the_future, "issued later than this machine's clock"),
    (no_list, "envelope"),
]


@pytest.mark.parametrize(("make", "sentence"), LIES)
def test_a_list_that_takes_a_revocation_back_is_refused(
    lie: tuple[Deployment, LyingRegistrar],
    tmp_path: Path,
    make: Callable[[StateDirectory, bytes], bytes],
    sentence: str,
) -> None:
    deployment, liar = lie
    hospital = deployment.federation.state("large-1")
    TrustStore(hospital).install(held(deployment.registrar), now=utc_now())
    before = held(hospital)
    lied = make(deployment.registrar, (deployment.directory / "old-list.json").read_bytes())
    liar.answer = lied
    # What every party does every few seconds, and what an operator does with a file.
    with pytest.raises(PeerError, match=sentence):
        refresh_trust_list(hospital, liar.address)
    file = tmp_path / "list.json"
    file.write_bytes(lied)
    done = run("enrol", "trust", str(file), "--state", str(hospital.root))
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)
    assert held(hospital) == before


def test_a_running_party_keeps_to_what_it_knows(lie: tuple[Deployment, LyingRegistrar]) -> None:
    deployment, liar = lie
    before = held(deployment.federation.state(Role.UNMASKER))
    liar.answer = (deployment.directory / "old-list.json").read_bytes()
    wait_until(lambda: "is older than the one held here" in deployment.log(Role.UNMASKER))
    assert code(deployment) == "revoked"
    assert held(deployment.federation.state(Role.UNMASKER)) == before


def test_an_old_bundle_is_refused(lie: tuple[Deployment, LyingRegistrar]) -> None:
    deployment, _ = lie
    unmasker = deployment.federation.state(Role.UNMASKER)
    files = [held(unmasker), unmasker.tls_certificate_path.read_bytes()]
    bundle = deployment.directory / "old-bundle.json"
    done = run("enrol", "install", str(bundle), "--state", str(unmasker.root))
    assert done.returncode == 1
    assert "is older than the one held here" in done.stderr
    assert files == [held(unmasker), unmasker.tls_certificate_path.read_bytes()]


def test_an_older_file_in_its_place_changes_nothing_while_the_party_runs(
    lie: tuple[Deployment, LyingRegistrar], tmp_path: Path
) -> None:
    deployment, liar = lie
    path = deployment.federation.state(Role.UNMASKER).root / "trust" / "trust-list.json"
    shutil.copy(path, tmp_path / "kept.json")
    liar.answer = (deployment.directory / "old-list.json").read_bytes()
    shutil.copy(deployment.directory / "old-list.json", path)
    wait_until(lambda: "is not taken (trust-list-rollback)" in deployment.log(Role.UNMASKER))
    assert code(deployment) == "revoked"
    shutil.copy(tmp_path / "kept.json", path)


def test_a_newer_list_is_taken(lie: tuple[Deployment, LyingRegistrar]) -> None:
    """The tests above would pass with a party that takes nothing at all."""
    deployment, liar = lie
    other = deployment.federation.state("small-1")
    known = TrustStore(deployment.registrar).current().revocations
    revocations = (*(entry.model_dump() for entry in known), revocation(other.identity))
    assert code_at(deployment, other, UNMASK) == "access"
    liar.answer = signed(deployment.registrar, sequence=9, revocations=revocations)
    wait_until(lambda: code_at(deployment, other, UNMASK) == "revoked")
    # Still, whatever test comes next.
    assert code(deployment) == "revoked"
