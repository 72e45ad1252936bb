"""A party's state directory: its identity, its keys and whatever its role stores.

Layout (``--state DIR``), owner-only throughout::

    identity.json            federation, role, name
    tls/key.pem              ECDSA P-256 private key
    tls/certificate.pem      leaf certificate with the identity as URI SAN
    tls/ca.pem               the federation's root certificate(s)
    keys/signing.pem         Ed25519: manifests, statements, ledger, log
    keys/sealing.bin         MLKEM768-X25519: what is sealed to this party
    trust/governance.pub     base64 Ed25519 key that signs charters
    <role>/                  whatever the role stores
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.transport.identity import Identity, Role


class StateError(ConfigurationError):
    """The state directory is missing, incomplete or open to others."""

    code = "state"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write ``data`` so that after a crash the file holds all of it or is as it was.

    Parent directories are made with mode 0700.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Put what a file holds, or which names a directory has, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StateDirectory:
    """Typed access to one state directory."""

    def __init__(self, root: Path, identity: Identity) -> None:
        self.root = root
        self.identity = identity

    @classmethod
    def create(cls, root: Path, identity: Identity) -> StateDirectory:
        """Make ``root`` with new signing and sealing keys; raises StateError if it is in use."""
        if (root / "identity.json").exists():
            raise StateError(f"{root} already holds an identity; choose another --state directory.")
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        state = cls(root, identity)
        state.write_secret(state.signing_key_path, SigningKey.generate().to_pem())
        state.write_secret(state.sealing_key_path, UnsealingKey.generate().to_bytes())
        document = {
            "federation": identity.federation,
            "role": identity.role.value,
            "name": identity.name,
        }
        # Last: a directory with an identity is a complete one.
        write_atomically(root / "identity.json", canonical_json(document))
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
        state = cls(root, identity)
        state._check_permissions()
        return state

    def _check_permissions(self) -> None:
        secrets = [self.root, self.signing_key_path, self.sealing_key_path, self.tls_key_path]
        for path in secrets:
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise StateError(
                    f"{path} can be read by other users; run: chmod -R go-rwx '{self.root}'"
                )

    @property
    def tls_key_path(self) -> Path:
        """PEM, ECDSA P-256."""
        return self.root / "tls" / "key.pem"

    @property
    def tls_certificate_path(self) -> Path:
        """PEM, leaf certificate."""
        return self.root / "tls" / "certificate.pem"

    @property
    def ca_path(self) -> Path:
        """PEM, root certificate(s) of the federation."""
        return self.root / "tls" / "ca.pem"

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
        """The secret in the file ``path`` of this state; raises StateError if it cannot be read."""
        return self.read(path)

    def write_secret(self, path: Path, data: bytes) -> None:
        """Write a secret to ``path`` in this state, owner-only and atomically."""
        write_atomically(path, data)

    def signing_key(self) -> SigningKey:
        """This party's signing key."""
        return SigningKey.from_pem(self.read_secret(self.signing_key_path))

    def unsealing_key(self) -> UnsealingKey:
        """This party's private sealing key."""
        return UnsealingKey.from_bytes(self.read_secret(self.sealing_key_path))

    def governance_key(self) -> VerifyingKey:
        """The key that signs this federation's charters."""
        return VerifyingKey.from_base64(self.read(self.governance_key_path).decode("ascii").strip())
