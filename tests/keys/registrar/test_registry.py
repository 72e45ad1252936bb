from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

import pytest

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.registry import (
    EnrolmentRefused,
    Registry,
    RegistryUnreadable,
    enrol,
)
from fedhelp_secure.canonical import digest
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.request import KIND, make_request
from fedhelp_secure.errors import PeerError
from fedhelp_secure.signing import peek_document
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import generate_tls_key, utc_now
from fedhelp_secure.transport.identity import Identity, Role

Group = Literal["large", "small"]


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "registrar", "testfed", now=utc_now())


def _party(
    tmp_path: Path, role: Role = Role.HOSPITAL, name: str = "one", federation: str = "testfed"
) -> StateDirectory:
    root = tmp_path / f"{federation}-{role.value}-{name}-{len(list(tmp_path.iterdir()))}"
    return StateDirectory.create(root, Identity(federation, role, name))


def _enrol(registrar: StateDirectory, party: StateDirectory, group: Group | None) -> bytes:
    return enrol(registrar, make_request(party), group=group, now=utc_now())


def test_an_enrolled_party_is_in_the_registry(registrar: StateDirectory, tmp_path: Path) -> None:
    party = _party(tmp_path)
    _enrol(registrar, party, "large")
    (member,) = Registry(registrar).members()
    assert (member.role, member.name, member.group) == ("hospital", "one", "large")
    assert member.signing_key == party.signing_key().public.to_base64()
    assert member.sealing_key == party.unsealing_key().public.to_base64()
    assert Registry(registrar).find(party.identity) == member
    assert Registry(registrar).find(Identity("testfed", Role.AUDITOR, "one")) is None


def test_a_decryptors_context_is_in_the_registry(registrar: StateDirectory, tmp_path: Path) -> None:
    party = _party(tmp_path, Role.DECRYPTOR)
    (party.role_directory() / "context.public").write_bytes(b"context")
    _enrol(registrar, party, None)
    (member,) = Registry(registrar).with_role(Role.DECRYPTOR)
    assert member.context_digest == digest(b"context")
    # New CKKS keys are other keys: charters name the old ones.
    (party.role_directory() / "context.public").write_bytes(b"another")
    with pytest.raises(EnrolmentRefused, match="enrolled already"):
        _enrol(registrar, party, None)


def test_the_same_keys_may_come_again_with_a_new_tls_key(
    registrar: StateDirectory, tmp_path: Path
) -> None:
    party = _party(tmp_path)
    install_bundle(party, _enrol(registrar, party, "small"), now=utc_now())
    before = Registry(registrar).members()
    write_atomically(party.tls_key_path, generate_tls_key())
    install_bundle(party, _enrol(registrar, party, "small"), now=utc_now())
    assert Registry(registrar).members() == before


def test_a_name_is_not_given_twice(registrar: StateDirectory, tmp_path: Path) -> None:
    _enrol(registrar, _party(tmp_path), "large")
    before = Registry(registrar).members()
    with pytest.raises(EnrolmentRefused, match="enrolled already, with other keys"):
        _enrol(registrar, _party(tmp_path), "large")
    assert Registry(registrar).members() == before
    # The same name under another role is another party.
    _enrol(registrar, _party(tmp_path, Role.AUDITOR), None)


def test_a_hospital_does_not_change_its_group(registrar: StateDirectory, tmp_path: Path) -> None:
    party = _party(tmp_path)
    _enrol(registrar, party, "large")
    with pytest.raises(EnrolmentRefused, match="in another group"):
        _enrol(registrar, party, "small")


@pytest.mark.parametrize("secret", ["signing.pem", "sealing.bin"])
def test_two_parties_do_not_share_a_key(
    registrar: StateDirectory, tmp_path: Path, secret: str
) -> None:
    first, second = _party(tmp_path), _party(tmp_path, name="two")
    _enrol(registrar, first, "large")
    write_atomically(second.root / "keys" / secret, (first.root / "keys" / secret).read_bytes())
    with pytest.raises(EnrolmentRefused, match="every party must make its own"):
        _enrol(registrar, second, "large")


@pytest.mark.parametrize(
    ("role", "federation", "group", "sentence"),
    [
        (Role.HOSPITAL, "testfed", None, "--group large or --group small"),
        (Role.AUDITOR, "testfed", "large", "no group for another role"),
        (Role.AUDITOR, "otherfed", None, "for another federation"),
        (Role.REGISTRAR, "testfed", None, "has one registrar"),
    ],
)
def test_what_is_not_admissible_changes_nothing(
    registrar: StateDirectory,
    tmp_path: Path,
    role: Role,
    federation: str,
    group: Group | None,
    sentence: str,
) -> None:
    with pytest.raises(EnrolmentRefused, match=sentence):
        _enrol(registrar, _party(tmp_path, role, federation=federation), group)
    assert Registry(registrar).members() == ()


def test_an_unproven_request_changes_nothing(registrar: StateDirectory, tmp_path: Path) -> None:
    first, second = _party(tmp_path), _party(tmp_path, name="two")
    document = peek_document(KIND, make_request(first))
    forged = second.signing_key().sign_document(KIND, document)
    with pytest.raises(PeerError):
        enrol(registrar, forged, group="large", now=utc_now())
    assert Registry(registrar).members() == ()


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version":1,"members":[{}]}', b"\xff"])
def test_a_damaged_registry_is_named_and_not_overwritten(
    registrar: StateDirectory, tmp_path: Path, data: bytes
) -> None:
    path = registrar.role_directory() / "registry.json"
    path.write_bytes(data)
    with pytest.raises(RegistryUnreadable, match="restore it from your backup"):
        _enrol(registrar, _party(tmp_path), "large")
    assert path.read_bytes() == data


def test_writers_wait_for_one_another_and_lose_no_member(
    registrar: StateDirectory, tmp_path: Path
) -> None:
    requests = [make_request(_party(tmp_path, name=f"h{number}")) for number in range(3)]
    with ThreadPoolExecutor(3) as pool:
        # As another process would hold it: flock is between open files.
        with (registrar.role_directory() / "registry.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            running = [
                pool.submit(enrol, registrar, request, group="small", now=utc_now())
                for request in requests
            ]
            assert wait(running, timeout=0.5).done == set()
        for future in running:
            assert future.result(timeout=10)
    assert len(Registry(registrar).members()) == 3
