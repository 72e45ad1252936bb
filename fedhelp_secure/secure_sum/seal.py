"""SEAL as TenSEAL ships it: contexts, keys and the form in which SEAL saves things.

TenSEAL's own vectors use the real halves of the slots only, need a second prime for key switching
(which a sum at depth 0 never does), and carry their headers along. Its ``sealapi`` binds SEAL
itself: one prime, polynomials as coefficients or as transforms, and objects saved to a path, for
which an anonymous file in memory serves. (Linux: ``memfd_create``.)
"""

from __future__ import annotations

import os
import weakref
from functools import lru_cache
from typing import TypeVar

from tenseal import sealapi

from fedhelp_secure.errors import InternalError

ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError)
"""What SEAL and its bindings raise on bytes that they do not accept."""

_Saved = TypeVar("_Saved", sealapi.Ciphertext, sealapi.PublicKey, sealapi.SecretKey)


class UnknownCiphertextForm(InternalError):
    """The installed TenSEAL writes ciphertexts in another form than this release knows."""

    code = "ciphertext-form"


@lru_cache(maxsize=4)
def seal_context(degree: int, modulus_bits: tuple[int, ...]) -> sealapi.SEALContext:
    """The CKKS context of these parameters.

    Raises UnknownCiphertextForm unless they have 192 bits of security by the homomorphic encryption
    standard (which gives 4096 a modulus of at most 75 bits there; 109 for 128 bits).
    """
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(degree)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(degree, list(modulus_bits)))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC192)
    if not context.parameters_set():
        raise UnknownCiphertextForm(
            f"SEAL refuses the parameters: {context.parameters_error_name()}; install the version "
            "that this release names."
        )
    return context


class Scratch:
    """A file in memory that SEAL saves to and loads from. For one thread."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("seal")
        self._path = f"/proc/self/fd/{self._descriptor}"
        weakref.finalize(self, os.close, self._descriptor)

    def saved(self, thing: _Saved) -> bytes:
        """``thing`` as SEAL saves it."""
        thing.save(self._path)
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def load(self, thing: _Saved, data: bytes, context: sealapi.SEALContext) -> _Saved:
        """``thing`` after it was read from ``data``; raises one of ERRORS for anything else."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)
        thing.load(context, self._path)
        return thing


@lru_cache(maxsize=4)
def saved_prefix(degree: int, modulus_bits: tuple[int, ...]) -> bytes:
    """What SEAL writes before the residues of a ciphertext that is kept as coefficients.

    Its header, the frame of its (useless, as residues are random) compression, the parameters'
    identifier: constant, so learnt once from two ciphertexts of a throw-away key. Raises
    UnknownCiphertextForm if the installed TenSEAL writes anything else.
    """
    context = seal_context(degree, modulus_bits)
    public = sealapi.PublicKey()
    sealapi.KeyGenerator(context).create_public_key(public)
    encryptor, evaluator = sealapi.Encryptor(context, public), sealapi.Evaluator(context)
    scratch = Scratch()
    saved = []
    for _ in range(2):
        ciphertext = sealapi.Ciphertext()
        encryptor.encrypt_zero(ciphertext)
        evaluator.transform_from_ntt_inplace(ciphertext)
        saved.append(scratch.saved(ciphertext))
    length = len(saved[0]) - 2 * degree * 8 * len(modulus_bits)
    if length <= 0 or len(saved[0]) != len(saved[1]) or saved[0][:length] != saved[1][:length]:
        raise unknown_form()
    return saved[0][:length]


def unknown_form() -> UnknownCiphertextForm:
    """To raise where a ciphertext of our own has an unexpected form."""
    return UnknownCiphertextForm(
        "the installed TenSEAL writes ciphertexts in an unknown form; install the version that "
        "this release names."
    )
