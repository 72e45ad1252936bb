"""Store and evidence log in step: what is in one is in the other, after any crash.

A change and its log entries are one transaction of the store, whose journal then leads and whose
log follows. The same lock orders both, so entry k of the journal is entry k of the log.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.state import StateError
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, Receipt
from fedhelp_server.aggregator.store import Change, Store


def unix_milliseconds() -> int:
    """Now, by this machine's clock."""
    return time.time_ns() // 1_000_000


class Journal:
    """The only way to change the store."""

    def __init__(self, store: Store, log: EvidenceLog) -> None:
        """Raises StateError if store and log do not belong together."""
        self.store = store
        self.log = log
        self.lock = threading.RLock()
        self._check_same_history()
        self._catch_up()

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """A change of the store whose entries are in the log, on disk, when the block ends."""
        with self.lock:
            with self.store.transaction() as change:
                yield change
            self._catch_up()

    def receipt(self, position: int) -> Receipt:
        """The receipt for the entry at ``position``: made once, then always the same bytes."""
        with self.lock:
            self._catch_up()
            stored = self.store.receipt(position)
            if stored is not None:
                return Receipt.FromString(stored)
            receipt = self.log.receipt(position)
            with self.store.transaction() as change:
                change.add_receipt(position, receipt.SerializeToString(deterministic=True))
            return receipt

    def _catch_up(self) -> None:
        missing = range(self.log.size, self.store.journal_size())
        self.log.extend([LogEntry.FromString(self.store.journal_entry(at)) for at in missing])

    def _check_same_history(self) -> None:
        if self.log.size > self.store.journal_size():
            raise StateError(
                "the evidence log is ahead of the store; restore the whole state directory from "
                "one and the same backup."
            )
        for position in range(self.log.size):
            if self.log.entry(position) != self.store.journal_entry(position):
                raise StateError(
                    f"entry {position} of the evidence log is not the store's; restore the whole "
                    "state directory from one and the same backup."
                )


def write_entry(change: Change, entry: LogEntry) -> int:
    """Stamp ``entry`` with the time and journal it; returns its index in the log."""
    entry.unix_milliseconds = unix_milliseconds()
    return change.journal(entry.SerializeToString(deterministic=True))
