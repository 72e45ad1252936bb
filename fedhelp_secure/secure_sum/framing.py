"""The exact byte form of a ciphertext, checked before anything parses it.

TenSEAL 0.3 can crash its process on an altered header, and its parser is reached by bytes from
other parties. All headers of a ciphertext under the charter's parameters are constant, though:
TenSEAL's protobuf field tags and sizes, SEAL's header with its parameter identifier, the zstd
frame with its single raw block, and the scale. What is left is a block of coefficients of fixed
length. So the constant bytes are learned once from two ciphertexts of our own (they depend on the
parameters, not on the key), and a foreign ciphertext must have exactly those bytes.

A ciphertext here is the concatenation of equally long frames, one for each vector of
``polynomial_degree / 2`` integers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import InternalError, PeerError
from fedhelp_secure.secure_sum.tenseal_context import encrypt_zeros


class CiphertextRefused(PeerError):
    """A ciphertext does not have the form that this charter's parameters give."""

    code = "ciphertext"


class UnknownCiphertextForm(InternalError):
    """The installed TenSEAL writes ciphertexts in another form than this release knows."""

    code = "ciphertext-form"


@dataclass(frozen=True, slots=True)
class FrameForm:
    """What is constant in a frame: ``prefix``, then coefficients, then ``suffix``."""

    prefix: bytes
    coefficient_bytes: int
    suffix: bytes

    @property
    def length(self) -> int:
        """Bytes of one frame."""
        return len(self.prefix) + self.coefficient_bytes + len(self.suffix)


def slots(secure_sum: SecureSum) -> int:
    """Integers in one frame."""
    return secure_sum.polynomial_degree // 2


def frames(secure_sum: SecureSum) -> int:
    """Frames in one ciphertext; the last may be padded."""
    return -(-secure_sum.values // slots(secure_sum))


def frame_bytes(secure_sum: SecureSum) -> int:
    """Bytes of one frame."""
    return _form(secure_sum).length


def ciphertext_bytes(secure_sum: SecureSum) -> int:
    """Bytes of one whole ciphertext."""
    return frames(secure_sum) * frame_bytes(secure_sum)


def check_framing(ciphertext: bytes, secure_sum: SecureSum) -> None:
    """Raises CiphertextRefused unless length and every constant byte are right. Parses nothing."""
    form = _form(secure_sum)
    if len(ciphertext) != frames(secure_sum) * form.length:
        raise CiphertextRefused(
            "a ciphertext has the wrong length for this charter; encrypt it again and send all "
            "of it."
        )
    for start in range(0, len(ciphertext), form.length):
        end = start + form.length
        if not (
            ciphertext.startswith(form.prefix, start)
            and ciphertext.endswith(form.suffix, start, end)
        ):
            raise CiphertextRefused(
                "a ciphertext's header is not the one that this charter's parameters give; "
                "encrypt it again with the charter's context."
            )


def split_frames(ciphertext: bytes, secure_sum: SecureSum) -> tuple[bytes, ...]:
    """The frames of ``ciphertext``, after `check_framing`."""
    check_framing(ciphertext, secure_sum)
    length = frame_bytes(secure_sum)
    return tuple(ciphertext[start : start + length] for start in range(0, len(ciphertext), length))


def _form(secure_sum: SecureSum) -> FrameForm:
    return _learned_form(
        secure_sum.polynomial_degree,
        tuple(secure_sum.coefficient_modulus_bits),
        secure_sum.scale_bits,
    )


@lru_cache(maxsize=16)
def _learned_form(degree: int, modulus_bits: tuple[int, ...], scale_bits: int) -> FrameForm:
    first, second = encrypt_zeros(degree, modulus_bits, scale_bits, count=2)
    # Two polynomials; the last prime only switches keys and is gone from a ciphertext.
    coefficient_bytes = 2 * degree * 8 * (len(modulus_bits) - 1)
    # TenSEAL's protobuf ends with field 3, the scale: a tag and a little-endian double.
    suffix = b"\x19" + struct.pack("<d", 2.0**scale_bits)
    prefix_length = len(first) - coefficient_bytes - len(suffix)
    if (
        prefix_length <= 0
        or len(first) != len(second)
        or first[:prefix_length] != second[:prefix_length]
        or not (first.endswith(suffix) and second.endswith(suffix))
    ):
        raise UnknownCiphertextForm(
            "the installed TenSEAL writes ciphertexts in an unknown form; install the version that "
            "this release names."
        )
    return FrameForm(first[:prefix_length], coefficient_bytes, suffix)
