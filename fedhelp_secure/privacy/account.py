"""Recomputation of a ledger: what anyone can check from its entries and the charter alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.events import (
    LedgerEntry,
    LedgerRefused,
    Limits,
    Outcome,
    PrivacyEvent,
    Reservation,
    Spent,
    Totals,
    decimal_text,
    event_of,
    open_entry,
    spent_of,
)
from fedhelp_secure.privacy.loss import NOTHING, Loss
from fedhelp_secure.signing import VerifyingKey


@dataclass(slots=True)
class Account:
    """The state of a ledger after some of its entries; `add` takes the next one or refuses it."""

    hospital: str
    entries: list[LedgerEntry] = field(default_factory=list)
    _spent: dict[str, tuple[Loss, Loss]] = field(default_factory=dict)
    _progress: dict[tuple[str, int], tuple[str, str | None]] = field(default_factory=dict)

    @property
    def head(self) -> str | None:
        """Digest of the last entry, None before the first."""
        return self.entries[-1].digest if self.entries else None

    @property
    def lifetime_loss_aggregate(self) -> Loss:
        """Over all charters."""
        return sum((spent[0] for spent in self._spent.values()), NOTHING)

    def losses(self, charter: str) -> tuple[Loss, Loss]:
        """(aggregate, collusion) spent under the charter with this digest."""
        return self._spent.get(charter, (NOTHING, NOTHING))

    def progress(self, charter: str, round_number: int) -> tuple[str, str | None] | None:
        """(last status, contribution digest) of a round, None if it was never reserved."""
        return self._progress.get((charter, round_number))

    def totals_after(
        self, charter: str, event: PrivacyEvent, delta: str, *, times: int = 1
    ) -> Totals:
        """The totals if the next ``times`` entries were reservations for ``event``."""
        aggregate, collusion = self.losses(charter)
        following = event.loss_aggregate.times(times)
        aggregate += following
        collusion += event.loss_collusion.times(times)
        return Totals(
            rho_aggregate=aggregate.text(),
            rho_collusion=collusion.text(),
            epsilon_aggregate=decimal_text(aggregate.epsilon(delta)),
            epsilon_collusion=decimal_text(collusion.epsilon(delta)),
            lifetime_rho_aggregate=(self.lifetime_loss_aggregate + following).text(),
        )

    def add(self, entry: LedgerEntry) -> None:
        """Take ``entry`` as the next; raises LedgerRefused, and changes nothing, unless it fits."""
        record = entry.record
        if record.hospital != self.hospital:
            raise LedgerRefused("a ledger entry speaks for another hospital.")
        if record.sequence != len(self.entries) or record.previous != self.head:
            raise LedgerRefused(
                f"the ledger's chain is broken at entry {len(self.entries)}: an entry was removed, "
                "inserted or replaced."
            )
        if isinstance(record, Reservation):
            self._add_reservation(record)
        else:
            self._add_outcome(record)
        self.entries.append(entry)

    def _add_reservation(self, record: Reservation) -> None:
        place = (record.charter, record.round)
        where = f"ledger entry {record.sequence}"
        if place in self._progress:
            raise LedgerRefused(f"{where} reserves a round a second time.")
        event = record.event
        own = (event.loss_aggregate, event.loss_collusion)
        if (record.rho_aggregate, record.rho_collusion) != (own[0].text(), own[1].text()):
            raise LedgerRefused(f"{where} states another loss than its parameters give.")
        if record.totals != self.totals_after(record.charter, event, record.delta):
            raise LedgerRefused(f"{where} states other totals than the entries before it give.")
        if broken_limit(record.totals, record.limits) is not None:
            raise LedgerRefused(f"{where} debits more than its limits allow.")
        aggregate, collusion = self.losses(record.charter)
        self._spent[record.charter] = (aggregate + own[0], collusion + own[1])
        self._progress[place] = ("reserved", None)

    def _add_outcome(self, record: Outcome) -> None:
        place = (record.charter, record.round)
        before = {"sent": ("reserved", None), "opened": ("sent", record.contribution)}
        if self._progress.get(place) != before[record.status]:
            raise LedgerRefused(
                f"ledger entry {record.sequence} does not follow from what the round's entries say."
            )
        self._progress[place] = (record.status, record.contribution)


def broken_limit(totals: Totals, limits: Limits) -> str | None:
    """The name of the first of ``limits`` that ``totals`` exceed, None if they keep all."""
    lifetime = Loss.parse(totals.lifetime_rho_aggregate).epsilon(limits.lifetime_delta)
    triples = (
        ("epsilon (aggregate)", Fraction(totals.epsilon_aggregate), limits.epsilon),
        ("epsilon (collusion)", Fraction(totals.epsilon_collusion), limits.epsilon_collusion),
        ("lifetime epsilon", lifetime, limits.lifetime_epsilon),
    )
    for name, epsilon, limit in triples:
        if limit is not None and epsilon > Fraction(limit):
            return name
    return None


def check_chain(envelopes: Iterable[bytes], *, hospital: str, key: VerifyingKey) -> Account:
    """The account that ``envelopes`` give, every entry checked against all before it.

    Raises SignatureRefused, MalformedMessage or LedgerRefused.
    """
    account = Account(hospital)
    for envelope in envelopes:
        account.add(open_entry(envelope, key))
    return account


def check_under_charter(account: Account, charter: Charter) -> Spent:
    """What ``account``'s hospital spent under ``charter``, recomputed from the charter alone.

    Raises LedgerRefused if a reservation has other parameters than the charter gives, is for a
    round that the charter does not have, or if the total is above the charter's epsilon.
    """
    event = event_of(charter, account.hospital)
    group = charter.hospital(account.hospital).group
    reservations = reservations_under(account.entries, charter.digest)
    for record in reservations:
        if record.event != event or record.delta != charter.privacy.delta or record.group != group:
            raise LedgerRefused("a ledger entry has other parameters than its charter.")
        if record.federation != charter.federation or record.round > charter.rounds.count:
            raise LedgerRefused("a ledger entry is for a round that its charter does not have.")
        if Fraction(record.limits.epsilon) > Fraction(charter.privacy.epsilon):
            raise LedgerRefused("a ledger entry names a laxer limit than its charter.")
    count, delta = len(reservations), charter.privacy.delta
    return spent_of(event.loss_aggregate.times(count), event.loss_collusion.times(count), delta)


def reservations_under(
    entries: Sequence[LedgerEntry], charter_digest: str
) -> tuple[Reservation, ...]:
    """The reservations under one charter, in the order in which they were made."""
    return tuple(
        entry.record
        for entry in entries
        if isinstance(entry.record, Reservation) and entry.record.charter == charter_digest
    )
