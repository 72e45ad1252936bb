from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.secure_sum import seal
from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext, generate_keys
from fedhelp_secure.secure_sum.residues import (
    MODULUS,
    CiphertextRefused,
    check_chunk,
    weighted_sum,
)

SECRET, PUBLIC = generate_keys()
FRAME = 65_536
PARAMETERS = SecureSum(
    values=8000,
    check_elements=4,
    ring_bits=16,
    lanes=2,
    packed_bits=32,
    fraction_bits=12,
    scale_bits=16,
)

Parts = list[tuple[int, list[bytes]]]


def _added(parts: Parts) -> list[bytes]:
    return list(weighted_sum([(weight, iter(part)) for weight, part in parts], PARAMETERS))


def _frame(*residues: int) -> bytes:
    """A frame of zeros but for its first residues."""
    return b"".join(residue.to_bytes(8, "little") for residue in residues).ljust(FRAME, b"\0")


def _residues(data: bytes) -> list[int]:
    found: list[int] = np.frombuffer(data, dtype="<u8").tolist()
    return found


class Seal:
    """SEAL's own addition of ciphertexts of ours."""

    def __init__(self) -> None:
        self._context = seal.seal_context(4096, (60,))
        self._evaluator, self._scratch = sealapi.Evaluator(self._context), seal.Scratch()
        self._prefix = seal.saved_prefix(4096, (60,))

    def _loaded(self, frame: bytes) -> sealapi.Ciphertext:
        return self._scratch.load(sealapi.Ciphertext(), self._prefix + frame, self._context)

    def weighted_sum(self, parts: list[tuple[int, bytes]]) -> bytes:
        total = None
        for weight, frame in parts:
            ciphertext = self._loaded(frame)
            for _ in range(weight):
                if total is None:
                    total = self._loaded(frame)
                else:
                    self._evaluator.add_inplace(total, ciphertext)
        return self._scratch.saved(total).removeprefix(self._prefix)


@lru_cache
def _encrypted() -> tuple[bytes, ...]:
    public, generator = PublicContext(PUBLIC, PARAMETERS), np.random.default_rng(3)
    return tuple(
        public.encrypt_frame(generator.integers(0, 2**32, 4096, dtype=np.uint64)) for _ in range(40)
    )


def test_the_modulus_is_the_prime_that_seal_chose() -> None:
    context = seal.seal_context(4096, (60,))
    (chosen,) = context.first_context_data().parms().coeff_modulus()
    assert chosen.value() == MODULUS
    # Strong probable primes to these seven bases are primes below 2**64 (Sinclair 2011).
    for base in (2, 325, 9375, 28178, 450775, 9780504, 1795265022):
        assert _strong_probable_prime(MODULUS, base)


def _strong_probable_prime(number: int, base: int) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    power = pow(base, odd, number)
    if power in (1, number - 1):
        return True
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return True
    return False


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 40])
def test_sums_are_seals_own_residue_for_residue(count: int) -> None:
    frames = _encrypted()[:count]
    parts = [(1, frame) for frame in frames]
    assert _added([(1, [frame]) for frame in frames]) == [Seal().weighted_sum(parts)]


def test_weighted_sums_are_seals_own_too() -> None:
    weights = [1, 2, 3, 7, 31, 32, 63, 64, *[1 + at % 64 for at in range(0, 96, 3)]]
    parts = list(zip(weights, _encrypted(), strict=True))
    assert len(parts) == 40
    expected = Seal().weighted_sum(parts)
    assert _added([(weight, [frame]) for weight, frame in parts]) == [expected]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_residues_add_as_integers_modulo_the_prime(data: st.DataObject) -> None:
    edge = st.sampled_from([0, 1, MODULUS - 1, MODULUS - 2, 2**59, 2**14 - 1])
    residue = st.one_of(edge, st.integers(0, MODULUS - 1))
    weights = data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=40))
    columns = [data.draw(st.lists(residue, min_size=3, max_size=3)) for _ in weights]
    (total,) = _added([(w, [_frame(*c)]) for w, c in zip(weights, columns, strict=True)])
    assert _residues(total)[:3] == [
        sum(w * column[at] for w, column in zip(weights, columns, strict=True)) % MODULUS
        for at in range(3)
    ]


@pytest.mark.parametrize("count", [15, 16, 31, 64])
def test_the_largest_residues_do_not_overflow(count: int) -> None:
    top = _frame(*[MODULUS - 1] * 8192)
    (total,) = _added([(64, [top])] * count)
    assert _residues(total) == [(-64 * count) % MODULUS] * 8192


def test_a_sum_goes_chunk_by_chunk_and_takes_no_more_than_one_of_each() -> None:
    taken = [0, 0]

    def part(which: int) -> Iterator[bytes]:
        for frame in _encrypted()[:5]:
            taken[which] += 1
            yield frame

    total = weighted_sum([(1, part(0)), (2, part(1))], PARAMETERS)
    for number in range(1, 6):
        next(total)
        assert taken == [number, number]
    assert list(total) == []


def test_what_is_added_decrypts_to_the_sum() -> None:
    public, secret = PublicContext(PUBLIC, PARAMETERS), SecretContext(SECRET, PARAMETERS)
    weighted = [(2, 2**32 - 1), (3, 2**31), (5, 5)]
    parts = [
        (weight, [public.encrypt_frame(np.full(4096, element, dtype=np.uint64))])
        for weight, element in weighted
    ]
    (total,) = _added(parts)
    expected = sum(weight * element for weight, element in weighted) % 2**32
    assert secret.decrypt_frame(total).tolist() == [expected] * 4096


def test_accepts_what_the_context_emits_and_the_edges_of_the_range() -> None:
    for chunk in (_encrypted()[0], b"".join(_encrypted()[:3]), bytes(FRAME), _frame(MODULUS - 1)):
        check_chunk(chunk, PARAMETERS)


@pytest.mark.parametrize(
    "chunk",
    [b"", bytes(FRAME - 1), bytes(FRAME + 1), bytes(FRAME // 2), bytes(8), bytes(3 * FRAME - 8)],
)
def test_refuses_parts_of_frames(chunk: bytes) -> None:
    with pytest.raises(CiphertextRefused):
        check_chunk(chunk, PARAMETERS)
    with pytest.raises(CiphertextRefused):
        _added([(1, [chunk])])


@pytest.mark.parametrize("word", [MODULUS, MODULUS + 1, 2**60, 2**63, 2**64 - 1])
@pytest.mark.parametrize("position", [0, 1, 4096, 8191, 8192, 16_383])
def test_refuses_words_that_are_no_residues_wherever_they_are(word: int, position: int) -> None:
    chunk = bytearray(2 * FRAME)
    chunk[8 * position : 8 * position + 8] = word.to_bytes(8, "little")
    with pytest.raises(CiphertextRefused):
        check_chunk(bytes(chunk), PARAMETERS)
    with pytest.raises(CiphertextRefused):
        _added([(1, [bytes(2 * FRAME)]), (1, [bytes(chunk)])])


ONE, TWO = bytes(FRAME), bytes(2 * FRAME)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(0, [ONE])],
        [(1, [ONE]), (-1, [ONE])],
        [(1, [ONE]), (1, [TWO])],
        [(1, [ONE]), (2, [TWO])],
        [(1, [ONE, ONE]), (1, [TWO])],
        [(1, [ONE, ONE]), (1, [ONE])],
        [(1, [ONE]), (1, [ONE, ONE])],
        [(1, [ONE, ONE]), (2, [ONE])],
        [(1, [ONE]), (2, [ONE, ONE])],
        [(1, []), (1, [ONE])],
        [(1, [ONE]), (1, [])],
        [(1, [ONE]), (2, [])],
        [(1, [ONE]), (1, [ONE]), (1, [])],
        [(1, [ONE]), (1, []), (1, [])],
        [(1, [ONE]), (1, [ONE, b""])],
    ],
)
def test_refuses_parts_that_do_not_go_together(parts: Parts) -> None:
    with pytest.raises(CiphertextRefused):
        _added(parts)


def test_sums_of_nothing_are_nothing() -> None:
    assert _added([(1, []), (2, [])]) == []


@pytest.mark.parametrize(
    ("elements", "frames"), [(5, 1), (4096, 1), (4097, 2), (8192, 2), (12_289, 4)]
)
def test_lengths_follow_from_the_parameters(elements: int, frames: int) -> None:
    wider = PARAMETERS.model_copy(update={"values": 2 * (elements - 4)})
    assert (wider.elements, wider.frames) == (elements, frames)
    assert (wider.frame_bytes, wider.ciphertext_bytes) == (FRAME, frames * FRAME)
