"""Part of step 10: one ledger, entry by entry, worked out anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.charter import Charter, Hospital
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import Spent, check_claim, losses_of, own_sensitivity
from fedhelp_secure.evidence.verify_budgets import BudgetCheck, check_fewer_honest
from fedhelp_secure.evidence.verify_succession import LedgerKeys
from fedhelp_secure.privacy.events import PrivacyEvent, SampledGaussianEvent
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
    spent: dict[str, tuple[Spent, Spent]] = field(default_factory=dict)
    """(aggregate, collusion) by charter."""
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
    keys = LedgerKeys(lines, hospital.verifying_key())
    previous: str | None = None
    for number, line in enumerate(lines):
        try:
            entry = open_entry(line, keys.present)
        except FedHelpError as error:
            raise BundleRefused(f"entry {number}: {error}") from error
        record = entry.record
        if record.hospital != hospital.name:
            raise BundleRefused(f"entry {number} speaks for another hospital.")
        if record.sequence != number or record.previous != previous:
            raise BundleRefused(f"the chain is broken at entry {number}.")
        budgets.check_time(number, record.at)
        if isinstance(record, Reservation):
            own = losses_of(record.event, number, record.rho_aggregate)
            _add_reservation(account, charter, entry, record, own=own)
            budgets.add_reservation(record, own=own)
        elif isinstance(record, Consented):
            budgets.add_consent(record, previous=previous)
        elif isinstance(record, Aborted):
            _add_aborted(account, record)
        elif isinstance(record, Outcome):
            _add_outcome(account, record)
        keys.follow(entry)
        previous = entry.digest
    keys.check_named()
    return account


def _add_reservation(
    account: Account,
    charter: Charter,
    entry: LedgerEntry,
    record: Reservation,
    *,
    own: tuple[Spent, Spent],
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
    _check_losses(account, record, own)
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
        ("tuning", record.tuning, charter.privacy.tuning),
        *_event_pairs(event, charter, hospital),
    )
    for name, written, agreed in pairs:
        if written != agreed:
            raise BundleRefused(
                f"entry {record.sequence} has other parameters than the charter: {name}."
            )
    if record.round > charter.rounds.count:
        raise BundleRefused(f"entry {record.sequence} is for a round that the charter lacks.")


def _event_pairs(
    event: PrivacyEvent, charter: Charter, hospital: Hospital
) -> tuple[tuple[str, object, object], ...]:
    """(name, as written, as agreed) of everything in an event."""
    privacy = charter.privacy
    pairs: tuple[tuple[str, object, object], ...] = (
        ("mechanism", event.mechanism, privacy.mechanism),
        ("unit", event.unit, privacy.unit),
        ("adjacency", event.adjacency, privacy.adjacency),
        ("values", event.values, charter.secure_sum.values),
        ("clip_units", event.clip_units, privacy.clip_units),
        ("sensitivity", event.sensitivity, f"{own_sensitivity(event)}/1"),
        ("weight", event.weight, charter.weight_of(hospital.name)),
        ("sigma_units", event.sigma_units, privacy.sigma_units),
    )
    if isinstance(event, SampledGaussianEvent):
        agreed = privacy.dp_sgd
        return (
            *pairs,
            ("sampling_rate", event.sampling_rate, agreed and agreed.sampling_rate),
            ("steps", event.steps, agreed and agreed.steps),
            ("nominal_patients", event.nominal_patients, agreed and agreed.nominal_patients),
        )
    return (
        *pairs,
        ("share_units", event.share_units, charter.share_units(hospital.group)),
        ("cohort_minimum", event.cohort_minimum, charter.cohort.minimum),
        ("colluders", event.colluders, charter.cohort.colluders),
        ("honest_shares", event.honest_shares, charter.cohort.honest),
    )


def _check_losses(account: Account, record: Reservation, own: tuple[Spent, Spent]) -> None:
    """The stated losses and totals, against sums made here."""
    totals = record.totals
    before = account.spent.get(record.charter, (Spent(), Spent()))
    after = (before[0] + own[0], before[1] + own[1])
    account.spent[record.charter] = after
    # As text: a number of a million digits must not be parsed to be found wrong.
    pairs = (
        (record.rho_aggregate, own[0].text),
        (record.rho_collusion, own[1].text),
        (totals.rho_aggregate, after[0].text),
        (totals.rho_collusion, after[1].text),
    )
    if any(written != worked_out for written, worked_out in pairs):
        raise BundleRefused(f"entry {record.sequence} states another loss than it must.")
    claims = (
        ("epsilon (aggregate)", totals.epsilon_aggregate),
        ("epsilon (collusion)", totals.epsilon_collusion),
    )
    for (name, stated), spent in zip(claims, after, strict=True):
        check_claim(record.sequence, name, stated, spent.epsilon(record.delta))
    check_fewer_honest(record, after[0])


def _check_limits(charter: Charter, record: Reservation) -> None:
    """Under the charter; `verify_budgets` has the other periods."""
    totals, limits = record.totals, record.limits
    pairs = [
        (Fraction(totals.epsilon_aggregate), limits.epsilon),
        (Fraction(totals.epsilon_collusion), limits.epsilon_collusion),
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
