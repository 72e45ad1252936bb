"""A random key under a passphrase: scrypt (RFC 7914), then AES-256-GCM.

What a passphrase protects is not the secrets themselves but one key of 256 random bits, which
encrypts them: a new passphrase then means one new file, and scrypt is paid once for all of them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.keystore.container import KEY_BYTES
from fedhelp_secure.keystore.files import StateError
from fedhelp_secure.keystore.passphrase import Passphrase

COST: Final = 17
"""scrypt's N is ``2**COST``, with r = 8 and p = 1: 128 MiB and some 0.3 s for each guess (the first
choice of OWASP's password storage cheat sheet, 2025)."""

LEAST_COST: Final = 14
GREATEST_COST: Final = 20
"""A file that asks for more than 1 GiB of memory is refused before it is tried."""

_BLOCK_SIZE: Final = 8
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class PassphraseWrong(ConfigurationError):
    """The passphrase does not open these keys, or their lock was altered."""

    code = "passphrase-wrong"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1]
    derivation: Literal["scrypt"]
    cost: Annotated[int, Field(ge=LEAST_COST, le=GREATEST_COST)]
    block_size: Literal[8]
    parallelism: Literal[1]
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{22}==$")]
    cipher: Literal["AES-256-GCM"]
    nonce: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{16}$")]
    wrapped_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{64}$")]


def new_key() -> bytes:
    """A key for `wrap`, from the operating system's randomness."""
    return os.urandom(KEY_BYTES)


def wrap(
    key: bytes, passphrase: Passphrase, context: Mapping[str, str], *, cost: int = COST
) -> bytes:
    """The JSON document that gives ``key`` back for ``passphrase`` and the same ``context``."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    document: dict[str, Any] = {
        "version": 1,
        "derivation": "scrypt",
        "cost": cost,
        "block_size": _BLOCK_SIZE,
        "parallelism": 1,
        "salt": _text(salt),
        "cipher": "AES-256-GCM",
        "nonce": _text(nonce),
    }
    cipher = AESGCM(_derived(passphrase, salt, cost))
    wrapped = cipher.encrypt(nonce, key, _associated(document, context))
    return canonical_json({**document, "wrapped_key": _text(wrapped)})


def unwrap(data: bytes, passphrase: Passphrase, context: Mapping[str, str]) -> bytes:
    """The key in the document ``data``.

    Raises StateError if it is no such document, and PassphraseWrong if it does not open.
    """
    try:
        document = _Document.model_validate_json(data)
    except ValidationError as error:
        raise StateError(
            "the file that says how the keys are encrypted is damaged; put its backup back."
        ) from error
    stated = document.model_dump(exclude={"wrapped_key"})
    cipher = AESGCM(_derived(passphrase, base64.b64decode(document.salt), document.cost))
    wrapped = base64.b64decode(document.wrapped_key)
    try:
        return cipher.decrypt(
            base64.b64decode(document.nonce), wrapped, _associated(stated, context)
        )
    except InvalidTag as error:
        raise PassphraseWrong(
            "the passphrase does not open the keys; nothing was changed. Give the right one."
        ) from error


@lru_cache(maxsize=64)
def _derived(passphrase: Passphrase, salt: bytes, cost: int) -> bytes:
    derivation = Scrypt(salt=salt, length=KEY_BYTES, n=1 << cost, r=_BLOCK_SIZE, p=1)
    return derivation.derive(passphrase.encoded)


def _associated(document: Mapping[str, Any], context: Mapping[str, str]) -> bytes:
    return canonical_json({"lock": dict(document), "context": dict(context)})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
