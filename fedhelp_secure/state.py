"""A party's state directory: its identity, its keys and whatever its role stores.

Layout (``--state DIR``), owner-only throughout::

    identity.json            federation, role, name
    passphrase.json          how the secrets are encrypted, if they are
    signers.json             URIs of keys that are not in this directory, if there are any
    tls/key.pem              ECDSA P-256 private key
    tls/certificate.pem      leaf certificate with the identity as URI SAN, then intermediates
    keys/signing.pem         Ed25519: manifests, statements, ledger, log
    keys/sealing.bin         MLKEM768-X25519: what is sealed to this party
    trust/governance.pub     base64 Ed25519 key that signs charters
    trust/trust-list.json    authorities and revocations, signed by the governance key
    <role>/                  whatever the role stores

Secrets are the files that `fedhelp_secure.keystore.store.is_secret` names. They are read and
written through `StateDirectory.read_secret` and `write_secret` alone, which encrypt them if the
party chose a passphrase (docs/adr/0020).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.errors import InternalError, MalformedMessage
from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.files import StateError as StateError
from fedhelp_secure.keystore.files import synchronise as synchronise
from fedhelp_secure.keystore.files import write_atomically as write_atomically
from fedhelp_secure.keystore.permissions import check_private
from fedhelp_secure.keystore.signer import Algorithm, Signer, signer_for
from fedhelp_secure.keystore.store import SecretStore, is_secret
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role


class NotASecretName(InternalError):
    """A secret was to be written where nothing would encrypt it later, or check its permissions."""

    code = "secret-name"


class SignerUse(Enum):
    """What a signer's key is for; the value names it in ``signers.json``."""

    SIGNING = "signing"


_OWN_FILE = "file:"


class StateDirectory:
    """Typed access to one state directory."""

    def __init__(self, root: Path, identity: Identity) -> None:
        self.root = root
        self.identity = identity
        self.secrets = SecretStore(root, _document(identity))

    @classmethod
    def create(
        cls, root: Path, identity: Identity, *, signers: Mapping[SignerUse, str] | None = None
    ) -> StateDirectory:
        """Make ``root`` with new signing and sealing keys.

        They are encrypted if this process was given a passphrase. ``signers`` are URIs of keys that
        are, or shall be made, elsewhere. Raises StateError if ``root`` is in use, and what a signer
        raises that cannot be had.
        """
        if (root / "identity.json").exists():
            raise StateError(f"{root} already holds an identity; choose another --state directory.")
        state = cls(root, identity)
        elsewhere = {use: uri for use, uri in (signers or {}).items() if uri != _OWN_FILE}
        for use, uri in elsewhere.items():
            # First: what cannot be had leaves nothing behind.
            state._signer_at(uri, use).make()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        if elsewhere:
            document = {use.value: uri for use, uri in elsewhere.items()}
            write_atomically(state._signers_path, canonical_json(document))
        if passphrase.current().given and not state.secrets.is_encrypted:
            state.secrets.encrypt(passphrase.current().choose())
        state.signer(SignerUse.SIGNING).make()
        state.write_secret(state.sealing_key_path, UnsealingKey.generate().to_bytes())
        # Last: a directory with an identity is a complete one.
        write_atomically(root / "identity.json", canonical_json(_document(identity)))
        return state

    @classmethod
    def open(cls, root: Path, *roles: Role) -> StateDirectory:
        """The state at ``root``; raises StateError if it is none, of another role, or exposed."""
        try:
            document = parse_json((root / "identity.json").read_bytes(), "identity.json")
            identity = Identity(document["federation"], Role(document["role"]), document["name"])
        except (OSError, KeyError, ValueError) as error:
            raise StateError(
                f"{root} holds no identity; enrol this party first, or give the right --state."
            ) from error
        if roles and identity.role not in roles:
            wanted = " or ".join(role.value for role in roles)
            raise StateError(
                f"{root} belongs to a {identity.role.value}, but a {wanted} is needed."
            )
        check_private(root)
        return cls(root, identity)

    @property
    def tls_key_path(self) -> Path:
        """PEM, ECDSA P-256."""
        return self.root / "tls" / "key.pem"

    @property
    def tls_certificate_path(self) -> Path:
        """PEM, leaf certificate, then intermediates."""
        return self.root / "tls" / "certificate.pem"

    @property
    def signing_key_path(self) -> Path:
        """PEM, Ed25519."""
        return self.root / "keys" / "signing.pem"

    @property
    def sealing_key_path(self) -> Path:
        """96 raw bytes."""
        return self.root / "keys" / "sealing.bin"

    @property
    def governance_key_path(self) -> Path:
        """Base64, Ed25519 public key."""
        return self.root / "trust" / "governance.pub"

    def role_directory(self) -> Path:
        """Where the role stores what is its own; made on first use."""
        path = self.root / self.identity.role.value
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def read(self, path: Path) -> bytes:
        """The bytes at ``path``; raises StateError with the missing file's name."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise StateError(f"{path} cannot be read; enrol this party again.") from error

    def read_secret(self, path: Path) -> bytes:
        """The secret in the file ``path`` of this state.

        Raises StateError if it cannot be read, and PassphraseMissing or PassphraseWrong if it is
        encrypted and this process has no passphrase, or another one.
        """
        try:
            return self.secrets.read(path)
        except OSError as error:
            raise StateError(f"{path} cannot be read; enrol this party again.") from error

    def write_secret(self, path: Path, data: bytes) -> None:
        """Write a secret to ``path`` in this state, owner-only and atomically.

        It is encrypted if the state's secrets are. Raises as `read_secret` does.
        """
        if not is_secret(path.relative_to(self.root)):
            raise NotASecretName(f"{path} is no name for a secret; see is_secret.")
        self.secrets.write(path, data)

    def destroy_secret(self, path: Path) -> None:
        """Remove the file ``path`` with a secret, if it is there, and make that last."""
        with self.secrets_turn():
            path.unlink(missing_ok=True)
            synchronise(path.parent)

    def secrets_turn(self) -> AbstractContextManager[None]:
        """Within it no other process or thread reads or writes secrets of this state, nor may you.

        For moving their files only.
        """
        return self.secrets.turn()

    def signer(self, use: SignerUse) -> Signer:
        """What signs for ``use``: a file in this state, or what was named when it was made.

        Raises SignerUriRefused, TokenSupportMissing or StateError.
        """
        return self._signer_at(self._signer_uri(use), use)

    def signers_in_use(self) -> str:
        """One line for people: where this party's signing key is. It holds no secret."""
        return f"signing key {self.signer(SignerUse.SIGNING).uri}"

    def signing_key(self) -> SigningKey:
        """This party's signing key."""
        key = self.signer(SignerUse.SIGNING).key()
        if not isinstance(key, Ed25519PrivateKey):
            raise MalformedMessage("a signing key must be an Ed25519 key.")
        return SigningKey(key)

    def unsealing_key(self) -> UnsealingKey:
        """This party's private sealing key."""
        return UnsealingKey.from_bytes(self.read_secret(self.sealing_key_path))

    def governance_key(self) -> VerifyingKey:
        """The key that signs this federation's charters."""
        return VerifyingKey.from_base64(self.read(self.governance_key_path).decode("ascii").strip())

    @property
    def _signers_path(self) -> Path:
        return self.root / "signers.json"

    def _signer_at(self, uri: str, use: SignerUse) -> Signer:
        paths = {SignerUse.SIGNING: self.signing_key_path}
        return signer_for(uri, self.secrets, paths[use], Algorithm.ED25519)

    def _signer_uri(self, use: SignerUse) -> str:
        if not self._signers_path.exists():
            return _OWN_FILE
        uri = parse_json(self.read(self._signers_path), "signers.json").get(use.value, _OWN_FILE)
        if not isinstance(uri, str):
            raise StateError(f"{self._signers_path} is damaged; put its backup back.")
        return uri


def _document(identity: Identity) -> dict[str, str]:
    return {
        "federation": identity.federation,
        "role": identity.role.value,
        "name": identity.name,
    }
