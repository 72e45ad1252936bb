"""The privacy ledger: one hospital's durable, append-only account of what its patients spent.

Debit first: `Ledger.reserve` returns only after the debit of a round is on the disk, and only then
may noise be drawn and anything be encrypted. Whatever happens afterwards, a crash included, the
round is spent, and a second reservation of it is refused: the node then re-sends the bytes that it
stored, or sits the round out.

The file is SQLite, one row an entry, the entry itself a signed envelope that names the digest of
the one before. Every operation reads and checks the whole chain (a ledger has tens of entries), so
that an edited file is refused and never trusted. What no chain can show is that a file was replaced
by an older copy of itself or removed: `fedhelp_secure.privacy.witness` finds that from what the
hospital signed, which a node gets from its own files and from the aggregator before it releases.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.account import (
    Account,
    Spent,
    charter_fields,
    check_under_charter,
    follows,
)
from fedhelp_secure.privacy.budgets import Place, broken_limit, check_policy, site_limits
from fedhelp_secure.privacy.consent import (
    ConsentRefused,
    Period,
    check_consent_key,
    make_consent,
    sign_consent,
)
from fedhelp_secure.privacy.events import (
    KIND,
    LedgerRefused,
    PrivacyEvent,
    event_of,
)
from fedhelp_secure.privacy.key_ring import KeyRing, OneKey, steps
from fedhelp_secure.privacy.ledger_file import (
    Clock,
    LedgerDamaged,
    LedgerFile,
    checked_account,
    damaged,
    ledger_path,
    utc_now,
)
from fedhelp_secure.privacy.noise import ENTROPY_SOURCE, SAMPLER, SAMPLER_VERSION
from fedhelp_secure.privacy.records import (
    Aborted,
    Consented,
    LedgerEntry,
    Outcome,
    Record,
    Reservation,
    SiteLimits,
    Succeeded,
    open_entry,
)
from fedhelp_secure.provenance import source_commit
from fedhelp_secure.signing import SigningKey, VerifyingKey, sign_jointly
from fedhelp_secure.state import KeyNotHeld, StateDirectory, write_atomically

PROTOCOL = "fedhelp_secure.wire.v1"


class BudgetExhausted(PolicyError):
    """The next release would exceed a limit. There is no override: a larger budget is a consent."""

    code = "budget-exhausted"


class LimitLoosened(PolicyError):
    """The site's policy file is laxer than what the ledger has seen of it."""

    code = "limit-loosened"


class AlreadyReserved(PolicyError):
    """The round was debited before: send what was stored for it, and never draw noise again."""

    code = "already-reserved"


class NotRecorded(PolicyError):
    """An outcome does not follow from what the ledger says of its round."""

    code = "ledger-outcome"


class Ledger:
    """Use `open` or `of`. Safe for threads and processes: every debit is one transaction."""

    def __init__(
        self,
        path: Path,
        *,
        hospital: str,
        keys: KeyRing,
        policy: SitePolicy,
        clock: Clock,
    ) -> None:
        self._file = LedgerFile(path)
        self._hospital = hospital
        self._keys = keys
        self._policy = policy
        self._clock = clock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        hospital: str,
        signing_key: SigningKey,
        policy: SitePolicy | None = None,
        clock: Clock = utc_now,
    ) -> Ledger:
        """The ledger in the file at ``path``, made if there is none, its whole chain checked.

        ``policy`` holds the site's own limits; without it only the charters' apply. Raises
        LedgerDamaged if the file is not this hospital's unbroken ledger.
        """
        ledger = cls(
            path,
            hospital=hospital,
            keys=OneKey(signing_key),
            policy=SitePolicy() if policy is None else policy,
            clock=clock,
        )
        ledger._prepare()
        return ledger

    @classmethod
    def of(
        cls, state: StateDirectory, *, policy: SitePolicy | None = None, clock: Clock = utc_now
    ) -> Ledger:
        """The ledger of the hospital whose state this is, with all of its keys; else as `open`.

        It is signed with the state's present key: the first entry after a rotation is preceded by
        one that hands the ledger over.
        """
        ledger = cls(
            ledger_path(state),
            hospital=state.identity.name,
            keys=state,
            policy=SitePolicy() if policy is None else policy,
            clock=clock,
        )
        ledger._prepare()
        return ledger

    def _prepare(self) -> None:
        self._file.prepare()
        self.account()

    def hand_over(self) -> None:
        """Have the hospital's present key sign all entries to come, if another signed the last."""
        with self._file.transaction() as connection:
            self._writable_account(connection)

    def reserve(
        self, charter: Charter, round_number: int, *, previous_aggregate: str | None = None
    ) -> LedgerEntry:
        """Debit ``round_number`` of ``charter``; on the disk before this returns.

        ``previous_aggregate`` is the digest of the sum that the round before opened; without it,
        what the ledger knows of that is recorded. A charter is begun only if all its rounds that
        remain can be paid for. Raises BudgetExhausted, AlreadyReserved, LimitLoosened,
        SitePolicyRefuses, CharterRefused or LedgerDamaged; the ledger is then unchanged.
        """
        event = self._checked_event(charter, round_number)
        with self._file.transaction() as connection:
            account = self._writable_account(connection)
            if account.progress(charter.digest, round_number) is not None:
                raise AlreadyReserved(
                    f"round {round_number} is already debited; send its stored contribution again."
                )
            record = self._reservation(
                account, charter, round_number, event=event, previous_aggregate=previous_aggregate
            )
            self._check_remaining(account, charter, record)
            return self._append(connection, account, record)

    def check(self, charter: Charter) -> None:
        """Raises SitePolicyRefuses or LimitLoosened if this site may not take part in ``charter``.

        The policy's limit per charter is the one that consents for this charter have made of it.
        """
        account = self.account()
        self._checked_site(account)
        check_policy(self._policy, account.budgets, charter)

    def _reservation(
        self,
        account: Account,
        charter: Charter,
        round_number: int,
        *,
        event: PrivacyEvent,
        previous_aggregate: str | None,
    ) -> Reservation:
        """What would be appended; raises LimitLoosened, SitePolicyRefuses or CharterRefused."""
        site = self._checked_site(account)
        check_policy(self._policy, account.budgets, charter)
        now, fields = self._now(account), charter_fields(charter, self._hospital)
        place = Place(charter.digest, now[:4], self._policy.data_set)
        before = account.progress(charter.digest, round_number - 1)
        known = None if before is None else before.sum
        if None not in (known, previous_aggregate) and known != previous_aggregate:
            raise NotRecorded(
                "this round would follow from another sum than the ledger says was opened; "
                "nothing was debited."
            )
        return Reservation.model_validate(
            fields
            | {
                "sequence": len(account.entries),
                "previous": account.head,
                "hospital": self._hospital,
                "data_set": place.data_set,
                "round": round_number,
                "event": event,
                "previous_aggregate": previous_aggregate or known,
                "rho_aggregate": event.loss_aggregate.text(),
                "rho_collusion": event.loss_collusion.text(),
                "totals": account.totals_after(place, event, charter.privacy.delta),
                "limits": account.budgets.limits(charter.privacy.epsilon, site, place),
                "site": site,
                "sampler": SAMPLER,
                "sampler_version": SAMPLER_VERSION,
                "entropy_source": ENTROPY_SOURCE,
                "software_version": version("fedhelp-secure"),
                "software_commit": source_commit(),
                "protocol": PROTOCOL,
                "reserved_at": now,
            }
        )

    def _check_remaining(self, account: Account, charter: Charter, record: Reservation) -> None:
        """Raises BudgetExhausted unless this round and all after it keep the limits."""
        remaining = charter.rounds.count - record.round + 1
        planned = account.totals_after(
            Place.of(record), record.event, record.delta, times=remaining
        )
        broken = broken_limit(planned, record.limits)
        if broken is not None:
            raise BudgetExhausted(
                f"the rounds that remain would exceed this hospital's limit of {broken}; nothing "
                "was debited. Only a charter with more noise or fewer rounds fits, or a larger "
                "budget: a consent that the privacy officer signs ('fedhelp privacy consent')."
            )

    def record(
        self,
        charter: Charter,
        round_number: int,
        status: Literal["sent", "opened"],
        *,
        contribution_digest: str,
        contributors: Sequence[str] = (),
        sum_digest: str | None = None,
    ) -> LedgerEntry:
        """Record that the contribution with this manifest digest was ``sent``, or ``opened``.

        An opened round names the ``contributors`` in its sum and the digest of the opened integers.
        Recording the same again returns the first entry. Raises NotRecorded if the round was not
        reserved (or not sent) before, or another contribution was recorded for it.
        """
        with self._file.transaction() as connection:
            account = self._writable_account(connection)
            outcome = Outcome(
                status=status,
                sequence=len(account.entries),
                previous=account.head,
                hospital=self._hospital,
                charter=charter.digest,
                round=round_number,
                contribution=contribution_digest,
                contributors=tuple(contributors),
                sum=sum_digest,
                recorded_at=self._now(account),
            )
            return self._append_outcome(connection, account, outcome)

    def abort(self, charter: Charter, round_number: int, code: str) -> LedgerEntry | None:
        """Record that a reserved round ended without a sum for this hospital, and why.

        ``code`` is an error's stable code. The round stays spent. None if there is nothing to
        record: it was never reserved, or aborted before. Raises NotRecorded if it was opened.
        """
        with self._file.transaction() as connection:
            account = self._writable_account(connection)
            progress = account.progress(charter.digest, round_number)
            if progress is None or progress.status == "aborted":
                return None
            aborted = Aborted(
                sequence=len(account.entries),
                previous=account.head,
                hospital=self._hospital,
                charter=charter.digest,
                round=round_number,
                code=code,
                recorded_at=self._now(account),
            )
            return self._append_outcome(connection, account, aborted)

    def consent(
        self,
        period: Period,
        *,
        epsilon: str | None,
        epsilon_collusion: str | None,
        reason: str,
        key: SigningKey,
    ) -> LedgerEntry:
        """Sign a consent with the privacy officer's ``key`` and record it, in one step.

        Raises ConsentRefused, LimitLoosened or LedgerDamaged; the ledger is then unchanged.
        """
        with self._file.transaction() as connection:
            account = self._writable_account(connection)
            site = self._checked_site(account)
            check_consent_key(
                key.public,
                pinned=self._policy.consent_key,
                hospital=self._keys.signing_key().public,
            )
            now = self._now(account)
            consent = make_consent(
                hospital=self._hospital,
                after=account.head,
                period=period,
                given=(epsilon, epsilon_collusion),
                instead_of=site.of(period.scope),
                reason=reason,
                given_at=now,
            )
            refusal = account.budgets.refusal(consent, site, year=now[:4])
            if refusal is not None:
                raise ConsentRefused(f"this consent does not count: {refusal}.")
            record = Consented(
                sequence=len(account.entries),
                previous=account.head,
                hospital=self._hospital,
                site=site,
                statement=sign_consent(consent, key).decode(),
                recorded_at=now,
            )
            return self._append(connection, account, record)

    def spent(self, charter: Charter) -> Spent:
        """What this hospital's patients have spent under ``charter``: every reserved round."""
        try:
            return check_under_charter(self.account(), charter)
        except LedgerRefused as error:
            raise LedgerDamaged(damaged(self._file.path)) from error

    def account(self) -> Account:
        """The whole ledger, its chain checked; raises LedgerDamaged."""
        with self._file.connection() as connection:
            return self._account(connection)

    def export(self, path: Path) -> None:
        """Write every envelope, one a line, to ``path``: what an auditor checks."""
        lines = [entry.envelope + b"\n" for entry in self.account().entries]
        write_atomically(path, b"".join(lines))

    def _checked_event(self, charter: Charter, round_number: int) -> PrivacyEvent:
        try:
            self._keys.signing_key_for(charter.hospital(self._hospital).verifying_key())
        except KeyNotHeld as error:
            raise CharterRefused(
                "the charter names another signing key for this hospital; ask for a new charter."
            ) from error
        if not 1 <= round_number <= charter.rounds.count:
            raise CharterRefused(f"the charter has no round {round_number}; nothing was debited.")
        return event_of(charter, self._hospital)

    def _checked_site(self, account: Account) -> SiteLimits:
        """The policy's limits; raises LimitLoosened if they are laxer than they were."""
        site = site_limits(self._policy)
        loosened = account.budgets.loosened(site)
        if loosened is not None:
            raise LimitLoosened(
                f"the site's policy sets a laxer {loosened} than the ledger has seen, or none. Put "
                "the old value back; a larger budget is a consent that the privacy officer signs "
                "('fedhelp privacy consent')."
            )
        return site

    def _append_outcome(
        self, connection: sqlite3.Connection, account: Account, record: Outcome | Aborted
    ) -> LedgerEntry:
        """Append ``record``, or return the entry that already says the same."""
        ignored = {"sequence", "previous", "recorded_at"}
        said = record.model_dump(exclude=ignored)
        for entry in account.entries:
            if entry.record.model_dump(exclude=ignored) == said:
                return entry
        if not follows(account.progress(record.charter, record.round), record):
            raise NotRecorded(
                f"round {record.round} cannot be recorded as {record.status}: "
                "the ledger says otherwise."
            )
        return self._append(connection, account, record)

    def _append(
        self, connection: sqlite3.Connection, account: Account, record: Record
    ) -> LedgerEntry:
        key = self._keys.signing_key()
        envelope = key.sign_document(KIND, record.model_dump(mode="json"))
        return self._insert(connection, account, envelope, signed_by=key.public)

    def _insert(
        self,
        connection: sqlite3.Connection,
        account: Account,
        envelope: bytes,
        *,
        signed_by: VerifyingKey,
    ) -> LedgerEntry:
        entry = open_entry(envelope, signed_by)
        # The same check that an auditor makes: an entry that would be refused is never written.
        account.add(entry)
        row = (entry.record.sequence, envelope)
        connection.execute("INSERT INTO entries (sequence, envelope) VALUES (?, ?)", row)
        return entry

    def _account(self, connection: sqlite3.Connection) -> Account:
        keys = self._keys.verifying_keys()
        return checked_account(connection, self._file.path, hospital=self._hospital, keys=keys)

    def _writable_account(self, connection: sqlite3.Connection) -> Account:
        """The account, handed over to the present key if need be: to be used in a transaction."""
        account = self._account(connection)
        for old, new in steps(self._keys, account.key):
            record = Succeeded(
                sequence=len(account.entries),
                previous=account.head,
                hospital=self._hospital,
                old_key=old.public.to_base64(),
                new_key=new.public.to_base64(),
                recorded_at=self._now(account),
            )
            envelope = sign_jointly(KIND, record.model_dump(mode="json"), [old, new])
            self._insert(connection, account, envelope, signed_by=old.public)
            account.key = new.public
        return account

    def _now(self, account: Account) -> str:
        """The time, never before the last entry's: no clock that is set back returns to a year."""
        return max(self._clock().strftime("%Y-%m-%dT%H:%M:%SZ"), account.last_at)
