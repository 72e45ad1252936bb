"""One-time masks: uniformly random ring vectors that a 32-byte seed determines.

The key is HKDF-SHA256 (RFC 5869, no salt) of the seed with everything that names the contribution
in ``info``, and the mask is that key's ChaCha20 key stream (RFC 8439, nonce and counter zero), cut
into little-endian words of which the low ``ring_bits`` count. A key serves for one stream only, so
the constant nonce repeats nothing. Test vectors: ``tests/core/secure_sum/mask_vectors.json``.
"""

from __future__ import annotations

import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.ring import from_words, word_bytes

SEED_BYTES = 32

_MASK_DOMAIN = "fedhelp-secure/v1/mask"
_SEED_DOMAIN = "fedhelp-secure/v1/mask-seed"
_ZERO_NONCE = bytes(16)


def draw_seed() -> bytes:
    """32 bytes from the operating system; draw a new one for every contribution."""
    return secrets.token_bytes(SEED_BYTES)


def expand_mask(
    seed: bytes,
    *,
    charter_digest: str,
    round_number: int,
    hospital: str,
    values: int,
    ring_bits: int,
) -> NDArray[np.uint64]:
    """The mask of one contribution: uint64 [values], each below ``2**ring_bits``.

    Raises MalformedMessage unless the seed has 32 bytes: seeds reach a custodian from outside.
    """
    if len(seed) != SEED_BYTES:
        raise MalformedMessage("a mask seed must have 32 bytes; ask the hospital to send it again.")
    info = canonical_json(
        {
            "domain": _MASK_DOMAIN,
            "charter": charter_digest,
            "round": round_number,
            "hospital": hospital,
            "values": values,
            "ring_bits": ring_bits,
        }
    )
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(seed)
    encryptor = Cipher(ChaCha20(key, _ZERO_NONCE), mode=None).encryptor()
    return from_words(encryptor.update(bytes(values * word_bytes(ring_bits))), ring_bits)


def seed_info(
    *, charter_digest: str, round_number: int, hospital: str, ciphertext_digest: str
) -> bytes:
    """The HPKE ``info`` under which a seed is sealed: it opens for this contribution only."""
    return canonical_json(
        {
            "domain": _SEED_DOMAIN,
            "charter": charter_digest,
            "round": round_number,
            "hospital": hospital,
            "ciphertext_digest": ciphertext_digest,
        }
    )
