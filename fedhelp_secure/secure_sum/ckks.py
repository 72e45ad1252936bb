"""CKKS as an exact integer codec: encrypt frames of ring elements, decrypt frames of integers.

SEAL, degree 4096, one 60-bit prime (192 bits of security by the homomorphic encryption standard),
depth 0. Only additions happen under encryption (`fedhelp_secure.secure_sum.residues`), so no Galois
or relinearisation keys exist. A frame carries ``polynomial_degree`` integers, one in the real and
one in the imaginary part of each slot. Integers stay exact while their sum stays below
``2**capacity_bits`` (checked by the charter); rounding to them also removes the low bits that carry
information on the key (Li and Micciancio 2021, "On the Security of Homomorphic Encryption on
Approximate Numbers").

SEAL's parser meets foreign bytes in `SecretContext.decrypt_frame` alone, and there with a header of
our own and residues in range; call it in a process that may die all the same.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tenseal import sealapi

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum import seal
from fedhelp_secure.secure_sum.residues import CiphertextRefused, ContextRefused, check_chunk
from fedhelp_secure.secure_sum.ring import OutsideRing, centre, check_elements, reduce

DEGREE = 4096
MODULUS_BITS = (60,)

_Key = TypeVar("_Key", sealapi.PublicKey, sealapi.SecretKey)

MAXIMUM_PREPARED = 1024
"""Encryptions of zero kept ready: 64 MiB of them."""

LARGEST_DISTANCE = 1 / 4
"""A decrypted number may be so far from an integer; the charter's scale keeps honest sums within
it but for a chance of 2**-60 (`fedhelp_secure.charter.CKKS_NOISE_UNITS`)."""


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
        self._encoder = sealapi.CKKSEncoder(context)
        self._encryptor = sealapi.Encryptor(context, key)
        self._prefix = _prefix(secure_sum)
        self._scale = 2.0**secure_sum.scale_bits
        self._evaluator = sealapi.Evaluator(context)
        self._zero = sealapi.Plaintext()
        slots = secure_sum.polynomial_degree // 2
        self._encoder.encode([0j] * slots, self._scale, self._zero)
        self._prepared: list[sealapi.Ciphertext] = []
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
        padded = np.zeros(degree, dtype=np.float64)
        padded[: elements.size] = centre(elements, self._secure_sum.packed_bits)
        halves = padded.reshape(2, -1)
        plaintext = sealapi.Plaintext()
        self._encoder.encode((halves[0] + 1j * halves[1]).tolist(), self._scale, plaintext)
        # An encryption is an encryption of zero plus the plaintext; SEAL does it in this order too.
        ciphertext = self._prepared.pop() if self._prepared else self._encrypted_zero()
        self._evaluator.add_plain_inplace(ciphertext, plaintext)
        saved = self._scratch.saved(ciphertext)
        frame = saved[len(self._prefix) :]
        if len(frame) != self._secure_sum.frame_bytes or not saved.startswith(self._prefix):
            raise seal.unknown_form()
        return frame

    def _encrypted_zero(self) -> sealapi.Ciphertext:
        ciphertext = sealapi.Ciphertext()
        self._encryptor.encrypt(self._zero, ciphertext)
        return ciphertext


class SecretContext:
    """The decryptor's secret key. Its repr shows nothing of it. For one thread."""

    def __init__(self, secret: bytes, secure_sum: SecureSum) -> None:
        """Raises ContextRefused unless ``secret`` is a secret key of these parameters."""
        self._secure_sum = secure_sum
        self._scratch = seal.Scratch()
        self._context = _context(secure_sum)
        key = _loaded(self._scratch, sealapi.SecretKey(), secret, self._context)
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._decryptor = sealapi.Decryptor(self._context, key)
        self._prefix = _prefix(secure_sum)

    def __repr__(self) -> str:
        return "SecretContext(...)"

    def decrypt_frame(self, frame: bytes) -> NDArray[np.uint64]:
        """The integers in ``frame`` modulo ``2**packed_bits``: uint64 [polynomial_degree].

        Raises CiphertextRefused if it is not one frame of residues, and NotAnInteger if any number,
        padding included, is further than 1/4 from an integer.
        """
        if len(frame) != self._secure_sum.frame_bytes:
            raise _not_parsed()
        check_chunk(frame, self._secure_sum)
        plaintext = sealapi.Plaintext()
        try:
            ciphertext = self._scratch.load(
                sealapi.Ciphertext(), self._prefix + frame, self._context
            )
            self._decryptor.decrypt(ciphertext, plaintext)
            slots = np.array(self._encoder.decode_complex(plaintext))
        except seal.ERRORS as error:
            raise _not_parsed() from error
        reals = np.concatenate([slots.real, slots.imag])
        nearest = np.rint(reals)
        # Written so that a NaN is refused too.
        if not (np.abs(reals - nearest) <= LARGEST_DISTANCE).all():
            raise NotAnInteger(
                "a decrypted sum is not made of integers; find the contribution that was not "
                "encrypted under this charter and run the round without it."
            )
        # Two's complement: the low bits of a negative integer are its residue too.
        return reduce(nearest.astype(np.int64).astype(np.uint64), self._secure_sum.packed_bits)


def _context(secure_sum: SecureSum) -> sealapi.SEALContext:
    return seal.seal_context(
        secure_sum.polynomial_degree, tuple(secure_sum.coefficient_modulus_bits)
    )


def _prefix(secure_sum: SecureSum) -> bytes:
    return seal.saved_prefix(
        secure_sum.polynomial_degree,
        tuple(secure_sum.coefficient_modulus_bits),
        secure_sum.scale_bits,
    )


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
