"""A secret in a file, encrypted under a key of 256 random bits.

The file is ``MAGIC``, a nonce of 12 bytes, and AES-256-GCM's ciphertext and tag (NIST SP
800-38D). The associated data say whose secret it is and in which file, so that a file that is moved
to another name or party, or comes from another version, does not open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.keystore.files import StateError

MAGIC: Final = b"fedhelp-secure secret 1\n"
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


def is_sealed(data: bytes) -> bool:
    """Whether ``data`` is such a file of this version."""
    return data.startswith(MAGIC)


def seal(key: bytes, secret: bytes, context: Mapping[str, str]) -> bytes:
    """The file that holds ``secret``; opens with the same ``key`` and ``context`` only."""
    nonce = os.urandom(_NONCE_BYTES)
    return MAGIC + nonce + AESGCM(key).encrypt(nonce, secret, _associated(context))


def unseal(key: bytes, data: bytes, context: Mapping[str, str]) -> bytes:
    """The secret in the file ``data``; raises StateError unless key, file and context match."""
    body = data.removeprefix(MAGIC)
    nonce, ciphertext = body[:_NONCE_BYTES], body[_NONCE_BYTES:]
    try:
        if not is_sealed(data) or len(ciphertext) < _TAG_BYTES:
            raise InvalidTag
        return AESGCM(key).decrypt(nonce, ciphertext, _associated(context))
    except InvalidTag as error:
        named = context.get("file", "an encrypted file")
        raise StateError(
            f"{named} was altered, or belongs to another party or name; put its backup back."
        ) from error


def _associated(context: Mapping[str, str]) -> bytes:
    return MAGIC + canonical_json(dict(context))
