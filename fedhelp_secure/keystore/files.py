"""Files of a state directory: written whole or not at all, for their owner only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhelp_secure.errors import ConfigurationError


class StateError(ConfigurationError):
    """The state directory is missing, incomplete or open to others."""

    code = "state"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write ``data`` so that after a crash the file holds all of it or is as it was.

    Parent directories are made with mode 0700.
    """
    make_directory(path.parent)
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


def make_directory(path: Path) -> None:
    """Make ``path`` and what is missing above it, each with mode 0700."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Within it nobody else, thread or process, is within it for ``path``. Not to be nested.

    ``path`` is a directory that is there, or ends in ``.lock``: an empty file, made for its owner
    only.
    """
    is_file = path.suffix == ".lock"
    flags = os.O_RDWR | os.O_CREAT if is_file else os.O_RDONLY | os.O_DIRECTORY
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def synchronise(path: Path) -> None:
    """Put what a file holds, or which names a directory has, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
