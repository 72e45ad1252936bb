"""A linearly homomorphic authenticator: recipients notice a sum that was altered on its way.

Every hospital knows a key K that the registrar drew for the charter and sealed to the hospitals
alone; aggregator, decryptor and unmaskers do not know it. In each round, in the ring Z of integers
modulo 2**B of the secure sum (B is ``packed_bits``, b is ``ring_bits``), for j = 1 .. T:

- a_j in Z^n: coefficients from K, charter and round;
- s_ij in Z: one-time pads from K, charter, round and hospital i;
- t_ij = <a_j, x_i> + s_ij: the tags of release x_i, sent as T more elements of it.

The recipients open X = sum of w_i x_i and T_j = sum of w_i t_ij, and accept only if
T_j = <a_j, X> + sum of w_i s_ij for every j, the sum of pads being over the cohort that is claimed.
This is the one-time linearly homomorphic MAC of the secure network coding literature (Agrawal and
Boneh, "Homomorphic MACs: MAC-based integrity for network coding", ACNS 2009) over a ring modulo a
power of two, where the spare bits make up for the even numbers (Cramer, Damgard, Escudero, Scholl
and Xing, "SPDZ2k", CRYPTO 2018).

**Forging.** Changing X by D (not zero) and T_j by d_j passes iff <a_j, D> = d_j for every j. Values
lie in b bits, so an entry of D is 2**v times an odd number with v at most b - 1, and <a_j, D> takes
at least 2**(B - b + 1) values with equal probability. Who does not know K sees the a_j only behind
the pads, so this has probability at most 2**-(T (B - b + 1)), and T is chosen to make that at most
2**-60 an attempt. A cohort, round, hospital or weight other than the claimed one changes the sum of
pads, by at least one uniform element times a weight of at most 64: no likelier. ChaCha20 and
HKDF-SHA256 stand in for random functions.

**What it tells.** An opened tag is a function of X, K and the cohort: nothing about a single
release that the sum does not tell.

**What it does not do.** Every hospital holds K: one that colludes with the aggregator can alter the
sum unnoticed (it could send any release anyway). The registrar held K when it made the charter.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import MalformedMessage, PeerError
from fedhelp_secure.sealing import SEALED_OVERHEAD, SealingKey
from fedhelp_secure.secure_sum import domains
from fedhelp_secure.secure_sum.ring import low_bits
from fedhelp_secure.secure_sum.streams import KEY_BYTES, RingStream, derive

FORGING_BITS = 60
"""A forgery passes with a probability of at most 2**-FORGING_BITS."""

SEALED_KEY_BYTES = KEY_BYTES + SEALED_OVERHEAD

_PAD_BYTES = 8


class SumForged(PeerError):
    """An opened sum is not the sum of what the cohort's hospitals released."""

    code = "sum-forged"


def check_elements(*, ring_bits: int, packed_bits: int) -> int:
    """T: how many elements the tags add to a release."""
    return -(-FORGING_BITS // (packed_bits - ring_bits + 1))


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
    """The round and the shape of the releases that an authenticator is for."""

    charter_digest: str
    round_number: int
    values: int
    packed_bits: int
    tags: int
    """T: see `check_elements`."""


class Authenticator:
    """One round's coefficients and pads. Its repr shows nothing of the key."""

    def __init__(self, key: bytes, purpose: RoundPurpose) -> None:
        """Raises MalformedMessage unless the key has 32 bytes."""
        if len(key) != KEY_BYTES:
            raise MalformedMessage("an authenticator key must have 32 bytes; ask the registrar.")
        self._key = key
        self._purpose = purpose

    def __repr__(self) -> str:
        return "Authenticator(...)"

    def product(self) -> InnerProducts:
        """An empty inner product with this round's coefficients."""
        key = self._derive(domains.AUTHENTICATOR_COEFFICIENTS, KEY_BYTES)
        return InnerProducts(key, packed_bits=self._purpose.packed_bits, tags=self._purpose.tags)

    def tags(self, product: InnerProducts, hospital: str) -> NDArray[np.uint64]:
        """The tags of a release whose values all went into ``product``: uint64 [T]."""
        self._check_length(product)
        return (product.results + self._pads(hospital)) & low_bits(self._purpose.packed_bits)

    def check(
        self,
        product: InnerProducts,
        tag_sums: NDArray[np.uint64],
        cohort: Iterable[tuple[str, int]],
    ) -> None:
        """Check an opened sum; ``cohort`` gives each hospital in it and its weight.

        ``tag_sums`` are the opened tags, uint64 [T]. Raises SumForged unless all of them fit.
        """
        self._check_length(product)
        expected = product.results
        for hospital, weight in cohort:
            expected = expected + np.uint64(weight) * self._pads(hospital)
        if (
            tag_sums.shape != expected.shape
            or ((tag_sums - expected) & low_bits(self._purpose.packed_bits)).any()
        ):
            raise SumForged(
                "an opened sum is not what the cohort's hospitals released: it was altered on its "
                "way. Do not use it, and ask an auditor to compare the custodians' statements."
            )

    def _check_length(self, product: InnerProducts) -> None:
        if product.values != self._purpose.values:
            raise MalformedMessage("an authenticator covers every value of a release, or none.")

    def _pads(self, hospital: str) -> NDArray[np.uint64]:
        length = _PAD_BYTES * self._purpose.tags
        data = self._derive(domains.AUTHENTICATOR_PAD, length, hospital=hospital)
        return np.frombuffer(data, dtype="<u8") & low_bits(self._purpose.packed_bits)

    def _derive(self, domain: str, length: int, **names: str) -> bytes:
        info = canonical_json(
            {
                "domain": domain,
                "charter": self._purpose.charter_digest,
                "round": self._purpose.round_number,
                **names,
            }
        )
        return derive(self._key, info, length)


class InnerProducts:
    """<a_j, x> modulo 2**B for every j, values coming in parts from the first to the last.

    The coefficients of value i are elements T i to T i + T - 1 of the stream of ``key``.
    """

    def __init__(self, key: bytes, *, packed_bits: int, tags: int) -> None:
        self._coefficients = RingStream(key, packed_bits)
        self._packed_bits = packed_bits
        self._sums = np.zeros(tags, dtype=np.uint64)
        self.values = 0

    @property
    def results(self) -> NDArray[np.uint64]:
        """Each inner product so far, uint64 [T]."""
        return self._sums & low_bits(self._packed_bits)

    def update(self, values: NDArray[np.int64]) -> None:
        """Go on with ``values``."""
        tags = self._sums.size
        coefficients = self._coefficients.take_words(values.size * tags).reshape(-1, tags)
        # Modulo the word's own power of two, which 2**B divides.
        self._sums = self._sums + values.astype(coefficients.dtype) @ coefficients
        self.values += values.size
