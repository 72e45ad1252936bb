"""The privacy ledger: one hospital's durable, append-only account of what its patients spent.

Debit first: `Ledger.reserve` returns only after the debit of a round is on the disk, and only then
may noise be drawn and anything be encrypted. Whatever happens afterwards, a crash included, the
round is spent, and a second reservation of it is refused: the node then re-sends the bytes that it
stored, or sits the round out.

The file is SQLite, one row an entry, the entry itself a signed envelope that names the digest of
the one before. Every operation reads and checks the whole chain (a ledger has tens of entries), so
that an edited file is refused and never trusted. What no chain can show is that a file was replaced
by an older copy of itself or removed: keep the ledger out of backups that are restored as a matter
of course, and compare its head with the manifests in the federation's log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import ConfigurationError, FedHelpError, PolicyError
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.account import Account, broken_limit, check_chain, check_under_charter
from fedhelp_secure.privacy.events import (
    KIND,
    LedgerEntry,
    LedgerRefused,
    Limits,
    Outcome,
    PrivacyEvent,
    Record,
    Reservation,
    Spent,
    event_of,
    open_entry,
)
from fedhelp_secure.privacy.noise import ENTROPY_SOURCE, SAMPLER, SAMPLER_VERSION
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import write_atomically

_BUSY_SECONDS = 30.0

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


class BudgetExhausted(PolicyError):
    """The next release would exceed a limit. There is no override: it takes another charter."""

    code = "budget-exhausted"


class AlreadyReserved(PolicyError):
    """The round was debited before: send what was stored for it, and never draw noise again."""

    code = "already-reserved"


class NotRecorded(PolicyError):
    """An outcome does not follow from what the ledger says of its round."""

    code = "ledger-outcome"


class LedgerDamaged(ConfigurationError):
    """The ledger's file is not the unbroken account that this hospital signed."""

    code = "ledger"


class Ledger:
    """Use `open`. Safe for several threads and processes: every debit is one transaction."""

    def __init__(
        self, path: Path, *, hospital: str, signing_key: SigningKey, policy: SitePolicy
    ) -> None:
        self._path = path
        self._hospital = hospital
        self._signing_key = signing_key
        self._policy = policy

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        hospital: str,
        signing_key: SigningKey,
        policy: SitePolicy | None = None,
    ) -> Ledger:
        """The ledger in the file at ``path``, made if there is none, its whole chain checked.

        ``policy`` holds the site's own limits; without it only the charters' apply. Raises
        LedgerDamaged if the file is not this hospital's unbroken ledger.
        """
        ledger = cls(
            path,
            hospital=hospital,
            signing_key=signing_key,
            policy=SitePolicy() if policy is None else policy,
        )
        ledger._prepare()
        return ledger

    def reserve(self, charter: Charter, round_number: int) -> LedgerEntry:
        """Debit ``round_number`` of ``charter``; on the disk before this returns.

        A charter is begun only if all its rounds that remain can be paid for. Raises
        BudgetExhausted, AlreadyReserved, SitePolicyRefuses, CharterRefused or LedgerDamaged; the
        ledger is then unchanged.
        """
        self._policy.check(charter)
        event = self._checked_event(charter, round_number)
        limits = self._limits(charter)
        with self._transaction() as connection:
            account = self._account(connection)
            if account.progress(charter.digest, round_number) is not None:
                raise AlreadyReserved(
                    f"round {round_number} is already debited; send its stored contribution again."
                )
            remaining = charter.rounds.count - round_number + 1
            planned = account.totals_after(
                charter.digest, event, charter.privacy.delta, times=remaining
            )
            broken = broken_limit(planned, limits)
            if broken is not None:
                raise BudgetExhausted(
                    f"the rounds that remain would exceed this hospital's limit of {broken}; "
                    "nothing was debited. Only a charter with more noise or fewer rounds fits."
                )
            record = Reservation(
                sequence=len(account.entries),
                previous=account.head,
                federation=charter.federation,
                hospital=self._hospital,
                group=charter.hospital(self._hospital).group,
                charter=charter.digest,
                round=round_number,
                event=event,
                rho_aggregate=event.loss_aggregate.text(),
                rho_collusion=event.loss_collusion.text(),
                delta=charter.privacy.delta,
                totals=account.totals_after(charter.digest, event, charter.privacy.delta),
                limits=limits,
                sampler=SAMPLER,
                sampler_version=SAMPLER_VERSION,
                entropy_source=ENTROPY_SOURCE,
                software_version=version("fedhelp-secure"),
                reserved_at=_now(),
            )
            return self._append(connection, account, record)

    def record(
        self,
        charter: Charter,
        round_number: int,
        status: Literal["sent", "opened"],
        *,
        contribution_digest: str,
    ) -> LedgerEntry:
        """Record that the contribution with this manifest digest was ``sent``, or ``opened``.

        Recording the same again returns the first entry. Raises NotRecorded if the round was not
        reserved (or not sent) before, or another contribution was recorded for it.
        """
        with self._transaction() as connection:
            account = self._account(connection)
            for entry in account.entries:
                record = entry.record
                if (
                    isinstance(record, Outcome)
                    and (record.charter, record.round) == (charter.digest, round_number)
                    and (record.status, record.contribution) == (status, contribution_digest)
                ):
                    return entry
            outcome = Outcome(
                status=status,
                sequence=len(account.entries),
                previous=account.head,
                hospital=self._hospital,
                charter=charter.digest,
                round=round_number,
                contribution=contribution_digest,
                recorded_at=_now(),
            )
            required = ("reserved", None) if status == "sent" else ("sent", contribution_digest)
            if account.progress(charter.digest, round_number) != required:
                raise NotRecorded(
                    f"round {round_number} cannot be recorded as {status}: "
                    "the ledger says otherwise."
                )
            return self._append(connection, account, outcome)

    def spent(self, charter: Charter) -> Spent:
        """What this hospital's patients have spent under ``charter``: every reserved round."""
        try:
            return check_under_charter(self.account(), charter)
        except LedgerRefused as error:
            raise LedgerDamaged(_damaged(self._path)) from error

    def account(self) -> Account:
        """The whole ledger, its chain checked; raises LedgerDamaged."""
        with self._connection() as connection:
            return self._account(connection)

    def export(self, path: Path) -> None:
        """Write every envelope, one a line, to ``path``: what an auditor checks."""
        lines = [entry.envelope + b"\n" for entry in self.account().entries]
        write_atomically(path, b"".join(lines))

    def _checked_event(self, charter: Charter, round_number: int) -> PrivacyEvent:
        if charter.hospital(self._hospital).verifying_key() != self._signing_key.public:
            raise CharterRefused(
                "the charter names another signing key for this hospital; ask for a new charter."
            )
        if not 1 <= round_number <= charter.rounds.count:
            raise CharterRefused(f"the charter has no round {round_number}; nothing was debited.")
        return event_of(charter, self._hospital)

    def _limits(self, charter: Charter) -> Limits:
        return Limits(
            # Not above the site's own limit: the policy refuses such a charter as a whole.
            epsilon=charter.privacy.epsilon,
            epsilon_collusion=self._policy.epsilon_collusion,
            lifetime_epsilon=self._policy.lifetime_epsilon,
            lifetime_delta=self._policy.lifetime_delta,
        )

    def _append(
        self, connection: sqlite3.Connection, account: Account, record: Record
    ) -> LedgerEntry:
        document = record.model_dump(mode="json")
        envelope = self._signing_key.sign_document(KIND, document)
        entry = open_entry(envelope, self._signing_key.public)
        # The same check that an auditor makes: an entry that would be refused is never written.
        account.add(entry)
        connection.execute(
            "INSERT INTO entries (sequence, envelope) VALUES (?, ?)", (record.sequence, envelope)
        )
        return entry

    def _account(self, connection: sqlite3.Connection) -> Account:
        rows = connection.execute("SELECT sequence, envelope FROM entries ORDER BY sequence")
        envelopes = [bytes(envelope) for _, envelope in rows]
        try:
            return check_chain(envelopes, hospital=self._hospital, key=self._signing_key.public)
        except FedHelpError as error:
            raise LedgerDamaged(_damaged(self._path)) from error

    def _prepare(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise LedgerDamaged(_damaged(self._path)) from error
        with self._connection() as connection:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._account(connection)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed and synced at the end, or without any effect."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(
                sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            ) as connection:
                # EXTRA is FULL and also syncs the directory when the journal goes: with a rollback
                # journal only this keeps a commit that has returned through a loss of power.
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("PRAGMA fullfsync = ON")
                yield connection
        except sqlite3.Error as error:
            raise LedgerDamaged(_damaged(self._path)) from error


def _damaged(path: Path) -> str:
    return (
        f"{path} is not this hospital's unbroken ledger, or cannot be written. Release nothing "
        "and do not restore an older copy, which would forget what was spent: ask the privacy "
        "officer."
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
