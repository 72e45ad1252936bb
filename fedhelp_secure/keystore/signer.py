"""Private keys that sign, wherever they are: one interface, a file or a token behind it.

What a signer gives is a private key as ``cryptography`` defines its interface, so that certificates
are signed by ``cryptography``'s own builders and envelopes by securesystemslib, which need not know
that some keys are not in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.keystore import pkcs8
from fedhelp_secure.keystore.files import StateError
from fedhelp_secure.keystore.permissions import check_private_file
from fedhelp_secure.keystore.store import SecretStore
from fedhelp_secure.keystore.uri import FileUri, SignerUriRefused, TokenUri, parse

SigningPrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


class TokenSupportMissing(ConfigurationError):
    """A key is in a PKCS#11 token, but the extra that speaks to tokens is not installed."""

    code = "token-support"


class Algorithm(Enum):
    """What a key signs with; the value is its name for people."""

    ED25519 = "Ed25519"
    P256 = "ECDSA P-256"

    def generate(self) -> SigningPrivateKey:
        """A new key from the operating system's randomness."""
        if self is Algorithm.ED25519:
            return Ed25519PrivateKey.generate()
        return ec.generate_private_key(ec.SECP256R1())

    def loaded(self, pem: bytes) -> SigningPrivateKey:
        """The key in a PKCS#8 PEM file; raises MalformedMessage, and as `pkcs8.decrypted` does."""
        return pkcs8.ed25519(pem) if self is Algorithm.ED25519 else pkcs8.p256(pem)


class Signer(Protocol):
    """One private key of one party."""

    @property
    def uri(self) -> str:
        """Where the key is; holds no secret."""

    def make(self) -> None:
        """Have a key: take the one that is there, else make one.

        Raises FedHelpError, with what to do, if that cannot be.
        """

    def key(self) -> SigningPrivateKey:
        """The key, for use; raises FedHelpError, with what to do, if it cannot be used."""


class FileSigner:
    """A key in a file of the party's own state."""

    def __init__(self, store: SecretStore, path: Path, algorithm: Algorithm) -> None:
        self._store = store
        self._path = path
        self._algorithm = algorithm
        self.uri = "file:"

    def make(self) -> None:
        """See `Signer.make`."""
        if not self._path.exists():
            self._store.write(self._path, pkcs8.encoded(self._algorithm.generate()))
        self.key()

    def key(self) -> SigningPrivateKey:
        """See `Signer.key`."""
        return self._algorithm.loaded(_read(self._path, self._store.read))


class ForeignFileSigner:
    """A key in a PKCS#8 PEM file elsewhere, such as on a medium that is locked away after use.

    It may be encrypted, and then opens with the passphrase of this process.
    """

    def __init__(self, uri: FileUri, path: Path, algorithm: Algorithm) -> None:
        self._path = path
        self._algorithm = algorithm
        self.uri = str(uri)

    def make(self) -> None:
        """See `Signer.make`; this one makes none: its file is not ours."""
        self.key()

    def key(self) -> SigningPrivateKey:
        """See `Signer.key`."""
        return self._algorithm.loaded(_read(self._path, _read_private))


def signer_for(
    text: str, store: SecretStore | None, path: Path | None, algorithm: Algorithm
) -> Signer:
    """The signer that the URI ``text`` names; ``file:`` alone is ``path`` in ``store``.

    Both are None where a state's own file cannot be meant. Raises SignerUriRefused, or
    TokenSupportMissing if the ``pkcs11`` extra is not installed.
    """
    uri = parse(text)
    if isinstance(uri, TokenUri):
        # Late: most parties have no token, and need no library for one.
        try:
            from fedhelp_secure.keystore.token import TokenSigner
        except ModuleNotFoundError as error:
            raise TokenSupportMissing(
                "keys in PKCS#11 tokens need one more library: pip install 'fedhelp-secure[pkcs11]'"
            ) from error

        return TokenSigner(uri, algorithm)
    if uri.path is None:
        if store is None or path is None:
            raise SignerUriRefused("name the key's file: file:/PATH, or give a pkcs11: URI.")
        return FileSigner(store, path, algorithm)
    return ForeignFileSigner(uri, uri.path, algorithm)


def _read(path: Path, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: it holds a private key of this party; put it back."
        ) from error


def _read_private(path: Path) -> bytes:
    check_private_file(path)
    return path.read_bytes()
