"""The append-only log on disk.

Directory::

    entries.log      frames: length (4 bytes, big endian), CRC-32 of length and entry (4), entry
    checkpoint.txt   the newest checkpoint that was signed
    lock             held (flock) by the one process that writes

Entries are written and synced first, then the checkpoint that covers them, and only then does
`EvidenceLog.extend` return. So the checkpoint says how far the log was acknowledged. Whatever is
broken after that point is the torn tail of an append that never returned, and is cut off on open;
whatever is broken before it, or does not hash to the signed root, is damage, and the log refuses to
open: a log that signs a second history is worth nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import zlib
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, FedHelpError, InternalError
from fedhelp_secure.evidence.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from fedhelp_secure.evidence.entries import MAXIMUM_ENTRY_BYTES, serialise_entry
from fedhelp_secure.evidence.merkle import MerkleTree, OutsideTree, leaf_hash
from fedhelp_secure.keystore.files import make_directory
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import write_atomically
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, Receipt

_LOGGER = logging.getLogger(__name__)
_HEADER_BYTES = 8


class LogDamaged(ConfigurationError):
    """Acknowledged entries are missing or altered."""

    code = "log-damaged"


class LogInUse(ConfigurationError):
    """Another process has the log open for writing."""

    code = "log-in-use"


class LogFailed(InternalError):
    """The disk refused a write, or the log was closed; nothing is appended until it is reopened."""

    code = "log-failed"


def log_origin(charter: Charter) -> str:
    """The name of the log that the charter's aggregator keeps; also the name of its key."""
    return f"{charter.federation}/{charter.aggregator.name}/log"


class EvidenceLog:
    """One log, open for writing. Every method may be called from any thread."""

    def __init__(self, directory: Path, *, origin: str, signing_key: SigningKey) -> None:
        """Use `EvidenceLog.open`."""
        self._lock = threading.RLock()
        self._origin = origin
        self._key = signing_key
        self._entries_path = directory / "entries.log"
        self._checkpoint_path = directory / "checkpoint.txt"
        self._guard = _take_lock(directory / "lock")
        self._file = -1
        self._usable = False
        try:
            self._ends = array("Q")
            """Where in the file each entry ends."""
            self._tree = MerkleTree()
            self._note = self._recover()
            self._usable = True
        finally:
            if not self._usable:
                self.close()

    @classmethod
    def open(cls, directory: Path, *, origin: str, signing_key: SigningKey) -> Self:
        """The log in ``directory``, made if there is none, its torn tail (if any) cut off.

        Raises LogInUse if another process has it, LogDamaged if acknowledged entries are not what
        the last checkpoint signs.
        """
        make_directory(directory)
        return cls(directory, origin=origin, signing_key=signing_key)

    def close(self) -> None:
        """Give up the lock; the log can then be opened again."""
        with self._lock:
            self._usable = False
            for descriptor in (self._file, self._guard):
                if descriptor >= 0:
                    os.close(descriptor)
            self._file = self._guard = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def origin(self) -> str:
        """The log's name, first line of its checkpoints."""
        return self._origin

    @property
    def size(self) -> int:
        """Number of entries."""
        with self._lock:
            return self._tree.size

    def append(self, entry: LogEntry) -> int:
        """Add ``entry``; its index. As `extend`."""
        return self.extend([entry]).start

    def extend(self, entries: Sequence[LogEntry]) -> range:
        """Add ``entries``; their indices, once all of them and one checkpoint are on disk.

        Raises MalformedMessage for an entry without an event (nothing is changed) and LogFailed if
        the disk refuses: which entries are kept is then decided when the log is opened again.
        """
        data = [serialise_entry(entry) for entry in entries]
        with self._lock:
            self._check_usable()
            first = self._tree.size
            if not data:
                return range(first, first)
            try:
                self._write(data)
            except OSError as error:
                # After a failed fsync nobody knows what the disk holds: only a fresh read can tell.
                self._usable = False
                _LOGGER.exception("the evidence log could not be written")
                raise LogFailed(
                    "the evidence log could not be written; check the disk, then restart."
                ) from error
            return range(first, self._tree.size)

    def entry(self, index: int) -> bytes:
        """The bytes of the entry at ``index``; raises OutsideTree if there is none."""
        with self._lock:
            self._check_usable()
            if not 0 <= index < self._tree.size:
                raise OutsideTree("the log has no such entry; ask for an index below its size.")
            offset = (self._ends[index - 1] if index else 0) + _HEADER_BYTES
            length = self._ends[index] - offset
            data = os.pread(self._file, length, offset)
        if len(data) != length:
            raise LogFailed("the evidence log has become shorter; restart to check it.")
        return data

    def checkpoint(self) -> bytes:
        """The newest signed checkpoint; it covers every entry."""
        with self._lock:
            self._check_usable()
            return self._note

    def receipt(self, index: int) -> Receipt:
        """Entry, audit path and newest checkpoint for ``index``; raises OutsideTree."""
        with self._lock:
            data = self.entry(index)
            path = self._tree.inclusion_proof(index, self._tree.size)
            return Receipt(entry=data, index=index, path=path, checkpoint=self._note)

    def root(self, size: int) -> bytes:
        """Of the first ``size`` entries; raises OutsideTree."""
        with self._lock:
            self._check_usable()
            return self._tree.root(size)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 6962 audit path of ``index`` in the tree of ``size`` entries; raises OutsideTree."""
        with self._lock:
            self._check_usable()
            return self._tree.inclusion_proof(index, size)

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """RFC 6962 proof that ``first`` entries begin the ``second``; raises OutsideTree."""
        with self._lock:
            self._check_usable()
            return self._tree.consistency_proof(first, second)

    def _check_usable(self) -> None:
        if not self._usable:
            raise LogFailed("the evidence log is not open; restart to open it again.")

    def _write(self, entries: Sequence[bytes]) -> None:
        _write_all(self._file, b"".join(map(_frame, entries)), self._end())
        os.fsync(self._file)
        for data in entries:
            self._add(data)
        self._note = self._sign()

    def _add(self, data: bytes) -> None:
        """Take notice of ``data``, the next entry of the file."""
        self._ends.append(self._end() + _HEADER_BYTES + len(data))
        self._tree.append(leaf_hash(data))

    def _sign(self) -> bytes:
        checkpoint = Checkpoint(self._origin, self._tree.size, self._tree.root())
        note = sign_checkpoint(checkpoint, self._key)
        write_atomically(self._checkpoint_path, note)
        return note

    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _recover(self) -> bytes:
        acknowledged = self._acknowledged()
        self._file = os.open(self._entries_path, os.O_RDWR | os.O_CREAT, 0o600)
        self._read_frames()
        if self._tree.size < acknowledged.size:
            raise LogDamaged(
                f"entry {self._tree.size} of {acknowledged.size} in {self._entries_path} is bad "
                "or missing; restore the file from a backup."
            )
        if self._tree.root(acknowledged.size) != acknowledged.root:
            raise LogDamaged(
                f"the evidence log in {self._entries_path} does not hash to its last signed "
                "checkpoint; restore the directory from a backup."
            )
        self._cut_tail()
        return self._sign()

    def _acknowledged(self) -> Checkpoint:
        if not self._checkpoint_path.exists():
            if self._entries_path.exists() and self._entries_path.stat().st_size:
                raise LogDamaged(
                    f"{self._checkpoint_path} is missing beside a log that has entries; "
                    "restore it from a backup."
                )
            # Before the first entry, so that a missing checkpoint always means damage.
            self._tree = MerkleTree()
            self._sign()
        try:
            return open_checkpoint(
                self._checkpoint_path.read_bytes(), origin=self._origin, key=self._key.public
            )
        except FedHelpError as error:
            raise LogDamaged(
                f"{self._checkpoint_path} is not a checkpoint of this log by this key; "
                "restore it from a backup, or give the right --state."
            ) from error

    def _read_frames(self) -> None:
        """Take every whole frame from the start of the file, up to the first that is not."""
        with open(self._file, "rb", closefd=False) as file:
            while (data := read_frame(file.read(_HEADER_BYTES), file.read)) is not None:
                self._add(data)

    def _cut_tail(self) -> None:
        if os.fstat(self._file).st_size > self._end():
            _LOGGER.warning("an unfinished append at the end of the evidence log was cut off")
            os.ftruncate(self._file, self._end())
        os.fsync(self._file)


def _frame(data: bytes) -> bytes:
    length = len(data).to_bytes(4, "big")
    return length + zlib.crc32(length + data).to_bytes(4, "big") + data


def read_frame(header: bytes, read: Callable[[int], bytes]) -> bytes | None:
    """The entry after ``header`` (8 bytes), or None if the frame is not whole."""
    if len(header) < _HEADER_BYTES:
        return None
    length = int.from_bytes(header[:4], "big")
    if not 0 < length <= MAXIMUM_ENTRY_BYTES:
        return None
    data = read(length)
    if len(data) < length or zlib.crc32(header[:4] + data) != int.from_bytes(header[4:], "big"):
        return None
    return data


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _take_lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LogInUse(
            f"{path.parent} is in use by another process; stop that one first."
        ) from error
    return descriptor
