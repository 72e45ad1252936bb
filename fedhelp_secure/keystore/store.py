"""The secret files of one state directory, in the clear or all under one passphrase.

``passphrase.json`` (see `lock`) is there if they are encrypted; then a secret in the clear is
refused. All readers and writers of one state take turns, also across processes, and whoever comes
next finishes what a crash cut short.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Final

from fedhelp_secure.keystore import container, lock, passphrase, pkcs8
from fedhelp_secure.keystore.files import (
    StateError,
    exclusive,
    make_directory,
    synchronise,
    write_atomically,
)
from fedhelp_secure.keystore.lock import PassphraseWrong
from fedhelp_secure.keystore.passphrase import Passphrase

LOCK_FILE: Final = "passphrase.json"

# A change of all secrets: made ready under the first name, decided by renaming it to one of the two
# others, then moved into place file by file.
_PREPARED: Final = ".secrets-prepared"
_ENCRYPTED: Final = ".secrets-encrypted"
_DECRYPTED: Final = ".secrets-decrypted"
_CHANGES: Final = (_PREPARED, _ENCRYPTED, _DECRYPTED)


class NotEncrypted(StateError):
    """A secret lies in the clear in a state whose secrets are encrypted."""

    code = "not-encrypted"


def is_secret(relative: PurePath) -> bool:
    """Whether the file at ``relative`` in a state directory holds a secret.

    Everything under ``keys/`` does, and every file called ``...key.pem`` or ``....secret``. What an
    interrupted write left of such a file is one too.
    """
    name = relative.name
    if name.startswith(".") and name.endswith(".tmp"):
        name = name[1:].rsplit(".", 3)[0]
    return relative.parts[0] == "keys" or name.endswith(("key.pem", ".secret"))


def secret_files(root: Path) -> list[Path]:
    """Every secret file of the state at ``root``, in order; links are not followed."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _CHANGES]
        relative = Path(folder).relative_to(root)
        found += [relative / name for name in names if is_secret(relative / name)]
    return [root / path for path in sorted(found)]


class SecretStore:
    """Reads and writes the secrets of the state at ``root``. Thread-safe."""

    def __init__(self, root: Path, party: Mapping[str, str]) -> None:
        """``party`` says whose secrets these are; it is bound to each of them."""
        self._root = root
        self._party = dict(party)
        self._held: bytes | None = None

    @property
    def is_encrypted(self) -> bool:
        """Whether the secrets are under a passphrase."""
        with self.turn():
            return self._lock_path.exists()

    def read(self, path: Path) -> bytes:
        """The secret in ``path``.

        Raises OSError, StateError, NotEncrypted, PassphraseMissing or PassphraseWrong.
        """
        with self.turn():
            return self._opened(path, self._key())

    def write(self, path: Path, secret: bytes) -> None:
        """Put ``secret`` into ``path``, atomically; raises as `read` does."""
        with self.turn():
            key = self._key()
            write_atomically(path, secret if key is None else self._sealed(path, secret, key))

    def encrypt(self, chosen: Passphrase, *, cost: int = lock.COST) -> None:
        """Make ``chosen`` the passphrase of all secrets.

        If they have one, `passphrase.current` must give it; what lies in the clear beside them is
        encrypted too. After a crash, the former or the new one opens every secret. Raises as `read`
        does, and PassphraseUnfit, and then changes nothing.
        """
        chosen.check_strength()
        with self.turn():
            key = self._key()
            if key is None:
                key = lock.new_key()
                files = {path: self._taken_in(path, key) for path in self._secrets()}
                files[self._lock_path] = self._locked(key, chosen, cost)
                self._replace(files, _ENCRYPTED)
                return
            for path in self._secrets():
                if not container.is_sealed(path.read_bytes()):
                    write_atomically(path, self._taken_in(path, key))
            write_atomically(self._lock_path, self._locked(key, chosen, cost))

    def decrypt(self) -> None:
        """Take the passphrase away: all secrets lie in the clear. Raises as `read` does."""
        with self.turn():
            key = self._key()
            if key is not None:
                files = {path: self._opened(path, key) for path in self._secrets()}
                self._replace(files, _DECRYPTED)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else reads or writes secrets within the block. Do not nest it."""
        with exclusive(self._root):
            self._finish()
            yield

    @property
    def _lock_path(self) -> Path:
        return self._root / LOCK_FILE

    def _context(self, path: Path) -> dict[str, str]:
        relative = path.relative_to(self._root)
        # A key that waits for its certificate is written for the name it will get.
        named = relative.with_name(relative.name.removeprefix("next-"))
        return {**self._party, "file": named.as_posix()}

    def _key(self) -> bytes | None:
        try:
            document = self._lock_path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            self._held = lock.unwrap(document, passphrase.current().read(), self._party)
        except PassphraseWrong:
            # The passphrase has changed since; a process that had the right one then goes on.
            if self._held is None:
                raise
        return self._held

    def _opened(self, path: Path, key: bytes | None) -> bytes:
        data = path.read_bytes()
        if key is not None and not container.is_sealed(data):
            raise NotEncrypted(
                f"{path} is not encrypted, but this party's other keys are; if it is yours, run: "
                f"fedhelp enrol passphrase --state '{self._root}'"
            )
        if key is None and container.is_sealed(data):
            raise StateError(f"{path} is encrypted, but {self._lock_path} is missing; put it back.")
        return data if key is None else container.unseal(key, data, self._context(path))

    def _sealed(self, path: Path, secret: bytes, key: bytes) -> bytes:
        return container.seal(key, secret, self._context(path))

    def _taken_in(self, path: Path, key: bytes) -> bytes:
        # One way to encrypt: a passphrase of its own would stay behind when this one changes.
        return self._sealed(path, pkcs8.decrypted(self._opened(path, None)), key)

    def _locked(self, key: bytes, chosen: Passphrase, cost: int) -> bytes:
        return lock.wrap(key, chosen, self._party, cost=cost)

    def _secrets(self) -> list[Path]:
        """Every secret file, after what interrupted writes left of some has been removed."""
        kept = []
        for path in secret_files(self._root):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink()
            else:
                kept.append(path)
        return kept

    def _replace(self, files: Mapping[Path, bytes], decision: str) -> None:
        prepared = self._root / _PREPARED
        for path, data in files.items():
            write_atomically(prepared / path.relative_to(self._root), data)
        for folder, _, _ in os.walk(prepared):
            synchronise(Path(folder))
        # From here on all of them are replaced, by us or by whoever comes next.
        os.rename(prepared, self._root / decision)
        synchronise(self._root)
        self._finish()

    def _finish(self) -> None:
        for decision in (_ENCRYPTED, _DECRYPTED):
            if (self._root / decision).exists():
                self._move_into_place(self._root / decision)
                if decision == _DECRYPTED:
                    self._lock_path.unlink(missing_ok=True)
                    synchronise(self._root)
                shutil.rmtree(self._root / decision)
        if (self._root / _PREPARED).exists():
            # A crash came before the decision: what is in place holds.
            shutil.rmtree(self._root / _PREPARED)

    def _move_into_place(self, decided: Path) -> None:
        for folder, _, names in os.walk(decided):
            target = self._root / Path(folder).relative_to(decided)
            make_directory(target)
            for name in names:
                os.replace(Path(folder) / name, target / name)
            synchronise(target)
