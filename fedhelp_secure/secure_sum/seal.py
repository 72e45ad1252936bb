"""SEAL through TenSEAL: the only place that makes a context, and the form SEAL saves things in.

TenSEAL's own vectors use the real halves of the slots only, and carry its headers. Its ``sealapi``
binds SEAL itself: complex slots (two numbers a slot), and ciphertexts saved to a path, for which an
anonymous file in memory serves. (Linux: ``memfd_create``.)
"""

from __future__ import annotations

import os
import weakref
from functools import lru_cache

import tenseal
from tenseal import sealapi

from fedhelp_secure.errors import InternalError

ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError)
"""What TenSEAL, SEAL and their bindings raise on bytes that they do not accept."""


class UnknownCiphertextForm(InternalError):
    """The installed TenSEAL writes ciphertexts in another form than this release knows."""

    code = "ciphertext-form"


def new_context(degree: int, modulus_bits: tuple[int, ...], scale_bits: int) -> tenseal.Context:
    """A CKKS context with a new key pair from the operating system's randomness.

    SEAL refuses parameters below 128 bits of security by the homomorphic encryption standard.
    """
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=list(modulus_bits), n_threads=1
    )
    context.global_scale = 2.0**scale_bits
    return context


def serialise(context: tenseal.Context, *, secret: bool) -> bytes:
    """The context with its public key, without Galois or relinearisation keys."""
    data: bytes = context.serialize(
        save_public_key=True,
        save_secret_key=secret,
        save_galois_keys=False,
        save_relin_keys=False,
    )
    return data


def parameters_id(context: tenseal.Context) -> tuple[int, ...]:
    """SEAL's digest of scheme, degree and every prime of the modulus: four 64-bit words."""
    return tuple(context.data.seal_context().key_parms_id())


class Scratch:
    """A file in memory that SEAL saves to and loads from. For one thread."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("ciphertext")
        self._path = f"/proc/self/fd/{self._descriptor}"
        weakref.finalize(self, os.close, self._descriptor)

    def saved(self, ciphertext: sealapi.Ciphertext) -> bytes:
        """``ciphertext`` as SEAL saves it."""
        ciphertext.save(self._path)
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def loaded(self, data: bytes, context: sealapi.SEALContext) -> sealapi.Ciphertext:
        """The ciphertext in ``data``; raises one of ERRORS for anything else."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        ciphertext = sealapi.Ciphertext()
        ciphertext.load(context, self._path)
        return ciphertext


@lru_cache(maxsize=16)
def saved_prefix(degree: int, modulus_bits: tuple[int, ...], scale_bits: int) -> bytes:
    """What SEAL writes before the residues of every fresh ciphertext under these parameters.

    Its header, the frame of its (useless, as residues are random) compression, the parameters'
    identifier and the scale: constant, so learnt once from two ciphertexts of a throw-away key.
    Raises UnknownCiphertextForm if the installed TenSEAL writes anything else.
    """
    context = new_context(degree, modulus_bits, scale_bits)
    seal_context = context.data.seal_context()
    encryptor = sealapi.Encryptor(seal_context, context.public_key().data)
    zero = sealapi.Plaintext()
    sealapi.CKKSEncoder(seal_context).encode([0j] * (degree // 2), 2.0**scale_bits, zero)
    scratch = Scratch()
    saved = []
    for _ in range(2):
        ciphertext = sealapi.Ciphertext()
        encryptor.encrypt(zero, ciphertext)
        saved.append(scratch.saved(ciphertext))
    residue_bytes = 2 * degree * 8 * (len(modulus_bits) - 1)
    length = len(saved[0]) - residue_bytes
    if length <= 0 or len(saved[0]) != len(saved[1]) or saved[0][:length] != saved[1][:length]:
        raise unknown_form()
    return saved[0][:length]


def unknown_form() -> UnknownCiphertextForm:
    """To raise where a ciphertext of our own has an unexpected form."""
    return UnknownCiphertextForm(
        "the installed TenSEAL writes ciphertexts in an unknown form; install the version that "
        "this release names."
    )
