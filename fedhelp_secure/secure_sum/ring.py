"""Vectors over the ring of integers modulo ``2**ring_bits``, as uint64 arrays.

Unsigned 64-bit arithmetic wraps modulo 2**64, and 2**ring_bits divides that: masking the low bits
after any sum or product therefore gives the exact result in the ring.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.errors import InternalError, MalformedMessage

_LARGEST_RING_BITS = 62
_NATIVE_WIDTHS = frozenset({1, 2, 4, 8})
"""Word lengths that the processor has."""


class OutsideRing(InternalError):
    """An integer does not fit the ring, or an array is not one of its elements."""

    code = "outside-ring"


def word_bytes(ring_bits: int) -> int:
    """Bytes of one element in a byte string: as few as hold it."""
    _check_bits(ring_bits)
    return -(-ring_bits // 8)


def to_ring(integers: NDArray[np.int64], ring_bits: int) -> NDArray[np.uint64]:
    """Each integer modulo ``2**ring_bits``; inverse of `centre`.

    Raises OutsideRing unless every integer lies in [-2**(ring_bits-1), 2**(ring_bits-1)).
    """
    _check_bits(ring_bits)
    half = 1 << (ring_bits - 1)
    if integers.dtype != np.int64 or (
        integers.size and not -half <= integers.min() <= integers.max() < half
    ):
        raise OutsideRing(
            f"an integer does not fit the ring of {ring_bits} bits; use a charter with more bits."
        )
    return integers.astype(np.uint64) & low_bits(ring_bits)


def centre(elements: NDArray[np.uint64], ring_bits: int) -> NDArray[np.int64]:
    """The representative of each element in [-2**(ring_bits-1), 2**(ring_bits-1))."""
    check_elements(elements, ring_bits)
    half = np.uint64(1 << (ring_bits - 1))
    # Two's complement: flipping the sign bit and taking its value away extends it.
    return ((elements ^ half) - half).view(np.int64)


def add(left: NDArray[np.uint64], right: NDArray[np.uint64], ring_bits: int) -> NDArray[np.uint64]:
    """``left + right`` in the ring; equal shapes."""
    _check_pair(left, right, ring_bits)
    return (left + right) & low_bits(ring_bits)


def subtract(
    left: NDArray[np.uint64], right: NDArray[np.uint64], ring_bits: int
) -> NDArray[np.uint64]:
    """``left - right`` in the ring; equal shapes."""
    _check_pair(left, right, ring_bits)
    return (left - right) & low_bits(ring_bits)


def scale(elements: NDArray[np.uint64], weight: int, ring_bits: int) -> NDArray[np.uint64]:
    """``weight * elements`` in the ring, for a weight from 0 below 2**32."""
    check_elements(elements, ring_bits)
    if not 0 <= weight < 1 << 32:
        raise OutsideRing("a weight must be a whole number from 0 below 2**32.")
    return (elements * np.uint64(weight)) & low_bits(ring_bits)


def pack(elements: NDArray[np.uint64], ring_bits: int) -> bytes:
    """Little-endian words of `word_bytes` each."""
    check_elements(elements, ring_bits)
    width = word_bytes(ring_bits)
    if width in _NATIVE_WIDTHS:
        return elements.astype(f"<u{width}").tobytes()
    return elements.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def unpack(data: bytes, ring_bits: int, *, values: int) -> NDArray[np.uint64]:
    """The ``values`` elements that `pack` wrote; raises MalformedMessage for anything else."""
    if len(data) != values * word_bytes(ring_bits):
        raise MalformedMessage("packed integers have the wrong length; ask the sender again.")
    elements = words(data, ring_bits).astype(np.uint64)
    if (elements > low_bits(ring_bits)).any():
        raise MalformedMessage("a packed integer is outside the ring; ask the sender again.")
    return elements


def from_words(data: bytes, ring_bits: int) -> NDArray[np.uint64]:
    """Little-endian words of `word_bytes` each, the high bits dropped: bytes to ring elements."""
    return reduce(words(data, ring_bits).astype(np.uint64), ring_bits)


def reduce(integers: NDArray[np.uint64], ring_bits: int) -> NDArray[np.uint64]:
    """``integers`` modulo ``2**ring_bits``."""
    _check_bits(ring_bits)
    return integers & low_bits(ring_bits)


def check_elements(elements: NDArray[np.uint64], ring_bits: int) -> None:
    """Raises OutsideRing unless ``elements`` are a uint64 vector below ``2**ring_bits``."""
    _check_bits(ring_bits)
    if elements.dtype != np.uint64 or elements.ndim != 1:
        raise OutsideRing("ring elements must be a vector of unsigned 64-bit integers.")
    if elements.size and elements.max() > low_bits(ring_bits):
        raise OutsideRing(f"an element does not lie in the ring of {ring_bits} bits.")


def _check_pair(left: NDArray[np.uint64], right: NDArray[np.uint64], ring_bits: int) -> None:
    check_elements(left, ring_bits)
    check_elements(right, ring_bits)
    if left.shape != right.shape:
        raise OutsideRing("two vectors of the ring differ in length.")


def _check_bits(ring_bits: int) -> None:
    if not 1 <= ring_bits <= _LARGEST_RING_BITS:
        raise OutsideRing(f"ring_bits must lie between 1 and {_LARGEST_RING_BITS}.")


def low_bits(ring_bits: int) -> np.uint64:
    """The mask of the low ``ring_bits`` bits, which is also the largest element."""
    _check_bits(ring_bits)
    return np.uint64((1 << ring_bits) - 1)


def words(data: bytes, ring_bits: int) -> NDArray[np.unsignedinteger]:
    """Little-endian words of `word_bytes` each, high bits included, in the processor's own words.

    Those wrap at a multiple of ``2**ring_bits`` too, so sums and products in them are exact in the
    ring once the high bits are dropped.
    """
    width = word_bytes(ring_bits)
    if width in _NATIVE_WIDTHS:
        return np.frombuffer(data, dtype=f"<u{width}")
    # Eight bytes from every ``width``-th on; those of the next word are masked away.
    padded = data + bytes(8 - width)
    read = np.ndarray(len(data) // width, dtype="<u8", buffer=padded, strides=(width,))
    return read & low_bits(8 * width)
