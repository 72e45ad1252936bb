"""Part of step 9: one ledger, entry by entry, worked out anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.charter import Charter, Hospital
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import check_claim, epsilon_of, rho_of
from fedhelp_secure.evidence.verify_budgets import BudgetCheck, check_fewer_honest
from fedhelp_secure.privacy.records import (
    Aborted,
    Consented,
    LedgerEntry,
    Outcome,
    Reservation,
    open_entry,
)


@dataclass(slots=True)
class Account:
    """What one ledger amounts to, worked out entry by entry."""

    hospital: Hospital
    reserved: dict[int, str] = field(default_factory=dict)
    """Digest of the reservation's envelope by round of this charter."""
    sent: dict[tuple[str, int], str] = field(default_factory=dict)
    opened: set[tuple[str, int]] = field(default_factory=set)
    places: set[tuple[str, int]] = field(default_factory=set)
    rhos: dict[str, tuple[Fraction, Fraction]] = field(default_factory=dict)
    sums: dict[tuple[str, int], str] = field(default_factory=dict)
    """Digest of the opened sum."""
    contributors: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    aborted: set[tuple[str, int]] = field(default_factory=set)
    last: dict[str, Reservation] = field(default_factory=dict)
    """The last reservation by charter."""


def account_of(data: bytes, charter: Charter, hospital: Hospital) -> Account:
    """What the ledger ``data`` of ``hospital`` amounts to.

    Raises BundleRefused naming the entry whose signature, place in the chain, parameters, losses,
    epsilons or limits are not what they must be; FedHelpError for what is no ledger at all.
    """
    lines = data.split(b"\n")
    if len(lines) < 2 or lines.pop() != b"":
        raise BundleRefused("it must be lines of entries, the last one ending in a newline.")
    account, budgets = Account(hospital), BudgetCheck(hospital.name)
    previous: str | None = None
    for number, line in enumerate(lines):
        try:
            entry = open_entry(line, hospital.verifying_key())
        except FedHelpError as error:
            raise BundleRefused(f"entry {number}: {error}") from error
        record = entry.record
        if record.hospital != hospital.name:
            raise BundleRefused(f"entry {number} speaks for another hospital.")
        if record.sequence != number or record.previous != previous:
            raise BundleRefused(f"the chain is broken at entry {number}.")
        budgets.check_time(number, record.at)
        if isinstance(record, Reservation):
            _add_reservation(account, charter, entry, record)
            budgets.add_reservation(record, own=_own(record))
        elif isinstance(record, Consented):
            budgets.add_consent(record, previous=previous)
        elif isinstance(record, Aborted):
            _add_aborted(account, record)
        else:
            _add_outcome(account, record)
        previous = entry.digest
    return account


def _add_reservation(
    account: Account, charter: Charter, entry: LedgerEntry, record: Reservation
) -> None:
    place = (record.charter, record.round)
    if place in account.places:
        raise BundleRefused(f"entry {record.sequence} reserves a round a second time.")
    account.places.add(place)
    if record.charter == charter.digest:
        _check_parameters(charter, account.hospital, record)
        account.reserved[record.round] = entry.digest
    before = account.sums.get((record.charter, record.round - 1))
    if before is not None and record.previous_aggregate != before:
        raise BundleRefused(f"entry {record.sequence} follows from another sum than was opened.")
    _check_losses(account, record)
    account.last[record.charter] = record
    _check_limits(charter, record)


def _check_parameters(charter: Charter, hospital: Hospital, record: Reservation) -> None:
    event = record.event
    pairs = (
        ("federation", record.federation, charter.federation),
        ("group", record.group, hospital.group),
        ("delta", record.delta, charter.privacy.delta),
        ("shape", math.prod(record.shape), charter.secure_sum.values),
        ("shape", record.shape[-1], len(charter.classes)),
        ("fraction_bits", record.fraction_bits, charter.secure_sum.fraction_bits),
        ("hospitals", record.hospitals, len(charter.hospitals)),
        ("proxy", record.proxy, charter.proxy.digest),
        ("public_set", record.public_set, charter.proxy.public_set_digest),
        ("mechanism", event.mechanism, charter.privacy.mechanism),
        ("unit", event.unit, charter.privacy.unit),
        ("adjacency", event.adjacency, charter.privacy.adjacency),
        ("values", event.values, charter.secure_sum.values),
        ("clip_units", event.clip_units, charter.privacy.clip_units),
        ("weight", event.weight, charter.weight_of(hospital.name)),
        ("sigma_units", event.sigma_units, charter.privacy.sigma_units),
        ("share_units", event.share_units, charter.share_units(hospital.group)),
        ("cohort_minimum", event.cohort_minimum, charter.cohort.minimum),
        ("colluders", event.colluders, charter.cohort.colluders),
        ("honest_shares", event.honest_shares, charter.cohort.honest),
    )
    for name, written, agreed in pairs:
        if written != agreed:
            raise BundleRefused(
                f"entry {record.sequence} has other parameters than the charter: {name}."
            )
    if record.round > charter.rounds.count:
        raise BundleRefused(f"entry {record.sequence} is for a round that the charter lacks.")


def _check_losses(account: Account, record: Reservation) -> None:
    """The stated losses and totals, against sums made here."""
    totals, own = record.totals, _own(record)
    before = account.rhos.get(record.charter, (Fraction(0), Fraction(0)))
    after = (before[0] + own[0], before[1] + own[1])
    account.rhos[record.charter] = after
    lifetime = sum((spent[0] for spent in account.rhos.values()), Fraction(0))
    # As text: a number of a million digits must not be parsed to be found wrong.
    pairs = (
        (record.rho_aggregate, _rational(own[0])),
        (record.rho_collusion, _rational(own[1])),
        (totals.rho_aggregate, _rational(after[0])),
        (totals.rho_collusion, _rational(after[1])),
        (totals.lifetime_rho_aggregate, _rational(lifetime)),
    )
    if any(written != worked_out for written, worked_out in pairs):
        raise BundleRefused(f"entry {record.sequence} states another loss than it must.")
    claims = (
        ("epsilon (aggregate)", totals.epsilon_aggregate),
        ("epsilon (collusion)", totals.epsilon_collusion),
    )
    for (name, stated), rho in zip(claims, after, strict=True):
        check_claim(record.sequence, name, stated, epsilon_of(rho, record.delta))
    check_fewer_honest(record, after[0])


def _own(record: Reservation) -> tuple[Fraction, Fraction]:
    """The round's (aggregate, collusion) loss."""
    event = record.event
    return (
        rho_of(event.weight * event.clip_units, event.sigma_units),
        rho_of(event.clip_units, event.share_units),
    )


def _rational(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def _check_limits(charter: Charter, record: Reservation) -> None:
    totals, limits = record.totals, record.limits
    lifetime = epsilon_of(Fraction(totals.lifetime_rho_aggregate), limits.lifetime_delta)
    pairs = [
        (Fraction(totals.epsilon_aggregate), limits.epsilon),
        (Fraction(totals.epsilon_collusion), limits.epsilon_collusion),
        (lifetime, limits.lifetime_epsilon),
    ]
    if record.charter == charter.digest:
        pairs.append((Fraction(limits.epsilon), charter.privacy.epsilon))
    if any(limit is not None and spent > Fraction(limit) for spent, limit in pairs):
        raise BundleRefused(f"entry {record.sequence} is above its limits.")


def _add_outcome(account: Account, record: Outcome) -> None:
    place = (record.charter, record.round)
    if record.status == "sent":
        follows = place in account.places and place not in account.sent
        account.sent[place] = record.contribution
    else:
        follows = account.sent.get(place) == record.contribution and place not in account.opened
        account.opened.add(place)
        account.sums[place] = record.sum or ""
        account.contributors[place] = record.contributors
    follows = follows and place not in account.aborted
    if not follows:
        raise BundleRefused(f"entry {record.sequence} does not follow from the entries before it.")


def _add_aborted(account: Account, record: Aborted) -> None:
    place = (record.charter, record.round)
    if place not in account.places or place in account.opened | account.aborted:
        raise BundleRefused(f"entry {record.sequence} does not follow from the entries before it.")
    account.aborted.add(place)
