"""Where events come from: a bundle, or the directory in which an aggregator keeps its log.

Either way the entries are those under a checkpoint that the charter's aggregator signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhelp_secure.charter import Charter, open_charter
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.evidence import verify_log
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.evidence.events.event import AuditEvent, audit_event
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.log import LogDamaged, log_origin, read_frame
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry

_HEADER_BYTES = 8


class SourceUnclear(ConfigurationError):
    """Neither or both of a bundle and a log were given, or a log without its charter."""

    code = "events-source"


@dataclass(frozen=True, slots=True)
class SignedLog:
    """The entries under one signed checkpoint."""

    charter: Charter
    tree: MerkleTree
    leaves: tuple[bytes, ...]
    entries: tuple[LogEntry, ...]
    warning: str | None = None
    """What a person must still compare."""

    @property
    def origin(self) -> str:
        """The log's name."""
        return log_origin(self.charter)

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.leaves)

    def events(self, start: int = 0, end: int | None = None) -> Iterator[AuditEvent]:
        """The events of the entries from index ``start`` to before ``end``, in order."""
        for index in range(start, self.size if end is None else min(end, self.size)):
            leaf, entry = self.leaves[index], self.entries[index]
            yield audit_event(self.charter, self.origin, index, leaf, entry)


def open_source(
    bundle: Path | None,
    log: Path | None,
    charter: Path | None,
    governance_key: VerifyingKey | None,
) -> SignedLog:
    """The log in ``bundle``, or in the aggregator's directory ``log`` under ``charter``.

    Raises SourceUnclear, BundleRefused, LogDamaged, and what signatures and charters raise.
    """
    if bundle is not None and log is None and charter is None:
        return from_bundle(bundle, governance_key)
    if bundle is not None or log is None or charter is None or governance_key is None:
        raise SourceUnclear("give a bundle, or --log together with --charter and --governance-key.")
    try:
        envelope = charter.read_bytes()
    except OSError as error:
        raise SourceUnclear(f"{charter} cannot be read; give the charter's envelope.") from error
    return from_directory(log, open_charter(envelope, governance_key))


def from_bundle(directory: Path, governance_key: VerifyingKey | None) -> SignedLog:
    """Steps 1 to 5 of the verifier, and their entries: index, charter, checkpoint, tree, objects.

    The rest of the evidence is not looked at: that is for "fedhelp audit verify".
    """
    files = verify_log.check_index(directory)
    opened = verify_log.check_charter(files, governance_key)
    tree = verify_log.check_tree(files, verify_log.check_checkpoint(files, opened.charter))
    record = verify_log.check_objects(files, opened.charter, tree)
    return SignedLog(opened.charter, tree.hashes, tree.leaves, record.entries, opened.warning)


def from_directory(directory: Path, charter: Charter) -> SignedLog:
    """The acknowledged entries of a log that may be in use: nothing is written or locked.

    The checkpoint is read first: what it covers is on disk, and never changes again.
    """
    try:
        note = (directory / "checkpoint.txt").read_bytes()
        head = open_checkpoint(
            note, origin=log_origin(charter), key=charter.aggregator.verifying_key()
        )
        leaves = tuple(_frames(directory / "entries.log", head.size))
    except OSError as error:
        raise LogDamaged(f"{directory} holds no readable log; give the aggregator's.") from error
    tree = MerkleTree(leaves)
    if tree.size != head.size or tree.root() != head.root:
        raise LogDamaged(f"the log in {directory} does not hash to its signed checkpoint.")
    entries = tuple(parse_entry(leaf) for leaf in leaves)
    for index, entry in enumerate(entries):
        event = getattr(entry, str(entry.WhichOneof("event")))
        if getattr(event, "charter_digest", charter.digest) != charter.digest:
            raise BundleRefused(f"entry {index} of the log is of another charter.")
    return SignedLog(charter, tree, leaves, entries)


def _frames(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        for _ in range(size):
            data = read_frame(file.read(_HEADER_BYTES), file.read)
            if data is None:
                return
            yield data
