from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from support.federation import Federation
from support.secure_sum import (
    ciphertext_sum,
    coefficients_out_of_range,
    contribute_all,
    encrypt_reals,
)

from fedhelp_keys.custodian.decryptor import (
    DecryptorService,
    prepare,
    public_context_path,
    secret_context_path,
)
from fedhelp_keys.custodian.store import REFUSALS_ALLOWED, AlreadyAnswered, TooManyRefusals
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.secure_sum.answers import open_decryptor_statement
from fedhelp_secure.secure_sum.ckks import NotAnInteger, PublicContext
from fedhelp_secure.secure_sum.framing import CiphertextRefused
from fedhelp_secure.state import StateDirectory, StateError
from fedhelp_secure.transport.identity import Identity, Role


@pytest.fixture
def sums(federation: Federation) -> tuple[bytes, bytes]:
    """Two different sums of the same round."""
    return tuple(  # type: ignore[return-value]
        ciphertext_sum(federation, contribute_all(federation)) for _ in range(2)
    )


def test_answers_one_sum_a_round_and_repeats_its_bytes_after_a_restart(
    federation: Federation, decryptor: DecryptorService, sums: tuple[bytes, bytes]
) -> None:
    charter = federation.charter
    first = decryptor.answer(charter, 1, sums[0])
    statement = open_decryptor_statement(charter, 1, first)
    assert statement.sum_digest == digest(sums[0])
    assert decryptor.answer(charter, 1, sums[0]) == first
    with pytest.raises(AlreadyAnswered):
        decryptor.answer(charter, 1, sums[1])
    restarted = DecryptorService(federation.state("decryptor"))
    with pytest.raises(AlreadyAnswered):
        restarted.answer(charter, 1, sums[1])
    assert restarted.answer(charter, 1, sums[0]) == first
    assert restarted.answer(charter, 2, sums[1]) != first
    restarted.close()


def test_bad_sums_are_refused_and_use_nothing_up(
    federation: Federation, decryptor: DecryptorService, sums: tuple[bytes, bytes]
) -> None:
    good = sums[0]
    mutated = [bytearray(good) for _ in range(3)]
    for position, copy in zip((0, 5, 40), mutated, strict=True):
        copy[position] ^= 0x10
    bad = [
        b"",
        good[:-1],
        good + b"\0",
        os.urandom(len(good)),
        *(bytes(copy) for copy in mutated),
        coefficients_out_of_range(good),
    ]
    for ciphertext in bad:
        with pytest.raises(CiphertextRefused):
            decryptor.answer(federation.charter, 1, ciphertext)
    decryptor.answer(federation.charter, 1, good)


def test_sums_that_are_no_integers_are_refused_and_soon_for_good(
    federation: Federation, decryptor: DecryptorService, sums: tuple[bytes, bytes]
) -> None:
    for number in range(REFUSALS_ALLOWED):
        with pytest.raises(NotAnInteger):
            decryptor.answer(federation.charter, 1, encrypt_reals(federation, [number + 0.5]))
    with pytest.raises(TooManyRefusals):
        decryptor.answer(federation.charter, 1, sums[0])
    decryptor.answer(federation.charter, 2, sums[0])


def test_refuses_a_charter_that_pins_another_key(
    federation: Federation, decryptor: DecryptorService, sums: tuple[bytes, bytes]
) -> None:
    named = federation.charter.custodians.decryptor.model_copy(
        update={"context_digest": digest(b"another context")}
    )
    custodians = federation.charter.custodians.model_copy(update={"decryptor": named})
    other = federation.charter.model_copy(update={"custodians": custodians})
    with pytest.raises(CharterRefused):
        decryptor.answer(other, 1, sums[0])


def test_prepare_makes_keys_once(federation: Federation, tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path, Identity("testfed", Role.DECRYPTOR, "new"))
    made = prepare(state)
    public = state.read(public_context_path(state))
    assert made == digest(public)
    PublicContext(public, federation.charter.secure_sum)
    assert stat.S_IMODE(secret_context_path(state).stat().st_mode) == 0o600
    with pytest.raises(StateError):
        prepare(state)
    assert state.read(public_context_path(state)) == public


def test_needs_prepared_keys(federation: Federation, tmp_path: Path) -> None:
    shutil.copytree(federation.state("decryptor").root, tmp_path / "copy")
    state = StateDirectory.open(tmp_path / "copy", Role.DECRYPTOR)
    public_context_path(state).unlink()
    with pytest.raises(StateError):
        DecryptorService(state)
