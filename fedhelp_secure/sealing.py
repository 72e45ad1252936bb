"""Public-key sealing: HPKE (RFC 9180) with the hybrid post-quantum KEM MLKEM768-X25519.

The suite is MLKEM768-X25519, HKDF-SHA256, AES-256-GCM, all from ``cryptography``. A sealed 32-byte
secret is 1,168 bytes.
"""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fedhelp_secure.errors import MalformedMessage, PeerError

SEALED_OVERHEAD = 1136
"""Bytes that sealing adds: the encapsulated key (1,120) and the AEAD tag (16)."""

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_PUBLIC_BYTES = 1184
_MLKEM_SEED_BYTES = 64


class SealRefused(PeerError):
    """Sealed bytes were altered, or sealed to another key or for another purpose."""

    code = "seal"


class SealingKey:
    """A public key to seal to; 1,216 raw bytes (ML-KEM-768 then X25519)."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _MLKEM_PUBLIC_BYTES + 32:
            raise MalformedMessage("a sealing key must have 1,216 bytes.")
        try:
            self._key = MLKEM768X25519PublicKey(
                MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES]),
                X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_BYTES:]),
            )
        except ValueError as error:
            raise MalformedMessage("a sealing key is not a valid MLKEM768-X25519 key.") from error
        self.raw = raw

    @classmethod
    def from_base64(cls, text: str) -> SealingKey:
        """The key written as `to_base64` does; raises MalformedMessage otherwise."""
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise MalformedMessage("a sealing key must be base64.") from error
        return cls(raw)

    def to_base64(self) -> str:
        """Standard base64 with padding."""
        return base64.b64encode(self.raw).decode("ascii")

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """``plaintext`` sealed to the private half's holder; ``info`` must match on opening."""
        return _SUITE.encrypt(plaintext, self._key, info=info)


class UnsealingKey:
    """The private half. Its repr shows nothing of it."""

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)

    def __repr__(self) -> str:
        return "UnsealingKey(...)"

    @classmethod
    def generate(cls) -> UnsealingKey:
        """A new key from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> UnsealingKey:
        """The key as `to_bytes` wrote it: the 64-byte ML-KEM seed, then the X25519 key."""
        if len(raw) != _MLKEM_SEED_BYTES + 32:
            raise MalformedMessage("an unsealing key file must have 96 bytes.")
        return cls(
            MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:]),
        )

    def to_bytes(self) -> bytes:
        """96 secret bytes; write them only with owner-only permissions."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    @property
    def public(self) -> SealingKey:
        """The public half."""
        return SealingKey(
            self._mlkem.public_key().public_bytes_raw()
            + self._x25519.public_key().public_bytes_raw()
        )

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """What was sealed; raises SealRefused unless key, bytes and ``info`` all match."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise SealRefused(
                "sealed bytes do not open with this key for this purpose; ask the sender again."
            ) from error
