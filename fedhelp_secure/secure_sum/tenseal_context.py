"""TenSEAL contexts: the only place that makes one, with the parameters given and one thread."""

from __future__ import annotations

import tenseal


def new_context(degree: int, modulus_bits: tuple[int, ...], scale_bits: int) -> tenseal.Context:
    """A CKKS context with a new key pair from the operating system's randomness."""
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


def encrypt_zeros(
    degree: int, modulus_bits: tuple[int, ...], scale_bits: int, *, count: int
) -> list[bytes]:
    """``count`` serialised encryptions of zero vectors under a throw-away key."""
    context = new_context(degree, modulus_bits, scale_bits)
    zeros = [0.0] * (degree // 2)
    return [tenseal.ckks_vector(context, zeros).serialize() for _ in range(count)]
