"""What a node keeps of a round, and what it makes of what a crash left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedhelp_client.node.files import ReleaseFiles
from fedhelp_secure.secure_sum.contribution import SEALED_SEED_BYTES, Contribution

SEEDS = (os.urandom(SEALED_SEED_BYTES), os.urandom(SEALED_SEED_BYTES))


def _made(path: Path) -> Contribution:
    with path.open("xb") as file:
        file.write(b"ciphertext")
    return Contribution(b"manifest", SEEDS, path)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    files = ReleaseFiles(tmp_path)
    stored = files.store(1, _made)
    assert files.stored(1) == stored
    assert stored.manifest == b"manifest"
    assert stored.sealed_seeds == SEEDS
    assert stored.ciphertext.read_bytes() == b"ciphertext"
    assert files.stored(2) is None
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_everything_stored_is_its_owner_s_alone(tmp_path: Path) -> None:
    ReleaseFiles(tmp_path).store(1, _made)
    stored = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) == 3
    assert [path.name for path in stored if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    "left",
    [
        [".ciphertext.tmp"],
        [".ciphertext.tmp", ".manifest.17.abcd.tmp"],
        [".ciphertext.tmp", "manifest"],
        [".ciphertext.tmp", "manifest", "sealed_seeds"],
        ["manifest", "sealed_seeds"],
    ],
)
def test_an_unfinished_contribution_is_none_and_its_temporary_files_go(
    tmp_path: Path, left: list[str]
) -> None:
    folder = tmp_path / "round-1"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"of a crash")
    files = ReleaseFiles(tmp_path)
    assert files.stored(1) is None
    assert not list(folder.glob(".*"))
    for name in left:
        (folder / name).write_bytes(b"of a crash")
    assert files.store(1, _made).ciphertext.read_bytes() == b"ciphertext"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ciphertext",
        "manifest",
        "sealed_seeds",
    ]


def test_the_ciphertext_gets_its_name_last(tmp_path: Path) -> None:
    (tmp_path / "round-1" / "sealed_seeds").mkdir(parents=True)
    with pytest.raises(OSError, match="sealed_seeds"):
        ReleaseFiles(tmp_path).store(1, _made)
    assert not (tmp_path / "round-1" / "ciphertext").exists()
