"""A party's state directory: its identity, its keys and whatever its role stores.

Layout (``--state DIR``), owner-only throughout::

    identity.json            federation, role, name
    passphrase.json          how the secrets are encrypted, if they are
    signers.json             URIs of keys that are not in this directory, if there are any
    tls/key.pem              ECDSA P-256 private key
    tls/certificate.pem      leaf certificate with the identity as URI SAN, then intermediates
    keys/signing.pem         Ed25519: manifests, statements, ledger, log
    keys/sealing.bin         MLKEM768-X25519: what is sealed to this party
    keys/generation-N/       the same two of the generation N, once keys were rotated
    enrolment/key-generations.json  which generations there are, once there are several
    trust/governance.pub     base64 Ed25519 key that signs charters
    trust/trust-list.json    authorities and revocations, signed by the governance key
    <role>/                  whatever the role stores

Secrets are the files that `fedhelp_secure.keystore.store.is_secret` names. They are read and
written through `StateDirectory.read_secret` and `write_secret` alone, which encrypt them if the
party chose a passphrase (docs/adr/0020).
"""

from __future__ import annotations

import os
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
from fedhelp_secure.keystore.generations import (
    FIRST,
    Generation,
    NextKeys,
    folder_of,
    read_generations,
    write_generations,
)
from fedhelp_secure.keystore.permissions import check_private
from fedhelp_secure.keystore.signer import Algorithm, Signer, signer_for
from fedhelp_secure.keystore.store import SecretStore, is_secret
from fedhelp_secure.sealing import SealingKey, UnsealingKey
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role


class NotASecretName(InternalError):
    """A secret was to be written where nothing would encrypt it later, or check its permissions."""

    code = "secret-name"


class KeyNotHeld(StateError):
    """A charter names a key that this party does not have, or no longer."""

    code = "key-not-held"


class SignerUse(Enum):
    """What a signer's key is for; the value names it in ``signers.json``."""

    SIGNING = "signing"


_OWN_FILE = "file:"
_ONE_SEALING_KEY = (Role.UNMASKER, Role.REGISTRAR)
"""An unmasker's sealing keys have epochs of their own, and nobody seals to a registrar."""


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
        for uri in elsewhere.values():
            # First: what cannot be had leaves nothing behind.
            state._signer_at(uri, state.signing_key_path).make()
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
        """PEM, Ed25519; of the present generation."""
        return self._signing_path(self._present_number())

    @property
    def sealing_key_path(self) -> Path:
        """96 raw bytes; of the present generation."""
        return self._sealing_path(self._present_number())

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

    def overwrite_secret(self, path: Path) -> None:
        """Overwrite the secret file ``path`` with random bytes, on the disk, and remove it.

        On a disk that writes in place this replaces the bytes. On flash, a copy-on-write file
        system, a snapshot or a backup the old blocks may live on: docs/adr/0021-key-epochs.md.
        """
        # A change of the passphrase writes every secret anew: neither may begin within the other.
        with self.secrets_turn():
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(os.urandom(os.fstat(file.fileno()).st_size))
                os.fsync(file.fileno())
            path.unlink()
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
        return self._signer_at(self._signer_uri(use), self.signing_key_path)

    def signers_in_use(self) -> str:
        """One line for people: where this party's signing key is. It holds no secret."""
        return f"signing key {self.signer(SignerUse.SIGNING).uri}"

    def signing_key(self) -> SigningKey:
        """This party's present signing key."""
        return _signing_key(self.signer(SignerUse.SIGNING))

    def unsealing_key(self) -> UnsealingKey:
        """This party's present private sealing key."""
        return UnsealingKey.from_bytes(self.read_secret(self.sealing_key_path))

    def generations(self) -> tuple[Generation, ...]:
        """The generations of this party's keys, the present one last; empty if never rotated."""
        return read_generations(self.root)

    def verifying_keys(self) -> tuple[VerifyingKey, ...]:
        """What checks this party's signatures: its present key first, then all former ones."""
        former = self.generations()[:-1]
        keys = [VerifyingKey.from_base64(each.signing_key) for each in reversed(former)]
        return (self.signing_key().public, *keys)

    def signing_key_for(self, public: VerifyingKey) -> SigningKey:
        """The present or former signing key that a charter names; raises KeyNotHeld."""
        present = self.signing_key()
        if present.public == public:
            return present
        return self._former_signing_key(self._former(public))

    def unsealing_key_for(self, public: SealingKey) -> UnsealingKey:
        """The present or former sealing key that a charter names; raises KeyNotHeld."""
        present = self.unsealing_key()
        if present.public.raw == public.raw:
            return present
        for former in self.generations()[:-1]:
            if former.sealing_key == public.to_base64() and not former.destroyed:
                return self._former_unsealing_key(former)
        raise _not_held()

    def unsealing_key_beside(self, public: VerifyingKey) -> UnsealingKey:
        """The sealing key of the generation with this signing key; raises KeyNotHeld."""
        if self.signing_key().public == public:
            return self.unsealing_key()
        return self._former_unsealing_key(self._former(public))

    def next_keys(self, signer: str = _OWN_FILE) -> NextKeys:
        """Keys for the next generation, made unless an earlier try has made them.

        Nothing uses them before `adopt`. Raises what a signer raises that cannot be had, and
        StateError if ``signer`` names the present key.
        """
        number = self._present_number() + 1
        made = self._signer_at(signer, self._signing_path(number))
        made.make()
        signing_key = _signing_key(made)
        if signing_key.public in self.verifying_keys():
            raise StateError(f"{made.uri} is a key that this party has or had; name another one.")
        sealing_key = None
        if self.identity.role not in _ONE_SEALING_KEY:
            path = self._sealing_path(number)
            if not path.exists():
                self.write_secret(path, UnsealingKey.generate().to_bytes())
            sealing_key = UnsealingKey.from_bytes(self.read_secret(path)).public
        return NextKeys(number, made.uri, signing_key, sealing_key)

    def adopt(self, keys: NextKeys) -> None:
        """Use ``keys`` from now on; what they replace stays for charters that name it."""
        known = self.generations() or (
            Generation(
                number=FIRST,
                signer=self._signer_uri(SignerUse.SIGNING),
                signing_key=self.signing_key().public.to_base64(),
                sealing_key=None
                if keys.sealing_key is None
                else self.unsealing_key().public.to_base64(),
            ),
        )
        added = Generation(
            number=keys.number,
            signer=keys.signer,
            signing_key=keys.signing_key.public.to_base64(),
            sealing_key=None if keys.sealing_key is None else keys.sealing_key.to_base64(),
        )
        write_generations(self.root, (*known, added))

    def destroy_former_keys(self) -> tuple[Generation, ...]:
        """Overwrite and remove the private keys of all former generations; returns those.

        A key that is not in this state, such as one in a token, stays where it is.
        """
        generations = self.generations()
        gone = tuple(each for each in generations[:-1] if not each.destroyed)
        for each in gone:
            self.overwrite_secret(self._signing_path(each.number))
            if each.sealing_key is not None:
                self.overwrite_secret(self._sealing_path(each.number))
        if gone:
            # Last: the record never says too much, and a crash before it is made up for.
            ended = [each.model_copy(update={"destroyed": True}) for each in generations[:-1]]
            write_generations(self.root, (*ended, generations[-1]))
        return gone

    def governance_key(self) -> VerifyingKey:
        """The key that signs this federation's charters."""
        return VerifyingKey.from_base64(self.read(self.governance_key_path).decode("ascii").strip())

    @property
    def _signers_path(self) -> Path:
        return self.root / "signers.json"

    def _signer_at(self, uri: str, path: Path) -> Signer:
        return signer_for(uri, self.secrets, path, Algorithm.ED25519)

    def _signer_uri(self, use: SignerUse) -> str:
        if generations := self.generations():
            return generations[-1].signer
        if not self._signers_path.exists():
            return _OWN_FILE
        uri = parse_json(self.read(self._signers_path), "signers.json").get(use.value, _OWN_FILE)
        if not isinstance(uri, str):
            raise StateError(f"{self._signers_path} is damaged; put its backup back.")
        return uri

    def _present_number(self) -> int:
        generations = self.generations()
        return generations[-1].number if generations else FIRST

    def _signing_path(self, number: int) -> Path:
        return folder_of(self.root, number) / "signing.pem"

    def _sealing_path(self, number: int) -> Path:
        if self.identity.role in _ONE_SEALING_KEY:
            number = FIRST
        return folder_of(self.root, number) / "sealing.bin"

    def _former(self, public: VerifyingKey) -> Generation:
        for former in self.generations()[:-1]:
            if former.signing_key == public.to_base64() and not former.destroyed:
                return former
        raise _not_held()

    def _former_signing_key(self, former: Generation) -> SigningKey:
        return _signing_key(self._signer_at(former.signer, self._signing_path(former.number)))

    def _former_unsealing_key(self, former: Generation) -> UnsealingKey:
        return UnsealingKey.from_bytes(self.read_secret(self._sealing_path(former.number)))


def _signing_key(signer: Signer) -> SigningKey:
    key = signer.key()
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedMessage("a signing key must be an Ed25519 key.")
    return SigningKey(key)


def _not_held() -> KeyNotHeld:
    return KeyNotHeld(
        "the charter names a key of this party that it does not have, or that was destroyed after "
        "a rotation; ask the registrar for a new charter."
    )


def _document(identity: Identity) -> dict[str, str]:
    return {
        "federation": identity.federation,
        "role": identity.role.value,
        "name": identity.name,
    }
