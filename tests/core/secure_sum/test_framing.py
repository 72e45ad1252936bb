from __future__ import annotations

import os

import pytest
from support.federation import Federation
from support.secure_sum import contribute

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.secure_sum import framing
from fedhelp_secure.secure_sum.framing import CiphertextRefused, check_framing

PREFIX_BYTES = 131
SUFFIX_BYTES = 9


@pytest.fixture(scope="module")
def ciphertext(federation: Federation) -> bytes:
    return contribute(federation, "large-1").ciphertext


def test_lengths_follow_from_the_parameters(federation: Federation, ciphertext: bytes) -> None:
    secure_sum = federation.charter.secure_sum
    assert framing.frame_bytes(secure_sum) == len(ciphertext) == 65676
    for values, frames in ((1, 1), (2048, 1), (2049, 2), (6144, 3)):
        wider = secure_sum.model_copy(update={"values": values})
        assert framing.ciphertext_bytes(wider) == frames * 65676


def test_accepts_what_the_context_emits(federation: Federation, ciphertext: bytes) -> None:
    check_framing(ciphertext, federation.charter.secure_sum)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_refuses_a_change_of_any_constant_byte(
    federation: Federation, ciphertext: bytes, flip: int
) -> None:
    constant = [*range(PREFIX_BYTES), *range(len(ciphertext) - SUFFIX_BYTES, len(ciphertext))]
    for position in constant:
        mutated = bytearray(ciphertext)
        mutated[position] ^= flip
        with pytest.raises(CiphertextRefused):
            check_framing(bytes(mutated), federation.charter.secure_sum)


def test_refuses_wrong_lengths_and_random_bytes(federation: Federation, ciphertext: bytes) -> None:
    for bad in (
        b"",
        ciphertext[:-1],
        ciphertext[:100],
        ciphertext + b"\x00",
        ciphertext * 2,
        os.urandom(len(ciphertext)),
        bytes(len(ciphertext)),
    ):
        with pytest.raises(CiphertextRefused):
            check_framing(bad, federation.charter.secure_sum)


def test_checks_every_frame(federation: Federation, ciphertext: bytes) -> None:
    two_frames = federation.charter.secure_sum.model_copy(update={"values": 4096})
    check_framing(ciphertext * 2, two_frames)
    broken = bytearray(ciphertext * 2)
    broken[len(ciphertext) + 20] ^= 1
    with pytest.raises(CiphertextRefused):
        check_framing(bytes(broken), two_frames)


def test_another_scale_is_another_form(federation: Federation, ciphertext: bytes) -> None:
    parameters = federation.charter.secure_sum.model_dump(mode="python") | {"scale_bits": 24}
    with pytest.raises(CiphertextRefused):
        check_framing(ciphertext, SecureSum.model_validate(parameters))
