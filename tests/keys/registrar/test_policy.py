from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from fedhelp_keys.registrar.ca import CertificateAuthority, found_federation
from fedhelp_keys.registrar.commands import app
from fedhelp_keys.registrar.policy import PolicyRefused, RegistrarPolicy, load_policy
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.address import AddressMalformed
from fedhelp_secure.transport.certificates import load_certificate, utc_now
from fedhelp_secure.transport.identity import Identity, Role

NOW = utc_now()
HOSPITAL = Identity("testfed", Role.HOSPITAL, "large-1")


@pytest.fixture
def registrar(tmp_path: Path) -> StateDirectory:
    return found_federation(tmp_path / "r", "testfed", now=NOW)


def _life(authority: CertificateAuthority) -> datetime.timedelta:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = load_certificate(authority.issue(HOSPITAL, key, now=NOW))
    return issued.not_valid_after_utc - NOW


def _run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_changed_lifetime_counts_from_the_next_certificate_on(registrar: StateDirectory) -> None:
    authority = CertificateAuthority.open(registrar)
    assert _life(authority) == datetime.timedelta(days=30)
    shown = _run("policy", "--state", registrar.root, "--certificate-hours", "24")
    assert "24 hours" in shown
    assert _life(authority) == datetime.timedelta(hours=24)
    assert "24 hours" in _run("policy", "--state", registrar.root)


def test_a_federation_is_founded_with_its_lifetime(tmp_path: Path) -> None:
    _run("init", "--state", tmp_path / "r", "--federation", "f", *("--certificate-hours", "25"))
    state = StateDirectory.open(tmp_path / "r")
    own = load_certificate(state.tls_certificate_path.read_bytes())
    life = own.not_valid_after_utc - own.not_valid_before_utc
    assert life == datetime.timedelta(hours=25, minutes=5)


@pytest.mark.parametrize("hours", ["0", "1", "23", "721", "100000"])
def test_other_lifetimes_are_refused_and_nothing_is_made(tmp_path: Path, hours: str) -> None:
    with pytest.raises(PolicyRefused, match="24 to 720 hours"):
        _run("init", "--state", tmp_path / "r", "--federation", "f", "--certificate-hours", hours)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "a b:1", "h:99999"])
def test_a_malformed_join_address_is_refused(registrar: StateDirectory, address: str) -> None:
    with pytest.raises(AddressMalformed, match="--join-address must have the form HOST:PORT"):
        _run("policy", "--state", registrar.root, "--join-address", address)
    assert load_policy(registrar) == RegistrarPolicy()


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"certificate_seconds": 0}', b'{"certificate_seconds": 99999999}', b'{"x": 1}'],
)
def test_a_damaged_policy_issues_nothing(registrar: StateDirectory, data: bytes) -> None:
    (registrar.role_directory() / "policy.json").write_bytes(data)
    with pytest.raises(FedHelpError, match="is damaged"):
        _life(CertificateAuthority.open(registrar))
