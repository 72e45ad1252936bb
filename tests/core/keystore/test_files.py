"""One at a time, for what several processes change."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from fedhelp_secure.keystore.files import exclusive


def is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_lock_s_file_is_its_owner_s_and_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "registry.lock"
    with exclusive(path):
        assert is_held(path)
    assert not is_held(path)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"", 0o600)


def test_a_directory_is_locked_and_not_made(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        assert is_held(tmp_path)
    with pytest.raises(FileNotFoundError), exclusive(tmp_path / "gone"):
        pass
    assert list(tmp_path.iterdir()) == []
