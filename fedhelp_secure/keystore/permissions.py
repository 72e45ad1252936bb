"""Who may read a state directory: its owner, and nobody else."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from fedhelp_secure.keystore.files import StateError
from fedhelp_secure.keystore.store import LOCK_FILE, is_secret

_STATE_FILES = ("identity.json", "signers.json", LOCK_FILE)


def check_private(root: Path) -> None:
    """Raises StateError, with the command that mends it, unless ``root`` is its owner's alone.

    That is: every directory in it has no permission for others, and so has every file with a
    secret; all of them belong to the user who runs this process; none is a symbolic link, which
    could lead to where others write. The way to ``root`` itself may lead over links.
    """
    _check(root, root, root.stat())
    for folder, folders, names in os.walk(root):
        relative = Path(folder).relative_to(root)
        checked = [name for name in names if is_secret(relative / name)]
        if Path(folder) == root:
            checked += [name for name in names if name in _STATE_FILES]
        for name in (*folders, *checked):
            path = Path(folder) / name
            # What another process removed in the meantime is not there to be read.
            if found := _found(path):
                _check(root, path, found)


def check_private_file(path: Path) -> None:
    """Raises StateError unless the secret file ``path``, outside of a state, is its owner's alone.

    Raises OSError if there is none.
    """
    _check(path, path, path.lstat())


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _check(root: Path, path: Path, found: os.stat_result) -> None:
    quoted = shlex.quote(str(root))
    if stat.S_ISLNK(found.st_mode):
        raise StateError(
            f"{path} is a symbolic link; put what it names in its place; run: {_in_place(path)}"
        )
    if found.st_uid != os.geteuid():
        raise StateError(
            f"{path} belongs to another user ({found.st_uid}) than the one who runs this; do it as "
            f"that user, or run: chown -R {os.geteuid()} {quoted}"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StateError(f"{path} can be read by other users; run: chmod -R go-rwx {quoted}")


def _in_place(path: Path) -> str:
    link, target = shlex.quote(str(path)), shlex.quote(os.path.realpath(path))
    return f"rm {link} && mv {target} {link}"
