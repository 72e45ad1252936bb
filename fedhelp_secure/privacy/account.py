"""Recomputation of a ledger: what anyone can check from its entries and the charter alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.privacy.budgets import Budgets, Place, broken_limit, epsilon_of
from fedhelp_secure.privacy.consent import Period, open_consent
from fedhelp_secure.privacy.events import (
    KIND,
    LedgerRefused,
    PrivacyEvent,
    decimal_text,
    event_of,
)
from fedhelp_secure.privacy.loss import NOTHING, Loss
from fedhelp_secure.privacy.records import (
    Aborted,
    Consented,
    LedgerEntry,
    Outcome,
    Reservation,
    SiteLimits,
    Succeeded,
    Totals,
    fewer_honest,
    open_entry,
)
from fedhelp_secure.signing import VerifyingKey, open_document, signer_of


@dataclass(frozen=True, slots=True)
class Spent:
    """What one hospital's patients have spent in one period."""

    rho_aggregate: Fraction
    """Without the losses of sampled steps, which only the epsilons hold."""
    rho_collusion: Fraction
    epsilon_aggregate: Fraction
    epsilon_collusion: Fraction


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of some rounds, seen from outside and by all parties together."""

    aggregate: Loss = NOTHING
    collusion: Loss = NOTHING

    def plus(self, event: PrivacyEvent, times: int = 1) -> Losses:
        """These and ``times`` more releases like ``event``."""
        return Losses(
            self.aggregate + event.loss_aggregate.times(times),
            self.collusion + event.loss_collusion.times(times),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one round has come."""

    status: str
    """Of its last entry: reserved, sent, opened or aborted."""
    contribution: str | None = None
    """Digest of the manifest that was sent."""
    sum: str | None = None
    """Digest of the opened integers."""


@dataclass(slots=True)
class Account:
    """The state of a ledger after some of its entries; `add` takes the next one or refuses it."""

    hospital: str
    entries: list[LedgerEntry] = field(default_factory=list)
    budgets: Budgets = field(default_factory=Budgets)
    key: VerifyingKey | None = None
    """What signs the next entry; None in a ledger without entries."""
    _signers: set[str] = field(default_factory=set)
    """Keys that a succession names; base64."""
    _spent: dict[Period, Losses] = field(default_factory=dict)
    _progress: dict[tuple[str, int], Progress] = field(default_factory=dict)

    @property
    def head(self) -> str | None:
        """Digest of the last entry, None before the first."""
        return self.entries[-1].digest if self.entries else None

    @property
    def last_at(self) -> str:
        """When the last entry was made; empty before the first."""
        return self.entries[-1].record.at if self.entries else ""

    @property
    def spent(self) -> Mapping[Period, Losses]:
        """What was spent in every period in which something was, in order of first debit."""
        return dict(self._spent)

    def losses(self, period: Period) -> Losses:
        """What was spent in ``period``."""
        return self._spent.get(period, Losses())

    @property
    def unfinished(self) -> tuple[tuple[str, int], ...]:
        """(charter, round) of every release whose sum may still come."""
        open_states = ("reserved", "sent")
        return tuple(
            place for place, progress in self._progress.items() if progress.status in open_states
        )

    def progress(self, charter: str, round_number: int) -> Progress | None:
        """How far a round has come, None if it was never reserved."""
        return self._progress.get((charter, round_number))

    def totals_after(
        self, place: Place, event: PrivacyEvent, delta: str, *, times: int = 1
    ) -> Totals:
        """The totals if the next ``times`` entries were reservations for ``event`` at ``place``."""
        charter, year, data_set, lifetime = (
            self.losses(period).plus(event, times) for period in place.periods
        )
        return Totals(
            rho_aggregate=charter.aggregate.text(),
            rho_collusion=charter.collusion.text(),
            epsilon_aggregate=decimal_text(epsilon_of(charter.aggregate, delta)),
            epsilon_collusion=decimal_text(epsilon_of(charter.collusion, delta)),
            epsilon_fewer_honest=tuple(
                decimal_text(epsilon)
                for _, epsilon in epsilons_fewer_honest(
                    charter.aggregate, event.honest_shares, delta
                )
            ),
            year_rho_aggregate=year.aggregate.text(),
            year_rho_collusion=year.collusion.text(),
            data_set_rho_aggregate=data_set.aggregate.text(),
            data_set_rho_collusion=data_set.collusion.text(),
            lifetime_rho_aggregate=lifetime.aggregate.text(),
            lifetime_rho_collusion=lifetime.collusion.text(),
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
        if record.at < self.last_at:
            raise LedgerRefused(f"ledger entry {record.sequence} is older than the one before it.")
        if isinstance(record, Reservation):
            self._add_reservation(record)
        elif isinstance(record, Consented):
            self._add_consent(record)
        elif isinstance(record, Succeeded):
            self._add_succession(record)
        else:
            self._add_outcome(record)
        self.entries.append(entry)

    def _add_reservation(self, record: Reservation) -> None:
        round_, where = (record.charter, record.round), f"ledger entry {record.sequence}"
        if round_ in self._progress:
            raise LedgerRefused(f"{where} reserves a round a second time.")
        self._check_site(record.site, where)
        event, place = record.event, Place.of(record)
        own = (event.loss_aggregate, event.loss_collusion)
        if (record.rho_aggregate, record.rho_collusion) != (own[0].text(), own[1].text()):
            raise LedgerRefused(f"{where} states another loss than its parameters give.")
        if record.totals != self.totals_after(place, event, record.delta):
            raise LedgerRefused(f"{where} states other totals than the entries before it give.")
        if record.limits != self.budgets.limits(record.limits.epsilon, record.site, place):
            raise LedgerRefused(f"{where} states other limits than site and consents give.")
        if broken_limit(record.totals, record.limits) is not None:
            raise LedgerRefused(f"{where} debits more than its limits allow.")
        before = self._progress.get((record.charter, record.round - 1))
        if before is not None and before.sum not in (None, record.previous_aggregate):
            raise LedgerRefused(f"{where} follows from another sum than the one before it opened.")
        for period in place.periods:
            self._spent[period] = self.losses(period).plus(event)
        self.budgets.site = record.site
        self._progress[round_] = Progress("reserved")

    def _add_consent(self, record: Consented) -> None:
        where = f"ledger entry {record.sequence}"
        self._check_site(record.site, where)
        if record.site.consent_key is None:
            raise LedgerRefused(f"{where} is a consent, but the site's policy pins no consent key.")
        try:
            key = VerifyingKey.from_base64(record.site.consent_key)
            consent = open_consent(record.statement.encode(), key)
        except FedHelpError as error:
            raise LedgerRefused(f"{where} holds no consent by the consent key: {error}") from error
        if (consent.hospital, consent.after) != (self.hospital, self.head):
            raise LedgerRefused(f"{where} holds a consent that was given for another place.")
        refusal = self.budgets.refusal(consent, record.site, year=record.recorded_at[:4])
        if refusal is not None:
            raise LedgerRefused(f"{where} holds a consent that does not count: {refusal}.")
        self.budgets.site = record.site
        self.budgets.consents.setdefault(consent.period, []).append(consent)

    def _add_succession(self, record: Succeeded) -> None:
        where = f"ledger entry {record.sequence}"
        if record.new_key in self._signers:
            raise LedgerRefused(f"{where} goes back to a key that was given up.")
        if record.new_key == (self.budgets.site and self.budgets.site.consent_key):
            raise LedgerRefused(f"{where} makes the consent key the hospital's own.")
        self._signers |= {record.old_key, record.new_key}

    def _check_site(self, site: SiteLimits, where: str) -> None:
        if site.consent_key in self._signers:
            raise LedgerRefused(f"{where} names one of the hospital's own keys as consent key.")
        loosened = self.budgets.loosened(site)
        if loosened is not None:
            raise LedgerRefused(f"{where} loosens the site's {loosened} without a consent.")

    def _add_outcome(self, record: Outcome | Aborted) -> None:
        round_ = (record.charter, record.round)
        before = self._progress.get(round_)
        if not follows(before, record):
            raise LedgerRefused(
                f"ledger entry {record.sequence} does not follow from what the round's entries say."
            )
        if isinstance(record, Outcome):
            self._progress[round_] = Progress(record.status, record.contribution, record.sum)
        elif before is not None:
            self._progress[round_] = Progress("aborted", before.contribution)


def follows(before: Progress | None, record: Outcome | Aborted) -> bool:
    """Whether ``record`` may come next in the life of a round: reserved, sent, opened.

    A round is aborted after it was reserved or sent, and nothing comes after that.
    """
    if before is None:
        return False
    if isinstance(record, Aborted):
        return before.status in ("reserved", "sent")
    if record.status == "sent":
        return before.status == "reserved"
    return (before.status, before.contribution) == ("sent", record.contribution)


def check_chain(
    envelopes: Iterable[bytes], *, hospital: str, keys: Sequence[VerifyingKey]
) -> Account:
    """The account that ``envelopes`` give, every entry checked against all before it.

    ``keys`` are all that the hospital has or had: one of them signed the first entry, and those
    that successions name are among them. Raises SignatureRefused, MalformedMessage or
    LedgerRefused.
    """
    account = Account(hospital)
    for envelope in envelopes:
        if account.key is None:
            account.key = _first_key(envelope, keys)
        entry = open_entry(envelope, account.key)
        account.add(entry)
        account.key = entry.successor or account.key
        if account.key not in keys:
            raise LedgerRefused("a ledger is handed over to a key that is not this hospital's.")
    return account


def _first_key(envelope: bytes, keys: Sequence[VerifyingKey]) -> VerifyingKey:
    """Which of ``keys`` a ledger begins with: of a succession's two signers, the old one."""
    signer = signer_of(KIND, envelope, keys)
    document = open_document(KIND, envelope, signer)
    if document.get("status") != "succeeded":
        return signer
    return VerifyingKey.from_base64(str(document.get("old_key")))


def check_under_charter(account: Account, charter: Charter) -> Spent:
    """What ``account``'s hospital spent under ``charter``, recomputed from the charter alone.

    Raises LedgerRefused if a reservation has other parameters than the charter gives, is for a
    round that the charter does not have, or if the total is above the charter's epsilon.
    """
    event = event_of(charter, account.hospital)
    reservations = reservations_under(account.entries, charter.digest)
    expected = charter_fields(charter, account.hospital) | {"event": event}
    for record in reservations:
        if any(getattr(record, name) != value for name, value in expected.items()):
            raise LedgerRefused("a ledger entry has other parameters than its charter.")
        if record.round > charter.rounds.count:
            raise LedgerRefused("a ledger entry is for a round that its charter does not have.")
        if Fraction(record.limits.epsilon) > Fraction(charter.privacy.epsilon):
            raise LedgerRefused("a ledger entry names a laxer limit than its charter.")
    losses = Losses().plus(event, len(reservations))
    return spent_of(losses, charter.privacy.delta)


def charter_fields(charter: Charter, hospital: str) -> dict[str, object]:
    """The fields of a reservation, besides its event, that ``charter`` alone fixes."""
    classes = len(charter.classes)
    return {
        "federation": charter.federation,
        "group": charter.hospital(hospital).group,
        "charter": charter.digest,
        "shape": (charter.secure_sum.values // classes, classes),
        "fraction_bits": charter.secure_sum.fraction_bits,
        "hospitals": len(charter.hospitals),
        "proxy": charter.proxy.digest,
        "public_set": charter.proxy.public_set_digest,
        "delta": charter.privacy.delta,
        "tuning": charter.privacy.tuning,
    }


def reservations_under(
    entries: Sequence[LedgerEntry], charter_digest: str
) -> tuple[Reservation, ...]:
    """The reservations under one charter, in the order in which they were made."""
    return tuple(
        entry.record
        for entry in entries
        if isinstance(entry.record, Reservation) and entry.record.charter == charter_digest
    )


def spent_of(losses: Losses, delta: str) -> Spent:
    """Both losses with their epsilons at ``delta``, rounded up."""
    return Spent(
        rho_aggregate=losses.aggregate.rho,
        rho_collusion=losses.collusion.rho,
        epsilon_aggregate=epsilon_of(losses.aggregate, delta),
        epsilon_collusion=epsilon_of(losses.collusion, delta),
    )


def epsilons_fewer_honest(
    aggregate: Loss, honest: int, delta: str
) -> tuple[tuple[int, Fraction], ...]:
    """(honest shares, epsilon) where only so many of the t = ``honest`` shares are there.

    Every share has at least a t-th of the variance that is accounted for, so that k of them leave
    at least k / t of it, and a loss of at most rho t / k. Only rho depends on shares: of sampled
    steps t is 1, as their noise is the hospital's own alone.
    """
    return tuple(
        (fewer, epsilon_of(Loss(aggregate.rho * honest / fewer), delta))
        for fewer in fewer_honest(honest)
    )
