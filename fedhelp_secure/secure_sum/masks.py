"""One-time masks: uniformly random ring vectors that 32-byte seeds determine.

A hospital draws one seed for every unmasker, and its mask is the sum of their streams: whoever
lacks one seed knows nothing of the mask.

The key of a stream is derived from the seed with everything that names the contribution and the
unmasker in ``info``: see `fedhelp_secure.secure_sum.streams`. Test vectors:
``tests/core/secure_sum/mask_vectors.json``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum import domains
from fedhelp_secure.secure_sum.ring import add, reduce, scale
from fedhelp_secure.secure_sum.streams import RingStream, derive

SEED_BYTES = 32


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

    def seed_info(self, ciphertext_digest: str, round_keys_digest: str) -> bytes:
        """The HPKE ``info`` under which a seed is sealed.

        It opens for this contribution only, and for the one beginning of the round that
        ``round_keys_digest`` names (`fedhelp_secure.secure_sum.round_keys`).
        """
        return canonical_json(
            {
                "domain": domains.MASK_SEED,
                "charter": self.charter_digest,
                "round": self.round_number,
                "hospital": self.hospital,
                "unmasker": self.unmasker,
                "ciphertext_digest": ciphertext_digest,
                "round_keys_digest": round_keys_digest,
            }
        )


class MaskStream(RingStream):
    """The mask of one seed, read from its beginning in parts of any length."""

    def __init__(self, seed: bytes, purpose: MaskPurpose) -> None:
        """Raises MalformedMessage unless the seed has 32 bytes: seeds come from outside."""
        if len(seed) != SEED_BYTES:
            raise MalformedMessage(
                "a mask seed must have 32 bytes; ask the hospital to send it again."
            )
        super().__init__(derive(seed, purpose.key_info()), purpose.packed_bits)


def weighted_mask_sum(
    streams: Sequence[tuple[int, MaskStream]], sizes: Iterable[int], packed_bits: int
) -> Iterator[NDArray[np.uint64]]:
    """The sum of weight times mask, in frames of ``sizes`` elements: uint64, in the ring."""
    by_weight: dict[int, list[MaskStream]] = {}
    for weight, stream in streams:
        by_weight.setdefault(weight, []).append(stream)
    for size in sizes:
        total = np.zeros(size, dtype=np.uint64)
        for weight, equal in by_weight.items():
            part = np.zeros(size, dtype=np.uint64)
            for stream in equal:
                # Wraps modulo 2**64, which 2**packed_bits divides.
                part += stream.take(size)
            total = add(total, scale(reduce(part, packed_bits), weight, packed_bits), packed_bits)
        yield total


def draw_seed() -> bytes:
    """32 bytes from the operating system; draw a new one for every contribution and unmasker."""
    return secrets.token_bytes(SEED_BYTES)
