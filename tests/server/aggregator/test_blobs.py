from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_server.aggregator.blobs import BlobDamaged, BlobStore

DATA = bytes(range(256)) * 9000


def test_streamed_and_whole_give_one_name(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with blobs.incoming() as incoming:
        incoming.write(DATA[:100])
        incoming.write(DATA[100:])
        incoming.finish()
        name = blobs.keep(incoming)
    assert name == digest(DATA) == blobs.put(DATA)
    assert b"".join(blobs.read(name)) == DATA
    assert blobs.path(name).stat().st_mode & 0o077 == 0


def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)

    def interrupted() -> None:
        with blobs.incoming() as incoming:
            incoming.write(DATA)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_file_of_another_process_is_adopted(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    with blobs.incoming_path() as path:
        path.write_bytes(DATA)
        name = blobs.adopt(path)
    blobs.check(name)
    with blobs.incoming_path() as path:
        path.write_bytes(b"left")
    assert not path.exists()


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"x", b"x" + DATA[1:]])
def test_damage_is_noticed(tmp_path: Path, damage: bytes) -> None:
    blobs = BlobStore(tmp_path)
    name = blobs.put(DATA)
    blobs.path(name).write_bytes(damage)
    with pytest.raises(BlobDamaged, match="restore"):
        blobs.check(name)


def test_a_missing_blob_is_damage(tmp_path: Path) -> None:
    with pytest.raises(BlobDamaged):
        BlobStore(tmp_path).check(digest(DATA))


@pytest.mark.parametrize("name", ["", "sha256:", "../x", "sha256:../../etc/passwd"])
def test_only_digests_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(MalformedMessage):
        BlobStore(tmp_path).path(name)


def test_sweeping_keeps_what_is_referred_to(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    kept, dropped = blobs.put(b"kept"), blobs.put(b"dropped")
    (tmp_path / "incoming" / "half").write_bytes(b"half")
    (tmp_path / ".sha.1.tmp").write_bytes(b"half")
    blobs.sweep({kept, ""})
    blobs.check(kept)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [blobs.path(kept)]
    assert not blobs.path(dropped).exists()
