"""Private keys in PKCS#8 PEM (RFC 5958), in the clear or encrypted by somebody's own tool.

Keys that another tool encrypted are read, also with scrypt (``openssl pkcs8 -topk8 -scrypt``); this
project writes none: see docs/adr/0020.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.lock import PassphraseWrong

_ENCRYPTED = b"-----BEGIN ENCRYPTED "


def encoded(key: PrivateKeyTypes) -> bytes:
    """``key`` in the clear, PEM; write it with `StateDirectory.write_secret` only."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def decrypted(data: bytes) -> bytes:
    """``data`` itself, or if it is encrypted PKCS#8 in PEM, the same key in the clear.

    Raises PassphraseMissing, PassphraseWrong or MalformedMessage.
    """
    if not data.startswith(_ENCRYPTED):
        return data
    try:
        key = serialization.load_pem_private_key(data, passphrase.current().read().encoded)
    except (ValueError, TypeError) as error:
        raise PassphraseWrong(
            "the passphrase does not open an encrypted PKCS#8 key; give the one it was made with."
        ) from error
    return encoded(key)


def ed25519(data: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key in ``data``; raises MalformedMessage, and as `decrypted` does."""
    key = _loaded(data)
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedMessage("a signing key file must hold an Ed25519 key.")
    return key


def p256(data: bytes) -> ec.EllipticCurvePrivateKey:
    """The ECDSA P-256 key in ``data``; raises MalformedMessage, and as `decrypted` does."""
    key = _loaded(data)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedMessage("the key file of a certificate must hold an ECDSA P-256 key.")
    return key


def _loaded(data: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(decrypted(data), password=None)
    except (ValueError, TypeError) as error:
        raise MalformedMessage("a private key file is not PKCS#8 PEM.") from error
