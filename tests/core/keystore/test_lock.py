"""The key of a state's secrets opens with its passphrase alone, and costs scrypt once a process."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.passphrases import FIRST, SECOND, chosen, give

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.keystore import lock
from fedhelp_secure.keystore.lock import LEAST_COST, PassphraseWrong, new_key, unwrap, wrap
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role

PARTY = {"federation": "testfed", "role": "hospital", "name": "one"}
KEY = bytes(range(32))
FIRST_CHOSEN = chosen(FIRST)


@pytest.fixture(scope="module")
def locked() -> bytes:
    return wrap(KEY, FIRST_CHOSEN, PARTY, cost=LEAST_COST)


def test_the_passphrase_opens_it_and_another_does_not(locked: bytes) -> None:
    assert unwrap(locked, FIRST_CHOSEN, PARTY) == KEY
    with pytest.raises(PassphraseWrong, match="nothing was changed"):
        unwrap(locked, chosen(SECOND), PARTY)
    with pytest.raises(PassphraseWrong):
        unwrap(locked, FIRST_CHOSEN, {**PARTY, "name": "two"})


def test_a_backup_opens_without_this_program(tmp_path: Path) -> None:
    """As the documents say: another implementation of scrypt (OpenSSL's, by hashlib) and AES."""
    give(FIRST)
    state = StateDirectory.create(tmp_path / "state", Identity("testfed", Role.HOSPITAL, "one"))
    stated = json.loads((state.root / "passphrase.json").read_bytes())
    assert (stated["cost"], stated["block_size"], stated["parallelism"]) == (17, 8, 1)
    derived = hashlib.scrypt(
        FIRST.encode(),
        salt=base64.b64decode(stated["salt"]),
        n=1 << stated["cost"],
        r=stated["block_size"],
        p=stated["parallelism"],
        maxmem=1 << 28,
        dklen=32,
    )
    wrapped = base64.b64decode(stated.pop("wrapped_key"))
    associated = _json({"lock": stated, "context": PARTY})
    key = AESGCM(derived).decrypt(base64.b64decode(stated["nonce"]), wrapped, associated)
    data = state.sealing_key_path.read_bytes()
    heading, nonce, ciphertext = data[:24], data[24:36], data[36:]
    assert heading == b"fedhelp-secure secret 1\n"
    associated = heading + _json({**PARTY, "file": "keys/sealing.bin"})
    opened = AESGCM(key).decrypt(nonce, ciphertext, associated)
    assert opened == state.unsealing_key().to_bytes()


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_scrypt_is_paid_once_a_process(locked: bytes) -> None:
    unwrap(locked, FIRST_CHOSEN, PARTY)
    before = lock._derived.cache_info().misses
    for _ in range(50):
        unwrap(locked, chosen(FIRST), PARTY)
    assert lock._derived.cache_info().misses == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cost": LEAST_COST + 1}, PassphraseWrong),
        ({"salt": base64.b64encode(bytes(16)).decode()}, PassphraseWrong),
        ({"nonce": base64.b64encode(bytes(12)).decode()}, PassphraseWrong),
        ({"wrapped_key": base64.b64encode(bytes(48)).decode()}, PassphraseWrong),
        ({"cost": LEAST_COST - 1}, StateError),
        ({"cost": 30}, StateError),
        ({"cost": "14"}, StateError),
        ({"version": 2}, StateError),
        ({"derivation": "pbkdf2"}, StateError),
        ({"parallelism": 64}, StateError),
        ({"salt": ""}, StateError),
        ({"wrapped_key": "AAAA"}, StateError),
        ({"more": 1}, StateError),
    ],
)
def test_an_altered_document_is_refused(
    locked: bytes, change: dict[str, Any], error: type[Exception]
) -> None:
    """The costliest that is accepted is bounded: the file may ask for no more memory than 1 GiB."""
    with pytest.raises(error):
        unwrap(canonical_json({**json.loads(locked), **change}), FIRST_CHOSEN, PARTY)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b"null"])
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="damaged"):
        unwrap(data, FIRST_CHOSEN, PARTY)


def test_keys_are_new_each_time() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) == 32
