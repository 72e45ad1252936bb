"""Ciphertexts, sums and answer bodies, each named by its own SHA-256.

`BlobStore` is all that the aggregator knows of where they are: `DirectoryBlobs` keeps them in a
local directory, `ObjectBlobs` in whatever `fsspec` reaches by a URL. Either way a blob comes in
through a local file (`IncomingBlob`), under whose digest it is kept once it was checked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from fedhelp_secure.canonical import Digesting, check_digest_form
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import synchronise

READ_BYTES = 1 << 20
"""The length of every part of a blob but the last: 16 frames of a ciphertext."""


class BlobDamaged(ConfigurationError):
    """A stored file is gone or no longer has the bytes that its name promises."""

    code = "blob-damaged"


class NoBlobStore(ConfigurationError):
    """The URL of the blob store names none that can be used here."""

    code = "blob-store"


class IncomingBlob:
    """Bytes on their way in: hashed while they are written to a temporary local file."""

    def __init__(self, path: Path, *, on_finish: Callable[[Path], None] | None = None) -> None:
        """``on_finish`` is called with ``path`` when everything is in the file."""
        self.path = path
        self.size = 0
        self._hash = Digesting()
        self._on_finish = on_finish
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    @property
    def digest(self) -> str:
        """Digest of what was written so far."""
        return self._hash.digest

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Make everything written so far durable; nothing can be written afterwards."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._on_finish is not None:
            self._on_finish(self.path)

    def discard(self) -> None:
        """Close and remove the file, if it is still there."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore(Protocol):
    """Content-addressed blobs, for many threads and one process.

    Whatever cannot be stored raises OSError; a name that is no digest raises MalformedMessage.
    """

    def incoming(self) -> AbstractContextManager[IncomingBlob]:
        """A new blob to write; whatever was not kept by `keep` is removed at the end."""

    def keep(self, blob: IncomingBlob) -> str:
        """Make a finished ``blob`` permanent under its digest, at once; returns the digest."""

    def read(self, blob_digest: str) -> Iterator[bytes]:
        """The blob in parts of READ_BYTES, none of which the iterator itself holds on to.

        Raises BlobDamaged if it is missing, or after the last part if its bytes have changed.
        """

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove unfinished blobs and those not ``wanted``: what a crash left behind."""


def open_blobs(url: str | None, directory: Path, *, charter_digest: str) -> BlobStore:
    """The store at ``url``, under a name of its own for this charter; without one, ``directory``.

    The parent of ``directory`` must exist; it holds what is on its way to an object store. Raises
    NoBlobStore if ``url`` names no store, or one whose package is not installed.
    """
    if url is None:
        return DirectoryBlobs(directory)
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise NoBlobStore(
            f"{url} cannot be a blob store: {error}; install the fsspec package of that protocol, "
            "or give another URL."
        ) from error
    own = f"{path.rstrip('/')}/{charter_digest.removeprefix('sha256:')}"
    if isinstance(filesystem, LocalFileSystem):
        if not Path(path).is_dir():
            raise NoBlobStore(f"{path} is no directory; make it, or give another URL.")
        return DirectoryBlobs(Path(own))
    return ObjectBlobs(filesystem, own, spool=directory)


def check(blobs: BlobStore, blob_digest: str) -> None:
    """Raises BlobDamaged unless the blob has the bytes that its name promises."""
    for _ in blobs.read(blob_digest):
        pass


class DirectoryBlobs:
    """Files in ``directory``; ``directory/incoming`` holds unfinished ones."""

    def __init__(self, directory: Path) -> None:
        """The parent of ``directory`` must exist."""
        self._directory = directory
        self._incoming = directory / "incoming"
        # One by one: with parents=True the mode would be that of the last one alone.
        self._directory.mkdir(exist_ok=True, mode=0o700)
        self._incoming.mkdir(exist_ok=True, mode=0o700)

    def path(self, blob_digest: str) -> Path:
        """Where the blob with this digest is, or would be."""
        return self._directory / _name(blob_digest)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[IncomingBlob]:
        """See `BlobStore.incoming`."""
        blob = IncomingBlob(self._incoming / os.urandom(16).hex())
        try:
            yield blob
        finally:
            blob.discard()

    def keep(self, blob: IncomingBlob) -> str:
        """See `BlobStore.keep`: one rename, on disk when this returns."""
        os.replace(blob.path, self.path(blob.digest))
        synchronise(self._directory)
        return blob.digest

    def read(self, blob_digest: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        path = self.path(blob_digest)

        def part(start: int) -> bytes:
            # Open only while a part is read: gRPC drops the iterator of a broken download.
            with path.open("rb") as file:
                file.seek(start)
                return file.read(READ_BYTES)

        try:
            yield from _checked(part, blob_digest)
        except OSError as error:
            raise _damaged(blob_digest) from error

    def sweep(self, wanted: Collection[str]) -> None:
        """See `BlobStore.sweep`."""
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        names = {name.removeprefix("sha256:") for name in wanted}
        for file in self._directory.iterdir():
            if file.is_file() and file.name not in names:
                file.unlink()


class ObjectBlobs:
    """Objects below ``root`` of an fsspec file system, each written whole, first as ``incoming``.

    Durable as soon as the file system's own writes are. ``spool`` is a local directory.
    """

    def __init__(self, filesystem: Any, root: str, *, spool: Path) -> None:  # noqa: ANN401 (untyped)
        """The parent of ``spool`` must exist."""
        self._filesystem = filesystem
        self._root = root
        self._spool = spool
        self._spool.mkdir(exist_ok=True, mode=0o700)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[IncomingBlob]:
        """See `BlobStore.incoming`."""
        blob = IncomingBlob(self._spool / os.urandom(16).hex(), on_finish=self._upload)
        try:
            yield blob
        finally:
            blob.discard()
            with contextlib.suppress(FileNotFoundError):
                self._filesystem.rm_file(self._uploaded(blob.path))

    def keep(self, blob: IncomingBlob) -> str:
        """See `BlobStore.keep`: a copy within the store, no upload."""
        self._filesystem.cp_file(self._uploaded(blob.path), self._object(blob.digest))
        return blob.digest

    def read(self, blob_digest: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        name = self._object(blob_digest)
        try:
            size = int(self._filesystem.size(name))

            def part(start: int) -> bytes:
                if start >= size:
                    return b""
                end = start + READ_BYTES
                return bytes(self._filesystem.cat_file(name, start=start, end=end))

            yield from _checked(part, blob_digest)
        except OSError as error:
            raise _damaged(blob_digest) from error

    def sweep(self, wanted: Collection[str]) -> None:
        """See `BlobStore.sweep`."""
        for leftover in self._spool.iterdir():
            leftover.unlink()
        self._filesystem.invalidate_cache()
        names = {self._object(name) for name in wanted if name}
        with contextlib.suppress(FileNotFoundError):
            for name in self._filesystem.find(self._root):
                if name not in names:
                    self._filesystem.rm_file(name)

    def _object(self, blob_digest: str) -> str:
        return f"{self._root}/{_name(blob_digest)}"

    def _uploaded(self, path: Path) -> str:
        return f"{self._root}/incoming/{path.name}"

    def _upload(self, path: Path) -> None:
        self._filesystem.put_file(str(path), self._uploaded(path))


def _checked(part: Callable[[int], bytes], blob_digest: str) -> Iterator[bytes]:
    """``part`` of every multiple of READ_BYTES until one is empty.

    Raises BlobDamaged then if the digest is another.
    """
    hashed = Digesting()
    starts = itertools.count(0, READ_BYTES)

    def hashed_part() -> bytes:
        chunk = part(next(starts))
        hashed.update(chunk)
        return chunk

    # No loop of our own: it would hold on to its last part while the sum reads from other blobs.
    yield from iter(hashed_part, b"")
    if hashed.digest != blob_digest:
        raise _damaged(blob_digest)


def _name(blob_digest: str) -> str:
    return check_digest_form(blob_digest).removeprefix("sha256:")


def _damaged(blob_digest: str) -> BlobDamaged:
    return BlobDamaged(
        f"the stored file {blob_digest} is missing or damaged; restore the blob store."
    )
