"""Ed25519 signatures over documents, in DSSE envelopes (https://github.com/secure-systems-lab/dsse).

The envelope, its pre-authentication encoding and the key identifiers are securesystemslib's; this
module only narrows them to the one key type in use and to errors of our own.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.keystore import pkcs8

PAYLOAD_TYPE_PREFIX = "application/vnd.fedhelp-secure."


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """An Ed25519 public key; 32 raw bytes, written as base64 in documents."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise MalformedMessage("an Ed25519 public key must have 32 bytes.")

    @classmethod
    def from_base64(cls, text: str) -> VerifyingKey:
        """The key written as `to_base64` does; raises MalformedMessage otherwise."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise MalformedMessage("an Ed25519 public key must be base64.") from error

    def to_base64(self) -> str:
        """Standard base64 with padding."""
        return base64.b64encode(self.raw).decode("ascii")

    def check(self, signature: bytes, message: bytes) -> None:
        """Raises SignatureRefused unless ``signature`` is this key's over ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature as error:
            raise SignatureRefused(
                "a signature does not verify; do not use what it covers."
            ) from error

    def _as_securesystemslib(self) -> SSlibKey:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(self.raw))


class SigningKey:
    """An Ed25519 private key, here or in a token. Its repr shows the public half only."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.to_base64()})"

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """The key in PKCS#8 PEM; raises MalformedMessage if it is anything else.

        Encrypted PKCS#8 opens with this process's passphrase, or raises PassphraseMissing or
        PassphraseWrong.
        """
        return cls(pkcs8.ed25519(pem))

    def to_pem(self) -> bytes:
        """Unencrypted PKCS#8 PEM; raises TokenUnavailable for a key that is in a token."""
        return pkcs8.encoded(self._private_key)

    @property
    def public(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self._private_key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature over ``message``."""
        return self._private_key.sign(message)

    def sign_document(self, kind: str, document: dict[str, Any]) -> bytes:
        """A DSSE envelope (JSON bytes) over the canonical form of ``document``.

        ``kind`` names what is signed (for example ``manifest``), so that a signature over one kind
        can never be passed off as another.
        """
        envelope = Envelope(canonical_json(document), f"{PAYLOAD_TYPE_PREFIX}{kind}+json", {})
        envelope.sign(CryptoSigner(self._private_key))
        return canonical_json(envelope.to_dict())


def sign_jointly(kind: str, document: dict[str, Any], keys: Sequence[SigningKey]) -> bytes:
    """As `SigningKey.sign_document`, signed by every one of ``keys``: each says all of it."""
    envelope = Envelope(canonical_json(document), f"{PAYLOAD_TYPE_PREFIX}{kind}+json", {})
    for key in keys:
        envelope.sign(CryptoSigner(key._private_key))
    return canonical_json(envelope.to_dict())


def open_joint_document(kind: str, envelope: bytes, keys: Sequence[VerifyingKey]) -> dict[str, Any]:
    """The document in ``envelope``, which each of ``keys`` has signed and nobody else.

    Raises what `open_document` raises. A signature of another key would give one document two
    digests, so it is refused too.
    """
    document: dict[str, Any] = {}
    for key in keys:
        document = open_document(kind, envelope, key)
    signatures = parse_json(envelope, f"the {kind}'s envelope")["signatures"]
    if not keys or len(signatures) != len(set(keys)):
        raise SignatureRefused(f"the {kind} is signed by others than it must be; do not use it.")
    return document


def open_document(kind: str, envelope: bytes, key: VerifyingKey) -> dict[str, Any]:
    """The document in ``envelope``, after checking its kind and ``key``'s signature.

    Raises MalformedMessage if it is not an envelope of this kind over canonical JSON, and
    SignatureRefused if ``key`` did not sign it.
    """
    payload = _parsed(kind, envelope, key)
    document = parse_json(payload, f"the {kind}")
    if canonical_json(document) != payload:
        raise MalformedMessage(f"the {kind} is not in canonical form (RFC 8785).")
    return document


def signer_of(kind: str, envelope: bytes, keys: Sequence[VerifyingKey]) -> VerifyingKey:
    """Which of one party's ``keys`` signed ``envelope``; raises as `open_document` if none did."""
    for key in keys[:-1]:
        with contextlib.suppress(SignatureRefused):
            open_document(kind, envelope, key)
            return key
    open_document(kind, envelope, keys[-1])
    return keys[-1]


def peek_document(kind: str, envelope: bytes) -> dict[str, Any]:
    """The UNVERIFIED document in ``envelope``: only to learn whose key to check it with."""
    outer = parse_json(envelope, f"the {kind}'s envelope")
    try:
        payload = base64.b64decode(outer["payload"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"the {kind}'s envelope has no payload.") from error
    return parse_json(payload, f"the {kind}")


def peek_kind(envelope: bytes) -> str:
    """The UNVERIFIED kind of ``envelope``, as `SigningKey.sign_document` takes it; or empty."""
    stated = parse_json(envelope, "an envelope").get("payloadType")
    text = stated if isinstance(stated, str) else ""
    if not text.startswith(PAYLOAD_TYPE_PREFIX) or not text.endswith("+json"):
        return ""
    return text.removeprefix(PAYLOAD_TYPE_PREFIX).removesuffix("+json")


def _parsed(kind: str, envelope: bytes, key: VerifyingKey) -> bytes:
    outer = parse_json(envelope, f"the {kind}'s envelope")
    try:
        # securesystemslib empties the dict that it is given, so it gets one of its own.
        parsed = Envelope.from_dict(json.loads(json.dumps(outer)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessage(f"the {kind} is not a DSSE envelope.") from error
    if parsed.payload_type != f"{PAYLOAD_TYPE_PREFIX}{kind}+json":
        raise MalformedMessage(f"an envelope for the {kind} is of another kind.")
    one_signature = [signature.keys() for signature in outer["signatures"]] == [{"keyid", "sig"}]
    if canonical_json(parsed.to_dict()) != envelope or not one_signature:
        # One byte form: otherwise two digests could name one signed document. DSSE would let other
        # signatures, and fields that nobody signed, stand beside the one that is checked.
        raise MalformedMessage(f"the {kind}'s envelope is not in canonical form (RFC 8785).")
    try:
        parsed.verify([key._as_securesystemslib()], 1)
    except VerificationError as error:
        raise SignatureRefused(
            f"the {kind} is not signed by the key that the charter names; do not use it."
        ) from error
    payload: bytes = parsed.payload
    return payload
