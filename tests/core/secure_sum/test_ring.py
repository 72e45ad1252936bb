from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum import ring

BITS = st.integers(1, 62)


def _elements(data: st.DataObject, bits: int) -> list[int]:
    return data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=8))


def _vector(integers: list[int]) -> NDArray[np.uint64]:
    return np.array(integers, dtype=np.uint64)


@given(BITS, st.data())
def test_the_operations_are_those_of_integers_modulo_the_ring(
    bits: int, data: st.DataObject
) -> None:
    left = _elements(data, bits)
    right = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=len(left), max_size=len(left)))
    weight = data.draw(st.integers(0, 2**32 - 1))
    modulus = 2**bits
    pairs = list(zip(left, right, strict=True))
    added = ring.add(_vector(left), _vector(right), bits)
    subtracted = ring.subtract(_vector(left), _vector(right), bits)
    assert added.tolist() == [(a + b) % modulus for a, b in pairs]
    assert subtracted.tolist() == [(a - b) % modulus for a, b in pairs]
    assert ring.scale(_vector(left), weight, bits).tolist() == [a * weight % modulus for a in left]


@given(BITS, st.data())
def test_centring_inverts_the_way_into_the_ring(bits: int, data: st.DataObject) -> None:
    half = 2 ** (bits - 1)
    integers = data.draw(st.lists(st.integers(-half, half - 1), min_size=1))
    vector = np.array([*integers, -half, half - 1], dtype=np.int64)
    assert ring.centre(ring.to_ring(vector, bits), bits).tolist() == vector.tolist()


@given(BITS, st.data())
def test_packing_is_inverted_by_unpacking(bits: int, data: st.DataObject) -> None:
    elements = _elements(data, bits)
    packed = ring.pack(_vector(elements), bits)
    assert len(packed) == len(elements) * -(-bits // 8)
    assert ring.unpack(packed, bits, values=len(elements)).tolist() == elements


@pytest.mark.parametrize("bits", range(1, 63))
def test_words_of_every_width_are_little_endian_and_as_short_as_they_can_be(bits: int) -> None:
    elements = [0, 2**bits - 1, (0x0123456789ABCDEF >> (64 - bits)), 1]
    width = ring.word_bytes(bits)
    assert 256 ** (width - 1) < 2**bits <= 256**width
    data = b"".join(element.to_bytes(width, "little") for element in elements)
    assert ring.pack(_vector(elements), bits) == data
    assert ring.unpack(data, bits, values=4).tolist() == elements


@given(BITS, st.data())
def test_bytes_become_elements_by_dropping_the_high_bits(bits: int, data: st.DataObject) -> None:
    width = ring.word_bytes(bits)
    words = data.draw(st.lists(st.integers(0, 256**width - 1), max_size=8))
    stream = b"".join(word.to_bytes(width, "little") for word in words)
    assert ring.from_words(stream, bits).tolist() == [word % 2**bits for word in words]


@given(BITS, st.data())
def test_refuses_packed_integers_outside_the_ring(bits: int, data: st.DataObject) -> None:
    width = ring.word_bytes(bits)
    if bits == 8 * width:
        return
    word = data.draw(st.integers(2**bits, 256**width - 1))
    with pytest.raises(MalformedMessage):
        ring.unpack(word.to_bytes(width, "little"), bits, values=1)


@pytest.mark.parametrize("integer", [128, -129, 2**40, -(2**62)])
def test_refuses_integers_that_do_not_fit(integer: int) -> None:
    with pytest.raises(ring.OutsideRing):
        ring.to_ring(np.array([0, integer], dtype=np.int64), 8)


@pytest.mark.parametrize(
    "elements",
    [
        np.array([256], dtype=np.uint64),
        np.array([1], dtype=np.int64),
        np.array([1.0]),
        np.array([[1]], dtype=np.uint64),
    ],
)
def test_refuses_what_is_no_vector_of_elements(elements: NDArray[np.uint64]) -> None:
    for operation in (ring.centre, ring.pack, ring.check_elements):
        with pytest.raises(ring.OutsideRing):
            operation(elements, 8)
    with pytest.raises(ring.OutsideRing):
        ring.add(elements, elements, 8)


def test_refuses_vectors_of_different_lengths() -> None:
    with pytest.raises(ring.OutsideRing):
        ring.add(_vector([1]), _vector([1, 2]), 8)


@pytest.mark.parametrize("weight", [-1, 2**32])
def test_refuses_weights_out_of_range(weight: int) -> None:
    with pytest.raises(ring.OutsideRing):
        ring.scale(_vector([1]), weight, 8)


@pytest.mark.parametrize("bits", [0, 63])
def test_refuses_rings_that_the_words_cannot_hold(bits: int) -> None:
    with pytest.raises(ring.OutsideRing):
        ring.add(_vector([0]), _vector([0]), bits)


@pytest.mark.parametrize("bits", [8, 15, 24, 36, 45, 62])
@pytest.mark.parametrize("words", [0, 1, 3])
def test_refuses_packed_integers_of_another_length(bits: int, words: int) -> None:
    width = ring.word_bytes(bits)
    for data in (bytes(words * width), bytes(2 * width - 1), bytes(2 * width + 1)):
        with pytest.raises(MalformedMessage):
            ring.unpack(data, bits, values=2)
