"""CKKS as an exact integer codec: encrypt frames of ring elements, decrypt frames of integers.

SEAL, degree 4096, one 60-bit prime q (192 bits of security by the homomorphic encryption standard),
depth 0. Only additions happen under encryption (`fedhelp_secure.secure_sum.residues`), so no Galois
or relinearisation keys exist, and nothing multiplies slots: integers are the *coefficients* of the
plaintext polynomial, shifted left by ``scale_bits``, instead of values of its canonical embedding.
Addition is the same, a frame carries ``polynomial_degree`` integers either way, and embedding would
cost a transform and multiply the noise by the root of the degree.

An encryption is an encryption of zero plus the plaintext, so a hospital keeps encryptions of zero
ready, as coefficients, and what is left to do in a round is an addition modulo q.

Integers stay exact while their sum stays below ``2**capacity_bits`` (checked by the charter), in
integer arithmetic throughout; rounding to them also removes the low bits that carry information on
the key (Li and Micciancio 2021, "On the Security of Homomorphic Encryption on Approximate
Numbers").

SEAL's parser meets foreign bytes in `SecretContext.decrypt_frame` alone, and there with a header of
our own and residues in range; call it in a process that may die all the same.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import LARGEST_NOISE_SHIFT, SecureSum
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum import residues, seal
from fedhelp_secure.secure_sum.residues import CiphertextRefused, ContextRefused, check_chunk
from fedhelp_secure.secure_sum.ring import OutsideRing, centre, check_elements, reduce

DEGREE = 4096
MODULUS_BITS = (60,)

_Key = TypeVar("_Key", sealapi.PublicKey, sealapi.SecretKey)

MAXIMUM_PREPARED = 1024
"""Encryptions of zero kept ready: 64 MiB of them."""


class NotAnInteger(PeerError):
    """A decrypted sum is not made of integers: not a sum of contributions under the charter."""

    code = "not-an-integer"


def generate_keys() -> tuple[bytes, bytes]:
    """A new key pair, as SEAL saves them: the secret key (33 KB) and the public one (66 KB)."""
    context = seal.seal_context(DEGREE, MODULUS_BITS)
    generator = sealapi.KeyGenerator(context)
    public = sealapi.PublicKey()
    generator.create_public_key(public)
    scratch = seal.Scratch()
    return scratch.saved(generator.secret_key()), scratch.saved(public)


class PublicContext:
    """The decryptor's public key. Make sure of ``digest`` before use. For one thread."""

    def __init__(self, public: bytes, secure_sum: SecureSum) -> None:
        """Raises ContextRefused unless ``public`` is a public key of these parameters."""
        self._secure_sum = secure_sum
        self._scratch = seal.Scratch()
        context = _context(secure_sum)
        key = _loaded(self._scratch, sealapi.PublicKey(), public, context)
        self._encryptor = sealapi.Encryptor(context, key)
        self._evaluator = sealapi.Evaluator(context)
        self._prepared: list[NDArray[np.uint64]] = []
        self.digest = digest(public)

    def prepare(self, frames: int) -> None:
        """Have at least ``frames`` encryptions of zero ready, at most MAXIMUM_PREPARED.

        They cost most of an encryption and need no data, so a hospital makes them while it waits
        for a round. Each is used once and never leaves memory.
        """
        while len(self._prepared) < min(frames, MAXIMUM_PREPARED):
            self._prepared.append(self._encrypted_zero())

    def encrypt_frame(self, elements: NDArray[np.uint64]) -> bytes:
        """The residues of a ciphertext of ``elements``: uint64, at most a frame, in the ring.

        Raises OutsideRing for any other shape or range.
        """
        check_elements(elements, self._secure_sum.packed_bits)
        degree = self._secure_sum.polynomial_degree
        if not 0 < elements.size <= degree:
            raise OutsideRing(f"a frame holds 1 to {degree} elements.")
        message = centre(elements, self._secure_sum.packed_bits) << self._secure_sum.scale_bits
        frame = self._prepared.pop() if self._prepared else self._encrypted_zero()
        used = slice(elements.size)
        frame[used] = residues.add(frame[used], residues.of_signed(message))
        return frame.tobytes()

    def _encrypted_zero(self) -> NDArray[np.uint64]:
        """The coefficients of a fresh encryption of zero, uint64 [2 * polynomial_degree]."""
        ciphertext = sealapi.Ciphertext()
        self._encryptor.encrypt_zero(ciphertext)
        self._evaluator.transform_from_ntt_inplace(ciphertext)
        return _residues_of(self._scratch.saved(ciphertext), self._secure_sum).copy()


class SecretContext:
    """The decryptor's secret key. Its repr shows nothing of it. For one thread."""

    def __init__(self, secret: bytes, secure_sum: SecureSum) -> None:
        """Raises ContextRefused unless ``secret`` is a secret key of these parameters."""
        self._secure_sum = secure_sum
        self._scratch = seal.Scratch()
        self._context = _context(secure_sum)
        key = _loaded(self._scratch, sealapi.SecretKey(), secret, self._context)
        self._decryptor = sealapi.Decryptor(self._context, key)
        self._evaluator = sealapi.Evaluator(self._context)
        self._prefix = _prefix(secure_sum)
        # SEAL gives a plaintext's coefficients back only as part of a ciphertext; this one, random
        # and known, carries them through the inverse transform.
        self._carrier = sealapi.Ciphertext()
        sealapi.Encryptor(self._context, key).encrypt_zero_symmetric(self._carrier)
        coefficients = sealapi.Ciphertext()
        self._evaluator.transform_from_ntt(self._carrier, coefficients)
        self._carried = self._first_polynomial(coefficients)

    def __repr__(self) -> str:
        return "SecretContext(...)"

    def decrypt_frame(self, frame: bytes) -> NDArray[np.uint64]:
        """The integers in ``frame`` modulo ``2**packed_bits``: uint64 [polynomial_degree].

        Raises CiphertextRefused if it is not one frame of residues, and NotAnInteger if any number,
        padding included, is further than 1/4 from an integer.
        """
        numbers = self.decrypt_coefficients(frame)
        scale_bits = self._secure_sum.scale_bits
        nearest = (numbers + (1 << (scale_bits - 1))) >> scale_bits
        distances = np.abs(numbers - (nearest << scale_bits))
        # The charter's scale keeps honest sums within this but for a chance of 2**-60
        # (`fedhelp_secure.charter.CKKS_NOISE_UNITS`).
        if distances.max() > 1 << (scale_bits - LARGEST_NOISE_SHIFT):
            raise NotAnInteger(
                "a decrypted sum is not made of integers; find the contribution that was not "
                "encrypted under this charter and run the round without it."
            )
        # Two's complement: the low bits of a negative integer are its residue too.
        return reduce(nearest.view(np.uint64), self._secure_sum.packed_bits)

    def decrypt_coefficients(self, frame: bytes) -> NDArray[np.int64]:
        """Every integer times ``2**scale_bits`` plus CKKS noise: int64 [polynomial_degree].

        The noise carries information on the key: never let these numbers out. Raises
        CiphertextRefused.
        """
        if len(frame) != self._secure_sum.frame_bytes:
            raise _not_parsed()
        check_chunk(frame, self._secure_sum)
        plaintext, carried = sealapi.Plaintext(), sealapi.Ciphertext()
        try:
            ciphertext = self._scratch.load(
                sealapi.Ciphertext(), self._prefix + frame, self._context
            )
            self._evaluator.transform_to_ntt_inplace(ciphertext)
            self._decryptor.decrypt(ciphertext, plaintext)
            self._evaluator.add_plain(self._carrier, plaintext, carried)
            self._evaluator.transform_from_ntt_inplace(carried)
            sums = self._first_polynomial(carried)
        except seal.ERRORS as error:
            raise _not_parsed() from error
        return residues.signed(residues.subtract(sums, self._carried))

    def _first_polynomial(self, ciphertext: sealapi.Ciphertext) -> NDArray[np.uint64]:
        both = _residues_of(self._scratch.saved(ciphertext), self._secure_sum)
        return both[: self._secure_sum.polynomial_degree]


def _context(secure_sum: SecureSum) -> sealapi.SEALContext:
    return seal.seal_context(
        secure_sum.polynomial_degree, tuple(secure_sum.coefficient_modulus_bits)
    )


def _prefix(secure_sum: SecureSum) -> bytes:
    return seal.saved_prefix(
        secure_sum.polynomial_degree, tuple(secure_sum.coefficient_modulus_bits)
    )


def _residues_of(saved: bytes, secure_sum: SecureSum) -> NDArray[np.uint64]:
    """The coefficients in a ciphertext of our own that SEAL saved: uint64, read-only."""
    prefix = _prefix(secure_sum)
    # Compression may only have changed its length if the residues are not random.
    if len(saved) != len(prefix) + secure_sum.frame_bytes or not saved.startswith(prefix):
        raise seal.unknown_form()
    return np.frombuffer(saved, dtype="<u8", offset=len(prefix))


def _loaded(scratch: seal.Scratch, key: _Key, data: bytes, context: sealapi.SEALContext) -> _Key:
    try:
        return scratch.load(key, data, context)
    except seal.ERRORS as error:
        raise ContextRefused(
            "a CKKS key cannot be read, or has other parameters than the charter; use the "
            "decryptor that the charter names."
        ) from error


def _not_parsed() -> CiphertextRefused:
    return CiphertextRefused(
        "a ciphertext cannot be parsed; ask its sender to encrypt and send it again."
    )
