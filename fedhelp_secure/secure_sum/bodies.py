"""The body of an answer: ring elements under a fresh content key, frame by frame, in a file.

Each segment is one frame's elements, packed, under AES-256-GCM with the segment's number and a flag
on the last one as nonce (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar 2015),
so that segments can be neither dropped, repeated nor reordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from fedhelp_secure.canonical import Digesting
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum.ring import pack, unpack, word_bytes

KEY_BYTES = 32

_TAG_BYTES = 16


class AnswerRefused(PeerError):
    """A custodian's answer is for something else, incomplete or altered."""

    code = "answer"


def body_bytes(secure_sum: SecureSum) -> int:
    """Length of every body under these parameters."""
    return secure_sum.elements * word_bytes(secure_sum.packed_bits) + _TAG_BYTES * secure_sum.frames


def frame_sizes(secure_sum: SecureSum) -> list[int]:
    """Elements in each frame: all full but the last."""
    degree = secure_sum.polynomial_degree
    full, rest = divmod(secure_sum.elements, degree)
    return [degree] * full + ([rest] if rest else [])


def write_body(
    frames: Iterable[NDArray[np.uint64]],
    out: Path,
    *,
    secure_sum: SecureSum,
    key: bytes,
    associated_data: bytes,
) -> str:
    """Encrypt ``frames`` into the new file ``out``; returns the file's digest.

    Raises AnswerRefused unless the frames are as many and as long as the charter's.
    """
    cipher = AESGCM(key)
    hashed = Digesting()
    sizes = frame_sizes(secure_sum)
    count = 0
    with out.open("xb") as file:
        for elements in frames:
            if count == len(sizes) or elements.shape != (sizes[count],):
                raise _wrong_size()
            segment = cipher.encrypt(
                _nonce(count, last=count == len(sizes) - 1),
                pack(elements, secure_sum.packed_bits),
                associated_data,
            )
            hashed.update(segment)
            file.write(segment)
            count += 1
    if count != len(sizes):
        raise _wrong_size()
    return hashed.digest


def read_body(
    body: Path, *, secure_sum: SecureSum, key: bytes, associated_data: bytes
) -> Iterator[NDArray[np.uint64]]:
    """The frames in the file ``body``, one at a time; raises AnswerRefused if it was altered."""
    if body.stat().st_size != body_bytes(secure_sum) or len(key) != KEY_BYTES:
        raise AnswerRefused("an answer is not complete; fetch it again.")
    cipher = AESGCM(key)
    sizes = frame_sizes(secure_sum)
    width = word_bytes(secure_sum.packed_bits)
    with body.open("rb") as file:
        for number, size in enumerate(sizes):
            segment = file.read(size * width + _TAG_BYTES)
            try:
                plain = cipher.decrypt(
                    _nonce(number, last=number == len(sizes) - 1), segment, associated_data
                )
            except InvalidTag as error:
                raise AnswerRefused("an answer's body was altered; fetch it again.") from error
            yield unpack(plain, secure_sum.packed_bits, values=size)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _wrong_size() -> AnswerRefused:
    return AnswerRefused("an answer must have as many elements as the charter's releases.")
