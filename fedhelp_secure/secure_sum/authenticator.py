"""A linearly homomorphic authenticator: recipients notice a sum that was altered on its way.

Every hospital knows a key K that the registrar drew for the charter and sealed to the hospitals
alone; aggregator, decryptor and unmaskers do not know it. In each round, with p = 2**31 - 1:

- a_j in Z_p^n for j = 0, 1: coefficients from K, charter and round;
- s_ij in Z_p: one-time pads from K, charter, round and hospital i;
- t_ij = <a_j, x_i> + s_ij mod p: the two tags of release x_i, sent as additional values of it.

The recipients open X = sum of w_i x_i and T_j = sum of w_i t_ij, and accept only if
T_j = <a_j, X> + sum of w_i s_ij mod p for both j, the sum of pads being over the cohort that is
claimed. This is the one-time linearly homomorphic MAC of the secure network coding literature
(Agrawal and Boneh, "Homomorphic MACs: MAC-based integrity for network coding", ACNS 2009), twice.

**Forging.** Changing X by D (not zero modulo p: values lie in a ring of at most 30 bits) and T_j by
d_j passes iff <a_j, D> = d_j for both j. Who does not know K sees the a_j only behind the pads, so
this has probability at most (2/p)**2 < 2**-59 over K: the factor 2 because a coefficient is a
31-bit word in which p counts as 0. Another cohort, round, hospital or weight changes the pads'
sum, and is accepted with probability at most (2/p)**2 as well. ChaCha20 and HKDF-SHA256 stand in
for random functions.

**What it does not do.** Every hospital holds K: one that colludes with the aggregator can alter the
sum unnoticed (it could send any release anyway). The registrar held K when it made the charter.

A tag is written in digits small enough that their weighted sum stays inside a value's lane.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import InternalError, MalformedMessage, PeerError
from fedhelp_secure.sealing import SEALED_OVERHEAD, SealingKey
from fedhelp_secure.secure_sum import domains

PRIME = (1 << 31) - 1
TAG_BITS = 31
TAGS = 2
KEY_BYTES = 32
SEALED_KEY_BYTES = KEY_BYTES + SEALED_OVERHEAD
LARGEST_RING_BITS = 30
"""A change of a value by a multiple of the prime would go unnoticed; so none fits the ring."""

_PAD_BYTES = 16
_EXACT_TERMS = 1 << 16
"""So many products of 30-bit values and 16-bit halves of coefficients add up exactly in int64."""
_ZERO_NONCE = bytes(16)


class SumForged(PeerError):
    """An opened sum is not the sum of what the cohort's hospitals released."""

    code = "sum-forged"


class NoRoomForTags(InternalError):
    """The ring is too narrow for a digit of a tag."""

    code = "tags"


def digit_bits(ring_bits: int, total_weight: int) -> int:
    """Bits of a tag's digit: ``total_weight`` of them must add up within half a lane."""
    bits = ring_bits - 1 - total_weight.bit_length()
    if bits < 1:
        raise NoRoomForTags(
            f"a ring of {ring_bits} bits has no room for a total weight of {total_weight}."
        )
    return bits


def check_values(ring_bits: int, total_weight: int) -> int:
    """How many values the two tags add to a release."""
    return TAGS * -(-TAG_BITS // digit_bits(ring_bits, total_weight))


def key_info(*, federation: str, charter_name: str, created: str, hospital: str) -> bytes:
    """The HPKE ``info`` under which the registrar seals the key to one hospital."""
    return canonical_json(
        {
            "domain": domains.AUTHENTICATOR_KEY,
            "federation": federation,
            "name": charter_name,
            "created": created,
            "hospital": hospital,
        }
    )


def seal_new_key(
    hospitals: Mapping[str, SealingKey], *, federation: str, charter_name: str, created: str
) -> dict[str, str]:
    """A new key sealed to every hospital, as a charter lists it: base64, by name. Nobody keeps it.

    ``federation``, ``charter_name`` and ``created`` are the charter's own entries.
    """
    key = secrets.token_bytes(KEY_BYTES)
    sealed = {}
    for name, recipient in hospitals.items():
        info = key_info(
            federation=federation, charter_name=charter_name, created=created, hospital=name
        )
        sealed[name] = base64.b64encode(recipient.seal(key, info)).decode("ascii")
    return sealed


@dataclass(frozen=True, slots=True)
class RoundPurpose:
    """The round and the shape of the values that an authenticator is for."""

    charter_digest: str
    round_number: int
    values: int
    ring_bits: int
    total_weight: int


class Authenticator:
    """One round's coefficients and pads. Its repr shows nothing of the key."""

    def __init__(self, key: bytes, purpose: RoundPurpose) -> None:
        """Raises MalformedMessage unless the key has 32 bytes."""
        if len(key) != KEY_BYTES:
            raise MalformedMessage("an authenticator key must have 32 bytes; ask the registrar.")
        self._key = key
        self._purpose = purpose
        self._digit_bits = digit_bits(purpose.ring_bits, purpose.total_weight)

    def __repr__(self) -> str:
        return "Authenticator(...)"

    def product(self) -> InnerProducts:
        """An empty inner product with this round's coefficients."""
        return InnerProducts(self._derive(domains.AUTHENTICATOR_COEFFICIENTS, 32))

    def tag_values(self, product: InnerProducts, hospital: str) -> NDArray[np.int64]:
        """The check values of a release whose values all went into ``product``: int64."""
        self._check_length(product)
        digits = [
            digit
            for inner, pad in zip(product.results, self._pads(hospital), strict=True)
            for digit in self._digits((inner + pad) % PRIME)
        ]
        return np.array(digits, dtype=np.int64)

    def check(
        self,
        product: InnerProducts,
        tag_sums: NDArray[np.int64],
        cohort: Iterable[tuple[str, int]],
    ) -> None:
        """Check an opened sum; ``cohort`` gives each hospital in it and its weight.

        ``tag_sums`` are the opened check values. Raises SumForged unless both tags fit.
        """
        self._check_length(product)
        width = len(tag_sums) // TAGS
        pads = [0] * TAGS
        for hospital, weight in cohort:
            pads = [
                total + weight * pad for total, pad in zip(pads, self._pads(hospital), strict=True)
            ]
        for index, (inner, pad) in enumerate(zip(product.results, pads, strict=True)):
            digits = tag_sums[index * width : (index + 1) * width].tolist()
            opened = sum(digit << (self._digit_bits * place) for place, digit in enumerate(digits))
            if (opened - inner - pad) % PRIME:
                raise SumForged(
                    "an opened sum is not what the cohort's hospitals released: it was altered "
                    "on its way. Do not use it, and ask an auditor to compare the custodians' "
                    "statements."
                )

    def _check_length(self, product: InnerProducts) -> None:
        if product.values != self._purpose.values:
            raise MalformedMessage("an authenticator covers every value of a release, or none.")

    def _digits(self, tag: int) -> list[int]:
        count = -(-TAG_BITS // self._digit_bits)
        low = (1 << self._digit_bits) - 1
        return [(tag >> (self._digit_bits * place)) & low for place in range(count)]

    def _pads(self, hospital: str) -> list[int]:
        data = self._derive(domains.AUTHENTICATOR_PAD, TAGS * _PAD_BYTES, hospital=hospital)
        return [
            int.from_bytes(data[start : start + _PAD_BYTES], "little") % PRIME
            for start in range(0, len(data), _PAD_BYTES)
        ]

    def _derive(self, domain: str, length: int, **names: str) -> bytes:
        info = canonical_json(
            {
                "domain": domain,
                "charter": self._purpose.charter_digest,
                "round": self._purpose.round_number,
                **names,
            }
        )
        return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(self._key)


class InnerProducts:
    """<a_j, x> mod p for both j, values coming in parts from the first to the last.

    The coefficients of value i are words 2i and 2i + 1 (32 bits each, little-endian, the low 31
    bits count, p is 0) of the ChaCha20 key stream of ``key`` (RFC 8439, nonce and counter zero).
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, _ZERO_NONCE), mode=None).encryptor()
        self._sums = [0] * TAGS
        self.values = 0

    @property
    def results(self) -> tuple[int, ...]:
        """Each inner product so far, in [0, p)."""
        return tuple(total % PRIME for total in self._sums)

    def update(self, values: NDArray[np.int64]) -> None:
        """Go on with ``values``, of a magnitude below 2**30."""
        stream = self._encryptor.update(bytes(4 * TAGS * values.size))
        words = np.frombuffer(stream, dtype="<u4").reshape(-1, TAGS)
        low = (words & np.uint32(0xFFFF)).astype(np.int64)
        high = ((words & np.uint32(PRIME)) >> np.uint32(16)).astype(np.int64)
        for start in range(0, values.size, _EXACT_TERMS):
            part = slice(start, start + _EXACT_TERMS)
            lows, highs = values[part] @ low[part], values[part] @ high[part]
            for tag in range(TAGS):
                self._sums[tag] += int(lows[tag]) + (int(highs[tag]) << 16)
        self.values += values.size
