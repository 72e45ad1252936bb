"""One contract, kept by every kind of store; then what only one of them has."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_server.aggregator.blobs import (
    READ_BYTES,
    BlobDamaged,
    BlobStore,
    DirectoryBlobs,
    NoBlobStore,
    ObjectBlobs,
    check,
    open_blobs,
)

DATA = bytes(range(256)) * 9000
CHARTER = digest(b"charter")
_NUMBERS = itertools.count()


class Kept:
    """A store, and a look at its bytes that does not go through it."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self.directory = directory / "blobs"
        self.url = f"memory://store-{next(_NUMBERS)}" if kind == "memory" else None
        self._filesystem: Any = fsspec.filesystem("memory" if self.url else "file")
        self.root = f"{self.url}/{CHARTER[7:]}" if self.url else str(self.directory)

    def open(self) -> BlobStore:
        return open_blobs(self.url, self.directory, charter_digest=CHARTER)

    def names(self) -> set[str]:
        """Whatever there is, finished or not, also what is only on its way to an object store."""
        local = {path.name for path in self.directory.rglob("*") if path.is_file()}
        remote = {Path(name).name for name in self._filesystem.find(self.root)}
        return local | remote

    def write(self, name: str, data: bytes) -> None:
        self._filesystem.pipe_file(f"{self.root}/{name}", data)

    def remove(self, name: str) -> None:
        self._filesystem.rm_file(f"{self.root}/{name}")


@pytest.fixture(params=["directory", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    return Kept(request.param, tmp_path)


def put(blobs: BlobStore, data: bytes) -> str:
    with blobs.incoming() as incoming:
        for start in range(0, len(data), 1_000_000):
            incoming.write(data[start : start + 1_000_000])
        incoming.finish()
        return blobs.keep(incoming)


def test_what_is_kept_is_read_under_its_digest(kept: Kept) -> None:
    name = put(kept.open(), DATA)
    assert name == digest(DATA)
    parts = list(kept.open().read(name))
    assert b"".join(parts) == DATA
    assert [len(part) for part in parts[:-1]] == [READ_BYTES] * 2
    assert kept.names() == {name[7:]}


def test_the_same_bytes_again_are_one_blob(kept: Kept) -> None:
    blobs = kept.open()
    assert put(blobs, DATA) == put(blobs, DATA)
    assert kept.names() == {digest(DATA)[7:]}


def test_nothing_is_a_blob_too(kept: Kept) -> None:
    blobs = kept.open()
    assert list(blobs.read(put(blobs, b""))) == []


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_not_kept_is_gone(kept: Kept, finished: bool) -> None:
    blobs = kept.open()

    def interrupted() -> None:
        with blobs.incoming() as incoming:
            incoming.write(DATA)
            if finished:
                incoming.finish()
            assert kept.names() != set()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert kept.names() == set()


def test_an_incoming_blob_is_a_local_file_of_what_was_written(kept: Kept) -> None:
    with kept.open().incoming() as incoming:
        incoming.write(DATA[:100])
        incoming.write(DATA[100:])
        incoming.finish()
        assert incoming.path.read_bytes() == DATA
        assert (incoming.size, incoming.digest) == (len(DATA), digest(DATA))
        assert incoming.path.stat().st_mode & 0o077 == 0


def test_two_readers_do_not_disturb_each_other(kept: Kept) -> None:
    blobs = kept.open()
    name = put(blobs, DATA)
    for one, other in zip(blobs.read(name), blobs.read(name), strict=True):
        assert one == other


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"x", b"x" + DATA[1:]])
def test_damage_is_noticed(kept: Kept, damage: bytes) -> None:
    blobs = kept.open()
    name = put(blobs, DATA)
    kept.write(name[7:], damage)
    with pytest.raises(BlobDamaged, match="restore"):
        check(blobs, name)


def test_a_missing_blob_is_damage(kept: Kept) -> None:
    blobs = kept.open()
    with pytest.raises(BlobDamaged):
        check(blobs, digest(DATA))
    name = put(blobs, DATA)
    kept.remove(name[7:])
    with pytest.raises(BlobDamaged):
        check(blobs, name)


@pytest.mark.parametrize("name", ["", "sha256:", "../x", "sha256:../../etc/passwd"])
def test_only_digests_are_names(kept: Kept, name: str) -> None:
    with pytest.raises(MalformedMessage):
        check(kept.open(), name)


def test_sweeping_keeps_what_is_referred_to(kept: Kept) -> None:
    blobs = kept.open()
    wanted, _ = put(blobs, b"kept"), put(blobs, b"dropped")
    kept.write("incoming/half", b"half")
    kept.write(".sha.1.tmp", b"half")
    (kept.directory / "half-of-a-spooled-one").write_bytes(b"half")
    blobs.sweep({wanted, ""})
    check(blobs, wanted)
    assert kept.names() == {wanted[7:]}


def test_sweeping_an_empty_store_is_nothing(kept: Kept) -> None:
    kept.open().sweep({""})
    assert kept.names() == set()


def test_a_reader_does_not_hold_on_to_what_it_gave(kept: Kept) -> None:
    """Otherwise a sum of many contributions would have a part of every one in memory."""
    blobs = kept.open()
    reader = blobs.read(put(blobs, os.urandom(3 * READ_BYTES)))
    part = next(reader)
    gc.collect()
    # This name and the argument of the call.
    assert sys.getrefcount(part) == 2


def test_blobs_in_a_directory_are_for_their_owner_only(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    put(blobs, DATA)
    assert [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o077] == []


def test_each_charter_has_a_place_of_its_own_at_a_url(tmp_path: Path) -> None:
    """Sweeping one charter's blobs must not touch another's."""
    url = f"memory://shared-{next(_NUMBERS)}"
    one, other = (
        open_blobs(url, tmp_path / name, charter_digest=digest(name.encode()))
        for name in ("one", "other")
    )
    name = put(one, DATA)
    other.sweep(set())
    check(one, name)
    assert isinstance(one, ObjectBlobs)


def test_a_local_url_is_a_directory(tmp_path: Path) -> None:
    blobs = open_blobs(f"file://{tmp_path}", tmp_path / "unused", charter_digest=CHARTER)
    assert isinstance(blobs, DirectoryBlobs)
    name = put(blobs, DATA)
    assert blobs.path(name) == tmp_path / CHARTER[7:] / name[7:]


@pytest.mark.parametrize(
    "url", [lambda _: "no-such-protocol://x/y", lambda path: f"file://{path}/nowhere"]
)
def test_a_url_of_no_store_is_refused(tmp_path: Path, url: Callable[[Path], str]) -> None:
    with pytest.raises(NoBlobStore):
        open_blobs(url(tmp_path), tmp_path / "blobs", charter_digest=CHARTER)
