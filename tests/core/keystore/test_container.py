"""A sealed secret opens with its own key, for its own name, unaltered; and in no other way."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.keystore import container
from fedhelp_secure.keystore.container import MAGIC, is_sealed, seal, unseal
from fedhelp_secure.state import StateError

KEY = bytes(range(32))
CONTEXT = {"federation": "testfed", "role": "hospital", "name": "one", "file": "keys/signing.pem"}
SECRET = b"a secret of some bytes"


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens(secret: bytes, key: bytes) -> None:
    sealed = seal(key, secret, CONTEXT)
    assert is_sealed(sealed)
    assert len(sealed) == len(MAGIC) + 12 + len(secret) + 16
    assert unseal(key, sealed, CONTEXT) == secret


def test_two_seals_of_one_secret_differ() -> None:
    assert seal(KEY, SECRET, CONTEXT) != seal(KEY, SECRET, CONTEXT)


@given(st.data())
def test_one_altered_bit_anywhere_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, SECRET, CONTEXT))
    place = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[place // 8] ^= 1 << place % 8
    with pytest.raises(StateError, match="was altered"):
        unseal(KEY, bytes(sealed), CONTEXT)


@pytest.mark.parametrize("name", sorted(CONTEXT))
def test_another_party_or_file_is_refused(name: str) -> None:
    sealed = seal(KEY, SECRET, CONTEXT)
    with pytest.raises(StateError, match="another party or name"):
        unseal(KEY, sealed, {**CONTEXT, name: "another"})


@pytest.mark.parametrize("length", [0, 5, len(MAGIC), len(MAGIC) + 12, len(MAGIC) + 27])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(StateError, match=re.escape("keys/signing.pem was altered")):
        unseal(KEY, seal(KEY, SECRET, CONTEXT)[:length], CONTEXT)


def test_another_key_is_refused() -> None:
    with pytest.raises(StateError):
        unseal(os.urandom(32), seal(KEY, SECRET, CONTEXT), CONTEXT)


def test_a_version_is_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version's file with the name of this one in front of it does not open."""
    later = MAGIC.replace(b"1", b"2")
    monkeypatch.setattr(container, "MAGIC", later)
    sealed = seal(KEY, SECRET, CONTEXT)
    monkeypatch.undo()
    assert not is_sealed(sealed)
    with pytest.raises(StateError):
        unseal(KEY, MAGIC + sealed.removeprefix(later), CONTEXT)
