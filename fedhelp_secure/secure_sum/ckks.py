"""CKKS as an exact integer codec: encrypt ring vectors, add them with weights, decrypt integers.

TenSEAL (SEAL underneath), degree 4096, modulus [60, 49], depth 0. Only additions happen under
encryption, so no Galois or relinearisation keys exist. Integers stay exact while they remain below
``2**capacity_bits`` (checked by the charter); rounding to them also removes the low bits that carry
information on the key (Li and Micciancio 2021, "On the Security of Homomorphic Encryption on
Approximate Numbers").

Parsing foreign ciphertexts can crash the process even after `check_framing`, as far as anybody
knows: call `PublicContext.weighted_sum` and `SecretContext.decrypt` in a process that may die.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
import tenseal
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum.framing import (
    CiphertextRefused,
    check_framing,
    frames,
    slots,
    split_frames,
)
from fedhelp_secure.secure_sum.ring import OutsideRing, check_elements, reduce
from fedhelp_secure.secure_sum.tenseal_context import new_context, parameters_id, serialise

DEGREE = 4096
MODULUS_BITS = (60, 49)
SCALE_BITS = 22

LARGEST_DISTANCE = 1 / 8
"""A decrypted slot may be so far from an integer; forty ciphertexts added at scale 2**22 came to
0.006."""

_TENSEAL_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError)
"""What TenSEAL and its bindings raise on bytes that they do not accept."""


class ContextRefused(PeerError):
    """A CKKS context has other parameters than the charter, or keys that it must not hold."""

    code = "context"


class NotAnInteger(PeerError):
    """A decrypted sum is not made of integers: not a sum of contributions under the charter."""

    code = "not-an-integer"


def generate_keys(scale_bits: int = SCALE_BITS) -> tuple[bytes, bytes]:
    """A new key pair: the secret context (about 187 KB) and the public one (about 125 KB)."""
    context = new_context(DEGREE, MODULUS_BITS, scale_bits)
    return serialise(context, secret=True), serialise(context, secret=False)


class PublicContext:
    """The decryptor's public key. Make sure of ``digest`` before use: see `check_pinned`."""

    def __init__(self, public: bytes, secure_sum: SecureSum) -> None:
        """Raises ContextRefused for other parameters than ``secure_sum``'s, or extra keys."""
        self._secure_sum = secure_sum
        self._context = _load(public, secure_sum)
        if self._context.has_secret_key():
            raise ContextRefused(
                "the public context holds a secret key; delete it and ask the decryptor for new "
                "keys."
            )
        if not self._context.has_public_key():
            raise ContextRefused("the public context holds no public key; fetch it again.")
        if self._context.has_galois_keys() or self._context.has_relin_keys():
            raise ContextRefused("the public context holds keys that no sum needs; fetch it again.")
        self.digest = digest(public)

    def encrypt(self, elements: NDArray[np.uint64]) -> bytes:
        """The ciphertext of ``elements`` (uint64 [values], in the ring), of constant length.

        Raises OutsideRing for any other shape or range.
        """
        check_elements(elements, self._secure_sum.ring_bits)
        if elements.shape != (self._secure_sum.values,):
            raise OutsideRing(f"a release must have {self._secure_sum.values} integers.")
        width = slots(self._secure_sum)
        padded = np.zeros(frames(self._secure_sum) * width, dtype=np.float64)
        padded[: elements.size] = elements
        ciphertext = b"".join(
            tenseal.ckks_vector(self._context, padded[start : start + width].tolist()).serialize()
            for start in range(0, padded.size, width)
        )
        check_framing(ciphertext, self._secure_sum)
        return ciphertext

    def weighted_sum(self, parts: Sequence[tuple[int, bytes]]) -> bytes:
        """The ciphertext of the sum of weight times plaintext over ``parts``.

        Weights are whole numbers from 1; multiplying is repeated doubling, so no level is used.
        Raises CiphertextRefused for an empty sum or for a part that is not a ciphertext.
        """
        if not parts or any(weight < 1 for weight, _ in parts):
            raise CiphertextRefused("a sum needs contributions, each with a weight of at least 1.")
        split = [(weight, split_frames(part, self._secure_sum)) for weight, part in parts]
        total = b"".join(
            self._sum_frame([(weight, part[index]) for weight, part in split])
            for index in range(frames(self._secure_sum))
        )
        check_framing(total, self._secure_sum)
        return total

    def _sum_frame(self, parts: Sequence[tuple[int, bytes]]) -> bytes:
        try:
            vectors = (
                _multiple(tenseal.ckks_vector_from(self._context, frame), weight)
                for weight, frame in parts
            )
            serialised: bytes = functools.reduce(operator.add, vectors).serialize()
        except _TENSEAL_ERRORS as error:
            raise _not_parsed() from error
        return serialised


class SecretContext:
    """The decryptor's secret key. Its repr shows nothing of it."""

    def __init__(self, secret: bytes, secure_sum: SecureSum) -> None:
        """Raises ContextRefused for other parameters than ``secure_sum``'s, or no secret key."""
        self._secure_sum = secure_sum
        self._context = _load(secret, secure_sum)
        if not self._context.has_secret_key():
            raise ContextRefused("the secret context holds no secret key; prepare this state anew.")

    def __repr__(self) -> str:
        return "SecretContext(...)"

    def decrypt(self, ciphertext: bytes) -> NDArray[np.uint64]:
        """The integers in ``ciphertext`` modulo ``2**ring_bits``: uint64 [values].

        Raises CiphertextRefused if it cannot be parsed, and NotAnInteger if any slot, padding
        included, is further than 1/8 from an integer.
        """
        parts = split_frames(ciphertext, self._secure_sum)
        reals = np.concatenate([self._decrypt_frame(frame) for frame in parts])
        nearest = np.rint(reals)
        # Written so that a NaN is refused too.
        if not (np.abs(reals - nearest) <= LARGEST_DISTANCE).all():
            raise NotAnInteger(
                "a decrypted sum is not made of integers; find the contribution that was not "
                "encrypted under this charter and run the round without it."
            )
        integers = nearest[: self._secure_sum.values].astype(np.int64)
        # Two's complement: the low bits of a negative integer are its residue too.
        return reduce(integers.astype(np.uint64), self._secure_sum.ring_bits)

    def _decrypt_frame(self, frame: bytes) -> NDArray[np.float64]:
        try:
            slots_of_frame = tenseal.ckks_vector_from(self._context, frame).decrypt()
        except _TENSEAL_ERRORS as error:
            raise _not_parsed() from error
        reals = np.array(slots_of_frame, dtype=np.float64)
        if reals.shape != (slots(self._secure_sum),):
            raise _not_parsed()
        return reals


def _load(data: bytes, secure_sum: SecureSum) -> tenseal.Context:
    try:
        context = tenseal.context_from(data, n_threads=1)
        scale = context.global_scale
        found = parameters_id(context)
    except _TENSEAL_ERRORS as error:
        raise ContextRefused("a CKKS context cannot be read; fetch it again.") from error
    wanted = new_context(
        secure_sum.polynomial_degree,
        tuple(secure_sum.coefficient_modulus_bits),
        secure_sum.scale_bits,
    )
    if found != parameters_id(wanted) or scale != wanted.global_scale:
        raise ContextRefused(
            "a CKKS context has other parameters than the charter; use the decryptor that the "
            "charter names."
        )
    return context


def _multiple(vector: tenseal.CKKSVector, weight: int) -> tenseal.CKKSVector:
    """``weight`` times ``vector``, by doubling and adding."""
    result: tenseal.CKKSVector | None = None
    power = vector
    while True:
        if weight & 1:
            result = power if result is None else result + power
        weight >>= 1
        if not weight:
            return result
        power = power + power


def _not_parsed() -> CiphertextRefused:
    return CiphertextRefused(
        "a ciphertext cannot be parsed; ask its sender to encrypt and send it again."
    )
