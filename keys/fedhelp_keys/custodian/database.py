"""A custodian's one SQLite file: its epochs, the rounds bound to them, and its answers.

Together in one file, so that what must not happen twice or in another order is one transaction,
also between two processes on one state directory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedhelp_secure.database import write_transaction

FILE_NAME = "answers.sqlite3"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    charter TEXT NOT NULL,
    round INTEGER NOT NULL,
    request TEXT NOT NULL,
    header BLOB NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (charter, round)
) STRICT;
CREATE TABLE IF NOT EXISTS refusals (
    charter TEXT NOT NULL,
    round INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (charter, round)
) STRICT;
CREATE TABLE IF NOT EXISTS epochs (
    number INTEGER PRIMARY KEY,
    statement BLOB NOT NULL,
    closing TEXT,
    abandoned INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    destroyed BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS begun (
    charter TEXT NOT NULL,
    round INTEGER NOT NULL,
    epoch INTEGER NOT NULL REFERENCES epochs (number),
    statement BLOB NOT NULL,
    PRIMARY KEY (charter, round)
) STRICT;
CREATE VIEW IF NOT EXISTS waiting AS
    SELECT begun.charter, begun.round, begun.epoch FROM begun
    LEFT JOIN answers USING (charter, round) WHERE answers.request IS NULL;
"""
# `closing` is the reason for which an epoch ends: from then on nothing is answered under it. When
# its secret is gone, `destroyed` has the statement. `lost`: a restored custodian never had it.


class Database:
    """Opens or makes the file, for its owner only. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._opened() as connection:
            connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other overlaps, on the disk when the block ends."""
        with self._opened() as connection, write_transaction(connection):
            yield connection

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            # EXTRA: the commit is on the disk, directory entry included, before it returns.
            connection.execute("PRAGMA synchronous = EXTRA")
            yield connection


def present_epoch(connection: sqlite3.Connection) -> int:
    """The number of the present epoch, 0 if there is none."""
    row = connection.execute("SELECT COALESCE(MAX(number), 0) FROM epochs").fetchone()
    return int(row[0])
