"""The ledger's file: SQLite that grows at its end only, durable when a transaction returns.

And reading it: every reader checks the whole chain.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fedhelp_secure.database import write_transaction
from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.keystore.files import make_directory
from fedhelp_secure.privacy.account import Account, check_chain
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory

_BUSY_SECONDS = 30.0

Clock = Callable[[], datetime]
"""Gives the time of an entry, in UTC."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY,
    envelope BLOB NOT NULL
);
CREATE TRIGGER IF NOT EXISTS entries_only_at_the_end BEFORE INSERT ON entries
WHEN NEW.sequence <> (SELECT count(*) FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger only grows at its end'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_change BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_go BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


def utc_now() -> datetime:
    """The operating system's time."""
    return datetime.now(UTC)


class LedgerDamaged(ConfigurationError):
    """The ledger's file is not the unbroken account that this hospital signed."""

    code = "ledger"


class NoLedger(ConfigurationError):
    """There is no ledger to look at."""

    code = "no-ledger"


class LedgerFile:
    """The signed entries of one ledger, as bytes; what they say is not looked at here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the file, owner-only, if there is none; raises LedgerDamaged if that cannot be."""
        try:
            make_directory(self.path.parent)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise LedgerDamaged(damaged(self.path)) from error
        with self.connection() as connection:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed and synced at the end, or without any effect."""
        with self.connection() as connection, write_transaction(connection):
            yield connection

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One connection; what SQLite refuses becomes LedgerDamaged."""
        try:
            with closing(
                sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            ) as connection:
                # EXTRA is FULL and also syncs the directory when the journal goes: with a rollback
                # journal only this keeps a commit that has returned through a loss of power.
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("PRAGMA fullfsync = ON")
                yield connection
        except sqlite3.Error as error:
            raise LedgerDamaged(damaged(self.path)) from error


def damaged(path: Path) -> str:
    """What an operator is told."""
    return (
        f"{path} is not this hospital's unbroken ledger, or cannot be written. Release nothing "
        "and do not restore an older copy, which would forget what was spent: ask the privacy "
        "officer."
    )


def ledger_path(state: StateDirectory) -> Path:
    """Where a hospital's ledger is."""
    return state.role_directory() / "ledger.sqlite"


def read_account(path: Path, *, hospital: str, keys: Sequence[VerifyingKey]) -> Account:
    """What the ledger at ``path`` amounts to; nothing is made or changed.

    ``keys`` are all that the hospital has or had. Raises NoLedger if there is none, and
    LedgerDamaged.
    """
    if not path.exists():
        raise NoLedger(
            f"there is no ledger at {path}: this hospital has debited nothing, or the file was "
            "removed. If it has ever taken part in a round, release nothing and look for it."
        )
    with LedgerFile(path).connection() as connection:
        return checked_account(connection, path, hospital=hospital, keys=keys)


def checked_account(
    connection: sqlite3.Connection, path: Path, *, hospital: str, keys: Sequence[VerifyingKey]
) -> Account:
    """The account that all entries give; raises LedgerDamaged unless the chain holds."""
    rows = connection.execute("SELECT envelope FROM entries ORDER BY sequence")
    try:
        # An envelope that is no bytes at all raises TypeError: the file was edited.
        envelopes = [bytes(envelope) for (envelope,) in rows]
        return check_chain(envelopes, hospital=hospital, keys=keys)
    except (FedHelpError, TypeError) as error:
        raise LedgerDamaged(damaged(path)) from error
