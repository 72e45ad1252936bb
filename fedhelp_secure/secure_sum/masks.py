"""One-time masks: uniformly random ring vectors that 32-byte seeds determine.

A hospital draws one seed for every unmasker, and its mask is the sum of their streams: whoever
lacks one seed knows nothing of the mask.

The key of a stream is HKDF-SHA256 (RFC 5869, no salt) of the seed with everything that names the
contribution and the unmasker in ``info``; the stream is that key's ChaCha20 key stream (RFC 8439,
nonce and counter zero), cut into little-endian words of ``ceil(packed_bits / 8)`` bytes, of which
the low ``packed_bits`` count. A key serves for one stream only, so the constant nonce repeats
nothing. Test vectors: ``tests/core/secure_sum/mask_vectors.json``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum import domains
from fedhelp_secure.secure_sum.ring import from_words, word_bytes

SEED_BYTES = 32

_ZERO_NONCE = bytes(16)


@dataclass(frozen=True, slots=True)
class MaskPurpose:
    """What one stream is for: nothing else ever has the same key."""

    charter_digest: str
    round_number: int
    hospital: str
    unmasker: str
    elements: int
    packed_bits: int

    def key_info(self) -> bytes:
        """The HKDF ``info`` of the stream's key."""
        return canonical_json(
            {
                "domain": domains.MASK,
                "charter": self.charter_digest,
                "round": self.round_number,
                "hospital": self.hospital,
                "unmasker": self.unmasker,
                "elements": self.elements,
                "packed_bits": self.packed_bits,
            }
        )

    def seed_info(self, ciphertext_digest: str) -> bytes:
        """The HPKE ``info`` under which a seed is sealed: it opens for this contribution only."""
        return canonical_json(
            {
                "domain": domains.MASK_SEED,
                "charter": self.charter_digest,
                "round": self.round_number,
                "hospital": self.hospital,
                "unmasker": self.unmasker,
                "ciphertext_digest": ciphertext_digest,
            }
        )


class MaskStream:
    """The mask of one seed, read from its beginning in parts of any length."""

    def __init__(self, seed: bytes, purpose: MaskPurpose) -> None:
        """Raises MalformedMessage unless the seed has 32 bytes: seeds come from outside."""
        if len(seed) != SEED_BYTES:
            raise MalformedMessage(
                "a mask seed must have 32 bytes; ask the hospital to send it again."
            )
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.key_info()).derive(seed)
        self._encryptor = Cipher(ChaCha20(key, _ZERO_NONCE), mode=None).encryptor()
        self._packed_bits = purpose.packed_bits

    def take(self, elements: int) -> NDArray[np.uint64]:
        """The next ``elements`` elements: uint64, each below ``2**packed_bits``."""
        stream = self._encryptor.update(bytes(elements * word_bytes(self._packed_bits)))
        return from_words(stream, self._packed_bits)


def draw_seed() -> bytes:
    """32 bytes from the operating system; draw a new one for every contribution and unmasker."""
    return secrets.token_bytes(SEED_BYTES)
