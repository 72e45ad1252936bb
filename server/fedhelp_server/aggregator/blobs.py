"""Ciphertexts, sums and answer bodies on disk, each named by its own SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from fedhelp_secure.canonical import check_digest_form, digest
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import write_atomically

_READ_BYTES = 1 << 20


class BlobDamaged(ConfigurationError):
    """A stored file is gone or no longer has the bytes that its name promises."""

    code = "blob-damaged"


class IncomingBlob:
    """Bytes on their way in: hashed while they are written to a temporary file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    @property
    def digest(self) -> str:
        """Digest of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Close the file with everything on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file, if it is still there."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """Content-addressed files in ``directory``; ``directory/incoming`` holds unfinished ones.

    The parent of ``directory`` must exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / "incoming"
        # One by one: with parents=True the mode would be that of the last one alone.
        self._directory.mkdir(exist_ok=True, mode=0o700)
        self._incoming.mkdir(exist_ok=True, mode=0o700)

    def path(self, blob_digest: str) -> Path:
        """Where the blob with this digest is, or would be."""
        return self._directory / check_digest_form(blob_digest).removeprefix("sha256:")

    @contextlib.contextmanager
    def incoming(self) -> Iterator[IncomingBlob]:
        """A new temporary file; whatever was not kept by `keep` is removed at the end."""
        blob = IncomingBlob(self._incoming / os.urandom(16).hex())
        try:
            yield blob
        finally:
            blob.discard()

    def keep(self, blob: IncomingBlob) -> str:
        """Make a finished ``blob`` permanent under its digest, durably; returns the digest."""
        os.replace(blob.path, self.path(blob.digest))
        self._sync_directory()
        return blob.digest

    @contextlib.contextmanager
    def incoming_path(self) -> Iterator[Path]:
        """The path of a temporary file that another process may make; removed at the end."""
        path = self._incoming / os.urandom(16).hex()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def adopt(self, path: Path) -> str:
        """Make the file at ``path`` (from `incoming_path`) permanent; returns its digest."""
        with path.open("rb") as file:
            name = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(path, self.path(name))
        self._sync_directory()
        return name

    def put(self, data: bytes) -> str:
        """Store ``data`` durably; returns its digest."""
        data_digest = digest(data)
        write_atomically(self.path(data_digest), data)
        return data_digest

    def read(self, blob_digest: str) -> Iterator[bytes]:
        """The blob in parts of at most 1 MiB.

        Raises BlobDamaged if it is missing, or after the last part if its bytes have changed.
        """
        hashed = hashlib.sha256()
        try:
            with self.path(blob_digest).open("rb") as file:
                while chunk := file.read(_READ_BYTES):
                    hashed.update(chunk)
                    yield chunk
        except OSError as error:
            raise BlobDamaged(_damaged(blob_digest)) from error
        if "sha256:" + hashed.hexdigest() != blob_digest:
            raise BlobDamaged(_damaged(blob_digest))

    def check(self, blob_digest: str) -> None:
        """Raises BlobDamaged unless the blob has the bytes that its name promises."""
        for _ in self.read(blob_digest):
            pass

    def sweep(self, wanted: Collection[str]) -> None:
        """Remove unfinished files and blobs that nothing refers to: what a crash left behind."""
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        names = {name.removeprefix("sha256:") for name in wanted}
        for file in self._directory.iterdir():
            if file.is_file() and file.name not in names:
                file.unlink()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _damaged(blob_digest: str) -> str:
    return f"the stored file {blob_digest} is missing or damaged; restore the state directory."
