"""Secrets made into numbers: a key for each purpose, and from it a stream of ring elements."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedhelp_secure.secure_sum.ring import from_words, word_bytes, words

KEY_BYTES = 32

_ZERO_NONCE = bytes(16)


def derive(secret: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869, no salt) of ``secret`` with ``info``: ``length`` bytes."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret)


class RingStream:
    """Uniformly random ring elements that a key determines, in parts of any length.

    The ChaCha20 key stream of ``key`` (RFC 8439, nonce and counter zero), cut into little-endian
    words of ``ceil(bits / 8)`` bytes of which the low ``bits`` count. A key serves for one stream
    only, so the constant nonce repeats nothing.
    """

    def __init__(self, key: bytes, bits: int) -> None:
        self._encryptor = Cipher(ChaCha20(key, _ZERO_NONCE), mode=None).encryptor()
        self._bits = bits

    def take(self, elements: int) -> NDArray[np.uint64]:
        """The next ``elements`` elements: uint64, each below ``2**bits``."""
        return from_words(self._stream(elements), self._bits)

    def take_words(self, elements: int) -> NDArray[np.unsignedinteger]:
        """The next ``elements`` elements with random bits above them: see `ring.words`."""
        return words(self._stream(elements), self._bits)

    def _stream(self, elements: int) -> bytes:
        return self._encryptor.update(bytes(elements * word_bytes(self._bits)))
