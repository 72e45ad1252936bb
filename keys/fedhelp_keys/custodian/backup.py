"""A custodian's backup: what makes it this custodian, sealed to a key that exists in shares only.

In it are the signing key, the TLS identity, what it trusts, and the statements of its epochs. Not
in it are the secrets of epochs: a copy would outlive their destruction, and a custodian that lost
its answers must answer nothing that was sent under them. A restored custodian therefore makes its
next epoch at once and begins rounds under that; of a round begun before it knows nothing, and
refuses it (ADR 0021).

Sealing needs the public half only, which stays in the state: a backup is made anew without the
shares.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from fedhelp_keys.custodian import key_files, shares
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_secure.canonical import canonical_json, digest, parse_json
from fedhelp_secure.charter import Digest, Label
from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.keystore.generations import (
    GENERATIONS_FILE,
    folder_of,
    parse_generations,
)
from fedhelp_secure.keystore.store import is_secret
from fedhelp_secure.sealing import SealingKey, UnsealingKey
from fedhelp_secure.secure_sum.epochs import EPOCH_KIND
from fedhelp_secure.secure_sum.streams import derive
from fedhelp_secure.signing import SigningKey, open_document
from fedhelp_secure.state import StateDirectory, StateError, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

_DOMAIN = "fedhelp-secure/v1/custodian-backup"
_UNSEALING_KEY_BYTES = 96
_FOLDERS = ("keys", "tls", "trust", "enrolment")
_MOST_BYTES = 64 << 20
_RoleName = Literal["decryptor", "unmasker"]


class BackupRefused(ConfigurationError):
    """A backup cannot be made or used."""

    code = "backup"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _File(_Document):
    """What lies about: it tells whose backup it is, and of which shares."""

    version: Literal[1]
    federation: Label
    role: _RoleName
    name: Label
    backup_key: Digest
    """Of the public key to which it is sealed."""
    sealed: Base64Bytes


class _Epoch(_Document):
    number: Annotated[int, Field(ge=1)]
    statement: Base64Bytes
    destroyed: Base64Bytes | None


class _Content(_Document):
    version: Literal[1]
    files: dict[str, Base64Bytes]
    """By path relative to the state."""
    epochs: tuple[_Epoch, ...]


def backup_key_path(state: StateDirectory) -> Path:
    """The public half of the key that is in shares."""
    return state.role_directory() / "backup.pub"


def unsealing_key_of(key: bytes) -> UnsealingKey:
    """The private half that the shared ``key`` gives."""
    return UnsealingKey.from_bytes(derive(key, _DOMAIN.encode("ascii"), _UNSEALING_KEY_BYTES))


def make_backup(state: StateDirectory) -> bytes:
    """The backup file of a custodian as it is now.

    Raises BackupRefused if there was no ceremony that made its key.
    """
    path = backup_key_path(state)
    if not path.exists():
        raise BackupRefused(
            "this custodian has no backup key; 'fedhelp custodian ceremony' makes one, before the "
            "custodian is enrolled."
        )
    key = SealingKey.from_base64(path.read_text("ascii").strip())
    content = _Content(
        version=1,
        files={name: _encoded(data) for name, data in _files(state).items()},
        epochs=tuple(
            _Epoch(
                number=number,
                statement=_encoded(statement),
                destroyed=None if destroyed is None else _encoded(destroyed),
            )
            for number, statement, destroyed in EpochStore(state).rows()
        ),
    )
    plain = canonical_json(content.model_dump(mode="json"))
    document = {
        "version": 1,
        "federation": state.identity.federation,
        "role": state.identity.role.value,
        "name": state.identity.name,
        "backup_key": digest(key.raw),
        "sealed": _encoded(key.seal(plain, _info(state.identity))).decode("ascii"),
    }
    return canonical_json(document)


def restore_backup(backup: Path, lines: list[str], root: Path) -> StateDirectory:
    """A new state in ``root``, which must not be one yet, from ``backup`` and enough shares.

    Its present epoch is a new one. Raises BackupRefused, SharesRefused or StateError, and then has
    written nothing.
    """
    file = _read(backup)
    identity = Identity(file.federation, Role(file.role), file.name)
    key = unsealing_key_of(shares.join(lines))
    if digest(key.public.raw) != file.backup_key:
        raise shares.SharesRefused("these shares are of another backup; find those of this one.")
    content = _opened(key, file, identity)
    if root.exists() and any(root.iterdir()):
        raise StateError(f"{root} is not empty; choose another --state directory.")
    state = StateDirectory.create(root, identity)
    if "keys/signing.pem" not in content.files:
        # The first generation's was destroyed: the one just made would be nobody's.
        state.destroy_secret(state.signing_key_path)
    for name, data in content.files.items():
        _write(state, root / name, data)
    rows = [(epoch.number, epoch.statement, epoch.destroyed) for epoch in content.epochs]
    if identity.role is Role.UNMASKER:
        first = open_document(EPOCH_KIND, rows[0][1], state.signing_key().public)
        kept = key_files.kept_sealing_key_path(state)
        write_atomically(kept, str(first["key"]).encode("ascii"))
    EpochStore.restored(state, rows)
    return state


def _files(state: StateDirectory) -> dict[str, bytes]:
    found = [
        path
        for folder in _FOLDERS
        for path in sorted((state.root / folder).rglob("*"))
        if path.is_file() and path != state.sealing_key_path
    ]
    found.append(backup_key_path(state))
    if state.identity.role is Role.DECRYPTOR:
        found.append(key_files.public_context_path(state))
    return {str(path.relative_to(state.root)): _plain(state, path) for path in found}


def _plain(state: StateDirectory, path: Path) -> bytes:
    return state.read_secret(path) if is_secret(path.relative_to(state.root)) else state.read(path)


def _write(state: StateDirectory, path: Path, data: bytes) -> None:
    for parent in reversed(path.relative_to(state.root).parents[:-1]):
        (state.root / parent).mkdir(mode=0o700, exist_ok=True)
    if is_secret(path.relative_to(state.root)):
        state.write_secret(path, data)
    else:
        write_atomically(path, data)


def _read(backup: Path) -> _File:
    try:
        data = backup.read_bytes()
    except OSError as error:
        raise BackupRefused(f"{backup} cannot be read; give the backup's file.") from error
    if len(data) > _MOST_BYTES:
        raise BackupRefused(f"{backup} is no backup of a custodian; it is too long.")
    try:
        return _File.model_validate(parse_json(data, "the backup"))
    except (FedHelpError, ValidationError) as error:
        raise BackupRefused(f"{backup} is no backup of a custodian; give another file.") from error


def _opened(key: UnsealingKey, file: _File, identity: Identity) -> _Content:
    try:
        plain = key.open(file.sealed, _info(identity))
        content = _Content.model_validate(parse_json(plain, "the backup"))
        signing_key = _present_signing_key(content)
        for epoch in content.epochs:
            open_document(EPOCH_KIND, epoch.statement, signing_key.public)
    except (FedHelpError, ValidationError, KeyError) as error:
        raise BackupRefused(
            "the backup was altered, or is of another version; restore another copy of it."
        ) from error
    if not content.epochs or any(not _has_a_place(name) for name in content.files):
        raise BackupRefused("the backup holds what no custodian's backup does; do not use it.")
    return content


def _present_signing_key(content: _Content) -> SigningKey:
    folder = "keys"
    if (generations := content.files.get(str(GENERATIONS_FILE))) is not None:
        folder = str(folder_of(Path(), parse_generations(generations)[-1].number))
    return SigningKey.from_pem(content.files[f"{folder}/signing.pem"])


def _has_a_place(name: str) -> bool:
    path = Path(name)
    known = (*_FOLDERS, Role.DECRYPTOR.value, Role.UNMASKER.value)
    return not path.is_absolute() and ".." not in path.parts and path.parts[0] in known


def _info(identity: Identity) -> bytes:
    return canonical_json({"domain": _DOMAIN, "custodian": identity.uri})


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data)
