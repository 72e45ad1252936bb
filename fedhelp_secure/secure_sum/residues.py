"""Ciphertexts as they travel: residues modulo one prime, and nothing else.

A CKKS ciphertext under the charter's parameters is two polynomials of ``polynomial_degree``
coefficients modulo one 60-bit prime q. So a frame is ``2 * polynomial_degree`` little-endian 64-bit
words, each below q: there are no headers that could be hostile, and a check of length and range is
the whole check. Adding ciphertexts is adding residues (the definition of homomorphic addition in
Cheon, Kim, Kim and Song 2017, section 3.4), which needs no homomorphic-encryption library and no
parser at all: tests compare every sum with SEAL's own.

A ciphertext is the concatenation of the frames of a vector, each for as many elements as a frame
holds: see `fedhelp_secure.charter.SecureSum`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import PeerError

MODULUS = (1 << 60) - (1 << 14) + 1
"""q: the prime that SEAL chooses for 60 bits at degree 4096; a test asks it."""

_LAZY_ADDITIONS = 15
"""So many residues add up below 2**64."""

_LOW_60 = np.uint64((1 << 60) - 1)
_FOLD = np.uint64((1 << 14) - 1)
"""2**60 modulo q."""


class CiphertextRefused(PeerError):
    """A ciphertext does not have the form that this charter's parameters give."""

    code = "ciphertext"


class ContextRefused(PeerError):
    """A CKKS key has other parameters than the charter, is not the pinned one, or is no key."""

    code = "context"


def of_signed(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The residue of each number; inverse of `signed` for magnitudes up to (q - 1) / 2."""
    # Two's complement: adding q to a negative number wraps to the residue.
    return np.where(numbers < 0, numbers + MODULUS, numbers).view(np.uint64)


def signed(residues: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The representative of each residue in [-(q - 1) / 2, (q - 1) / 2]."""
    numbers = residues.view(np.int64)
    return np.where(numbers > MODULUS // 2, numbers - MODULUS, numbers)


def add(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``left + right`` modulo q; equal shapes."""
    return _reduced(left + right)


def subtract(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """``left - right`` modulo q; equal shapes."""
    return _reduced(left + (np.uint64(MODULUS) - right))


def check_chunk(chunk: bytes, secure_sum: SecureSum) -> None:
    """Raises CiphertextRefused unless ``chunk`` is one or more whole frames of residues."""
    if not chunk or len(chunk) % secure_sum.frame_bytes:
        raise CiphertextRefused(
            f"a part of a ciphertext must be whole frames of {secure_sum.frame_bytes} bytes; send "
            "it so."
        )
    if _residues(chunk).max() >= MODULUS:
        raise CiphertextRefused(
            "a ciphertext holds a number that is no residue; encrypt it again with the charter's "
            "context."
        )


def weighted_sum(
    parts: Sequence[tuple[int, Iterator[bytes]]], secure_sum: SecureSum
) -> Iterator[bytes]:
    """The ciphertext of the sum of weight times plaintext, window by window.

    Each part is a whole number from 1 and the chunks of one checked ciphertext; all parts must be
    cut in the same places. One chunk of every part is in memory at a time. Raises CiphertextRefused
    for no parts, and for parts that are cut differently or end at different places.
    """
    if not parts or any(weight < 1 for weight, _ in parts):
        raise CiphertextRefused("a sum needs contributions, each with a weight of at least 1.")
    weights = sorted({weight for weight, _ in parts})
    streams = {weight: [chunks for other, chunks in parts if other == weight] for weight in weights}
    while True:
        window = [(weight, _sum_of(streams[weight], secure_sum)) for weight in weights]
        if all(total is None for _, total in window):
            return
        complete = [(weight, total) for weight, total in window if total is not None]
        if len(complete) != len(window) or len({total.size for _, total in complete}) > 1:
            raise _cut_differently()
        yield _add([_times(total, weight) for weight, total in complete]).tobytes()


def _sum_of(streams: Iterable[Iterator[bytes]], secure_sum: SecureSum) -> NDArray[np.uint64] | None:
    """The reduced sum of the next chunk of each stream; None when all have ended."""
    total: NDArray[np.uint64] | None = None
    ended = pending = 0
    for index, stream in enumerate(streams):
        chunk = next(stream, None)
        if chunk is None:
            ended += 1
        if ended and (chunk is not None or ended != index + 1):
            raise _cut_differently()
        if chunk is None:
            continue
        check_chunk(chunk, secure_sum)
        residues = _residues(chunk)
        if total is None:
            total, pending = residues.copy(), 1
            continue
        if residues.size != total.size:
            raise _cut_differently()
        if pending == _LAZY_ADDITIONS:
            total, pending = _reduced(total), 1
        total += residues
        pending += 1
    return None if total is None else _reduced(total)


def _add(parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    total = parts[0]
    for part in parts[1:]:
        total = _reduced(total + part)
    return total


def _times(residues: NDArray[np.uint64], weight: int) -> NDArray[np.uint64]:
    """``weight * residues`` modulo q, by doubling and adding: the product would not fit 64 bits."""
    total = residues
    for bit in f"{weight:b}"[1:]:
        total = _reduced(total + total)
        if bit == "1":
            total = _reduced(total + residues)
    return total


def _reduced(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Any 64-bit numbers modulo q: 2**60 is 2**14 - 1 there, so the top four bits fold in."""
    folded = (numbers & _LOW_60) + (numbers >> np.uint64(60)) * _FOLD
    # Below 2**60 + 2**18, so q fits at most once; where it does not, the difference wraps high.
    return np.minimum(folded, folded - np.uint64(MODULUS))


def _residues(chunk: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(chunk, dtype="<u8")


def _cut_differently() -> CiphertextRefused:
    return CiphertextRefused(
        "the ciphertexts of a sum differ in length; restore the state directory and try again."
    )
