"""What the aggregator must not forget: one SQLite file, every change a durable transaction.

``journal`` holds the evidence log's entries in order, written in the same transaction as what they
tell of. Position k of the journal is index k of the log, so after a crash the log only has to catch
up with the journal: no entry is lost and none is written twice.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_secure.canonical import digest
from fedhelp_secure.database import write_transaction
from fedhelp_secure.secure_sum.contribution import SEALED_SEED_BYTES
from fedhelp_secure.state import StateError
from fedhelp_secure.transport.identity import Identity
from fedhelp_server.aggregator.rounds import RoundState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charter (digest TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS journal (position INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    number INTEGER PRIMARY KEY, state INTEGER NOT NULL, deadline INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '', sum_digest TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE IF NOT EXISTS contributions (
    round INTEGER NOT NULL, hospital TEXT NOT NULL, manifest BLOB NOT NULL,
    sealed_seeds BLOB NOT NULL, ciphertext_digest TEXT NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (round, hospital)) STRICT;
CREATE TABLE IF NOT EXISTS rejections (
    round INTEGER NOT NULL, hospital TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (round, hospital)) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    round INTEGER NOT NULL, custodian TEXT NOT NULL, header BLOB NOT NULL,
    body_digest TEXT NOT NULL, PRIMARY KEY (round, custodian)) STRICT;
CREATE TABLE IF NOT EXISTS submissions (
    submitter TEXT NOT NULL, kind TEXT NOT NULL, envelope_digest TEXT NOT NULL,
    envelope BLOB NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (submitter, kind, envelope_digest)) STRICT;
CREATE TABLE IF NOT EXISTS round_keys (
    round INTEGER NOT NULL, custodian TEXT NOT NULL, keys BLOB NOT NULL,
    PRIMARY KEY (round, custodian)) STRICT;
CREATE TABLE IF NOT EXISTS contexts (digest TEXT PRIMARY KEY, context BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cosigned (
    witness TEXT PRIMARY KEY, size INTEGER NOT NULL, checkpoint BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS trust_lists (digest TEXT PRIMARY KEY, envelope BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
    digest TEXT PRIMARY KEY, chain BLOB NOT NULL, trust_list TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS receipts (position INTEGER PRIMARY KEY, receipt BLOB NOT NULL) STRICT;
"""

_JOURNAL_SIZE = "SELECT COALESCE(MAX(position) + 1, 0) FROM journal"


@dataclass(frozen=True, slots=True)
class StoredRound:
    """One round as it is now."""

    number: int
    state: RoundState
    deadline: int
    """Milliseconds since 1970-01-01T00:00:00Z; 0 before the round begins."""
    reason: str
    """One sentence for a person, or empty."""
    sum_digest: str
    """Digest of the ciphertext sum; empty until it is made."""
    contributions: int


@dataclass(frozen=True, slots=True)
class StoredContribution:
    """One accepted contribution; its ciphertext is the blob named by ``ciphertext_digest``."""

    round_number: int
    hospital: str
    manifest: bytes
    sealed_seeds: tuple[bytes, ...]
    """One for each unmasker, in the charter's order; each of SEALED_SEED_BYTES."""
    ciphertext_digest: str
    position: int
    """Index of its ContributionAccepted entry in the log."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """One custodian's checked answer; its body is the blob named by ``body_digest``."""

    round_number: int
    custodian: Identity
    header: bytes
    """Serialised wire AnswerHeader."""
    body_digest: str


@dataclass(frozen=True, slots=True)
class StoredSubmission:
    """One signed statement that a party submitted to the log."""

    submitter: str
    kind: str
    envelope_digest: str
    envelope: bytes
    position: int
    """Index of its StatementSubmitted entry in the log."""


class Change:
    """Writes of one transaction; only `Store.transaction` makes one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def journal(self, entry: bytes) -> int:
        """Append a log entry; returns its position, which is its index in the log."""
        (position,) = self._connection.execute(_JOURNAL_SIZE).fetchone()
        self._connection.execute("INSERT INTO journal VALUES (?, ?)", (position, entry))
        return int(position)

    def set_state(self, number: int, state: RoundState, reason: str) -> None:
        """Put round ``number`` into ``state``."""
        self._connection.execute(
            "UPDATE rounds SET state = ?, reason = ? WHERE number = ?",
            (state.value, reason, number),
        )

    def set_deadline(self, number: int, deadline: int) -> None:
        """Set when round ``number`` stops waiting (Unix milliseconds)."""
        self._connection.execute(
            "UPDATE rounds SET deadline = ? WHERE number = ?", (deadline, number)
        )

    def set_sum(self, number: int, sum_digest: str) -> None:
        """Name the blob that holds the ciphertext sum of round ``number``."""
        self._connection.execute(
            "UPDATE rounds SET sum_digest = ? WHERE number = ?", (sum_digest, number)
        )

    def add_contribution(self, contribution: StoredContribution) -> None:
        """Record an accepted contribution; raises sqlite3.IntegrityError if there is one."""
        self._connection.execute(
            "INSERT INTO contributions VALUES (?, ?, ?, ?, ?, ?)",
            (
                contribution.round_number,
                contribution.hospital,
                contribution.manifest,
                b"".join(contribution.sealed_seeds),
                contribution.ciphertext_digest,
                contribution.position,
            ),
        )

    def count_rejection(self, number: int, hospital: str) -> None:
        """One more rejection of ``hospital`` in round ``number`` is in the log."""
        self._connection.execute(
            "INSERT INTO rejections VALUES (?, ?, 1)"
            " ON CONFLICT (round, hospital) DO UPDATE SET count = count + 1",
            (number, hospital),
        )

    def add_answer(self, answer: StoredAnswer) -> None:
        """Record a custodian's answer."""
        self._connection.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?)",
            (answer.round_number, answer.custodian.uri, answer.header, answer.body_digest),
        )

    def add_submission(self, submission: StoredSubmission) -> None:
        """Record a submitted statement."""
        self._connection.execute(
            "INSERT INTO submissions VALUES (?, ?, ?, ?, ?)",
            (
                submission.submitter,
                submission.kind,
                submission.envelope_digest,
                submission.envelope,
                submission.position,
            ),
        )

    def add_round_keys(self, number: int, custodian: Identity, keys: bytes) -> None:
        """Keep what ``custodian`` stated when it began round ``number`` (wire CustodianKeys)."""
        self._connection.execute(
            "INSERT INTO round_keys VALUES (?, ?, ?)", (number, custodian.uri, keys)
        )

    def add_context(self, context_digest: str, context: bytes) -> None:
        """Keep a public CKKS context, unless it is there."""
        self._connection.execute(
            "INSERT OR IGNORE INTO contexts VALUES (?, ?)", (context_digest, context)
        )

    def add_certificate(self, chain: bytes, trust_list: bytes) -> None:
        """Keep a chain (PEM) and the trust list that it was admitted under, unless it is there."""
        list_digest = digest(trust_list)
        self._connection.execute(
            "INSERT OR IGNORE INTO trust_lists VALUES (?, ?)", (list_digest, trust_list)
        )
        self._connection.execute(
            "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?)",
            (digest(chain), chain, list_digest),
        )

    def set_cosigned(self, witness: str, size: int, checkpoint: bytes) -> None:
        """Keep what ``witness`` cosigned, unless it has cosigned a larger tree already."""
        self._connection.execute(
            "INSERT INTO cosigned VALUES (?, ?, ?) ON CONFLICT (witness) DO UPDATE SET"
            " size = excluded.size, checkpoint = excluded.checkpoint"
            " WHERE excluded.size >= cosigned.size",
            (witness, size, checkpoint),
        )

    def add_receipt(self, position: int, receipt: bytes) -> None:
        """Keep the one receipt given for the entry at ``position``."""
        self._connection.execute("INSERT INTO receipts VALUES (?, ?)", (position, receipt))


class Store:
    """Typed access to the SQLite file; safe for many threads, one writer at a time."""

    def __init__(self, path: Path, *, charter_digest: str, rounds: int) -> None:
        """Open or make the file; raises StateError if it belongs to another charter."""
        path.touch(mode=0o600)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)
            self._adopt(charter_digest, rounds)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Change]:
        """A change that is durable, whole, when the block ends, and undone if it raises."""
        with self._lock, write_transaction(self._connection):
            yield Change(self._connection)

    def journal_size(self) -> int:
        """Entries in the journal."""
        return int(self._rows(_JOURNAL_SIZE)[0][0])

    def journal_entry(self, position: int) -> bytes:
        """The serialised log entry at ``position``, which must be below `journal_size`."""
        ((entry,),) = self._rows("SELECT entry FROM journal WHERE position = ?", position)
        return bytes(entry)

    def rounds(self) -> tuple[StoredRound, ...]:
        """Every round of the charter, in order."""
        rows = self._rows(
            "SELECT number, state, deadline, reason, sum_digest,"
            " (SELECT COUNT(*) FROM contributions WHERE round = number)"
            " FROM rounds ORDER BY number"
        )
        return tuple(
            StoredRound(number, RoundState(state), deadline, reason, sum_digest, contributions)
            for number, state, deadline, reason, sum_digest, contributions in rows
        )

    def contribution(self, number: int, hospital: str) -> StoredContribution | None:
        """``hospital``'s accepted contribution to round ``number``, or None."""
        rows = self._rows(
            "SELECT * FROM contributions WHERE round = ? AND hospital = ?", number, hospital
        )
        return _contribution(rows[0]) if rows else None

    def contributions(self, number: int) -> tuple[StoredContribution, ...]:
        """The accepted contributions to round ``number``, in ascending order of hospital."""
        rows = self._rows("SELECT * FROM contributions WHERE round = ? ORDER BY hospital", number)
        return tuple(_contribution(row) for row in rows)

    def rejections(self, number: int, hospital: str) -> int:
        """Logged rejections of ``hospital`` in round ``number``."""
        rows = self._rows(
            "SELECT count FROM rejections WHERE round = ? AND hospital = ?", number, hospital
        )
        return int(rows[0][0]) if rows else 0

    def answer(self, number: int, custodian: Identity) -> StoredAnswer | None:
        """``custodian``'s answer for round ``number``, or None."""
        rows = self._rows(
            "SELECT header, body_digest FROM answers WHERE round = ? AND custodian = ?",
            number,
            custodian.uri,
        )
        return StoredAnswer(number, custodian, *rows[0]) if rows else None

    def submission(
        self, submitter: str, kind: str, envelope_digest: str
    ) -> StoredSubmission | None:
        """The statement of this digest that ``submitter`` submitted as ``kind``, or None."""
        rows = self._rows(
            "SELECT * FROM submissions WHERE submitter = ? AND kind = ? AND envelope_digest = ?",
            submitter,
            kind,
            envelope_digest,
        )
        return StoredSubmission(*rows[0]) if rows else None

    def submissions(self) -> tuple[StoredSubmission, ...]:
        """Every submitted statement, in order of the log."""
        rows = self._rows("SELECT * FROM submissions ORDER BY position")
        return tuple(StoredSubmission(*row) for row in rows)

    def submissions_by(self, submitter: str) -> int:
        """How many statements ``submitter`` has submitted."""
        rows = self._rows("SELECT COUNT(*) FROM submissions WHERE submitter = ?", submitter)
        return int(rows[0][0])

    def round_keys(self, number: int, custodian: Identity) -> bytes | None:
        """What ``custodian`` stated of round ``number`` (wire CustodianKeys), or None."""
        rows = self._rows(
            "SELECT keys FROM round_keys WHERE round = ? AND custodian = ?", number, custodian.uri
        )
        return bytes(rows[0][0]) if rows else None

    def context(self, context_digest: str) -> bytes | None:
        """The public CKKS context of this digest, or None."""
        rows = self._rows("SELECT context FROM contexts WHERE digest = ?", context_digest)
        return bytes(rows[0][0]) if rows else None

    def statements(self, submitter: str, kind: str) -> tuple[bytes, ...]:
        """The statements of one kind that ``submitter`` submitted, in order of the log."""
        rows = self._rows(
            "SELECT envelope FROM submissions WHERE submitter = ? AND kind = ? ORDER BY position",
            submitter,
            kind,
        )
        return tuple(bytes(row[0]) for row in rows)

    def receipt(self, position: int) -> bytes | None:
        """The receipt given for the log entry at ``position``, or None."""
        rows = self._rows("SELECT receipt FROM receipts WHERE position = ?", position)
        return bytes(rows[0][0]) if rows else None

    def certificates(self) -> tuple[tuple[bytes, bytes], ...]:
        """Every chain that was kept, with its trust list, in the order in which they came."""
        rows = self._rows(
            "SELECT chain, envelope FROM certificates"
            " JOIN trust_lists ON trust_lists.digest = trust_list ORDER BY certificates.rowid"
        )
        return tuple((bytes(chain), bytes(envelope)) for chain, envelope in rows)

    def cosigned(self) -> tuple[bytes, ...]:
        """The newest checkpoint that each witness has cosigned, in order of their names."""
        rows = self._rows("SELECT checkpoint FROM cosigned ORDER BY witness")
        return tuple(bytes(row[0]) for row in rows)

    def blob_digests(self) -> frozenset[str]:
        """Digests of every blob that something in the store refers to."""
        rows = self._rows(
            "SELECT ciphertext_digest FROM contributions UNION SELECT body_digest FROM answers"
            " UNION SELECT sum_digest FROM rounds"
        )
        return frozenset(str(row[0]) for row in rows)

    def _rows(self, statement: str, *values: int | str) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def _adopt(self, charter_digest: str, rounds: int) -> None:
        adopted = self._rows("SELECT digest FROM charter")
        if adopted == [(charter_digest,)]:
            return
        if adopted:
            raise StateError(
                "this state directory already runs another charter; start the aggregator with that "
                "charter, or enrol an aggregator with a new --state directory for the new one."
            )
        with self.transaction():
            self._connection.execute("INSERT INTO charter VALUES (?)", (charter_digest,))
            self._connection.executemany(
                "INSERT INTO rounds (number, state) VALUES (?, ?)",
                [(number, RoundState.PENDING.value) for number in range(1, rounds + 1)],
            )


def _contribution(row: tuple[Any, ...]) -> StoredContribution:
    number, hospital, manifest, seeds, ciphertext_digest, position = row
    starts = range(0, len(seeds), SEALED_SEED_BYTES)
    sealed_seeds = tuple(seeds[start : start + SEALED_SEED_BYTES] for start in starts)
    return StoredContribution(number, hospital, manifest, sealed_seeds, ciphertext_digest, position)
