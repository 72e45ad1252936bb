"""Attack: a private key crosses a wire while a party joins, renews or rotates. All is searched.

A relay that holds the registrar's TLS key sees in the clear all that unmodified processes send and
receive; the raw bytes, still encrypted, are nothing that one could search.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.certificates import authorities_pem
from support.registrar import ServedRegistrar, fedhelp, running_registrar
from support.tls_relay import tls_relay

from fedhelp_secure.enrolment.request import request_path
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}")


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistrar]:
    with running_registrar(tmp_path_factory.mktemp("registrar")) as served:
        yield served


def secrets_of(state: StateDirectory) -> dict[str, bytes]:
    """The private numbers in a state, raw: 32 bytes each, or two of 64 and 32 for sealing."""
    sealing = state.sealing_key_path.read_bytes()
    found = {"ML-KEM seed": sealing[:64], "X25519 scalar": sealing[64:]}
    assert len(sealing) == 96
    for path in state.root.rglob("*.pem"):
        if b"PRIVATE KEY" not in path.read_bytes():
            continue
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, EllipticCurvePrivateKey):
            found[_name(state, path)] = key.private_numbers().private_value.to_bytes(32, "big")
        else:
            assert isinstance(key, Ed25519PrivateKey)
            found[_name(state, path)] = key.private_bytes_raw()
    return found


def _name(state: StateDirectory, path: Path) -> str:
    return str(path.relative_to(state.root))


def spellings(secret: bytes) -> set[bytes]:
    """Every way in which ``secret`` could stand in other bytes, whatever stands before it.

    In base64 a secret looks different at each of three offsets, and its first and last characters
    depend on its neighbours: those are left out. PEM is base64 with a line end every 64 characters,
    which `squeezed` takes out of what is searched.
    """
    found = {secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode()}
    for offset in range(3):
        padded = b"\0" * offset + secret
        padded += b"\0" * (-len(padded) % 3)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(padded)[4:-4])
    return found


def squeezed(data: bytes) -> bytes:
    """``data``, and again without line ends, plain and as JSON writes them."""
    return data + data.replace(b"\\n", b"").replace(b"\r", b"").replace(b"\n", b"")


def found_in(captured: bytes, secrets: dict[str, bytes]) -> set[str]:
    """The names of the secrets that are in ``captured`` in any spelling.

    An enrolment request is base64 in an envelope: what that hides is searched as well.
    """
    searched = squeezed(captured)
    for run in _BASE64.findall(captured):
        searched += squeezed(base64.b64decode(run[: len(run) // 4 * 4]))
    return {
        name
        for name, secret in secrets.items()
        if any(spelling in searched for spelling in spellings(secret))
    }


@pytest.mark.parametrize(
    ("role", "group"), [(Role.HOSPITAL, "client"), (Role.UNMASKER, "custodian")]
)
def test_no_private_key_leaves_a_party_or_the_registrar(
    registrar: ServedRegistrar, tmp_path: Path, role: Role, group: str
) -> None:
    own = registrar.state
    chain = tmp_path / "chain.pem"
    chain.write_bytes(own.tls_certificate_path.read_bytes() + authorities_pem(own))
    token = registrar.invite("party", role).text
    root = tmp_path / "party"
    with tls_relay(chain, own.tls_key_path, registrar.join_address) as joined:
        done = registrar.enrol(token, root, group=group, address=joined.address)
    assert done.returncode == 0, done.stderr
    state = StateDirectory.open(root)
    secrets = {f"before {name}": secret for name, secret in secrets_of(state).items()}
    captured = joined.everything()
    for command in ("renew", "rotate-keys"):
        pair = tmp_path / "certificate.pem", tmp_path / "key.pem"
        pair[0].write_bytes(state.tls_certificate_path.read_bytes())
        pair[1].write_bytes(state.tls_key_path.read_bytes())
        with tls_relay(chain, own.tls_key_path, registrar.address, certificate=pair) as relayed:
            done = fedhelp("enrol", command, "--state", str(root), "--registrar", relayed.address)
        assert done.returncode == 0, done.stderr
        captured += relayed.everything()
        secrets |= {f"{command} {name}": secret for name, secret in secrets_of(state).items()}
    secrets |= {f"registrar's {name}": secret for name, secret in secrets_of(own).items()}
    rotated = 3 if role is Role.HOSPITAL else 1
    assert len(set(secrets.values())) == 4 + 1 + rotated + 5

    # The capture is whole: what must be in it is.
    request = state.read(request_path(state))
    assert request in captured
    assert token.encode() in captured
    assert b"enrolment-bundle" in captured
    assert b"key-rotation+json" in captured
    assert state.tls_certificate_path.read_bytes().strip() in captured
    assert found_in(captured, secrets) == set()


def test_the_search_finds_every_spelling(tmp_path: Path, registrar: ServedRegistrar) -> None:
    secrets = secrets_of(registrar.state)
    for name, secret in secrets.items():
        for before in (b"", b"x", b"xy"):
            raw = before + secret + b"tail"
            for hidden in (raw, raw.hex().encode(), base64.b64encode(raw)):
                assert name in found_in(b"noise" + hidden + b"noise", secrets)
            envelope = b'{"payload":"' + base64.b64encode(b"y" * 90 + raw.hex().encode()) + b'"}'
            assert name in found_in(envelope, secrets)
    for path in (registrar.state.tls_key_path, registrar.state.signing_key_path):
        as_json = path.read_bytes().replace(b"\n", b"\\n")
        assert _name(registrar.state, path) in found_in(b'{"key":"' + as_json + b'"}', secrets)
