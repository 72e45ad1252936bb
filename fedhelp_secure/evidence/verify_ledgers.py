"""Step 9 of the verifier: every hospital debited every release, and by how much.

Only the definitions of the ledger's records are shared with the ledger itself. The chain, the
losses and the epsilons are worked out here anew, from the charter and the accountant, so that a
mistake in the ledger does not hide itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.charter import Charter, Hospital
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify_rounds import Accepted, Rounds
from fedhelp_secure.privacy.events import LedgerEntry, Outcome, Reservation, event_of, open_entry
from fedhelp_secure.privacy.loss import NOTHING, Loss


@dataclass(frozen=True, slots=True)
class Losses:
    """Both epsilons of one hospital's patients under the charter, at its delta."""

    epsilon_aggregate: Fraction
    epsilon_collusion: Fraction


@dataclass(slots=True)
class _Account:
    """What one ledger amounts to, worked out entry by entry."""

    hospital: Hospital
    reserved: dict[int, str] = field(default_factory=dict)
    """Digest of the reservation's envelope by round of this charter."""
    sent: dict[tuple[str, int], str] = field(default_factory=dict)
    opened: set[tuple[str, int]] = field(default_factory=set)
    places: set[tuple[str, int]] = field(default_factory=set)
    losses: dict[str, tuple[Loss, Loss]] = field(default_factory=dict)


def check_ledgers(
    files: BundleFiles, charter: Charter, accepted: tuple[Accepted, ...], *, rounds: Rounds
) -> Mapping[str, Losses]:
    """Step 9: the losses by hospital, for every hospital that has a ledger.

    Every hospital that contributed must have one, its entries signed by it and chained by digest;
    every manifest must name the reservation of its round; every stated loss, total and epsilon must
    be what charter and accountant give.
    """
    ledgers = layout.ledgers(files)
    names = {hospital.name for hospital in charter.hospitals}
    contributed = {item.event.hospital for item in accepted}
    for name in sorted(contributed | ledgers.keys()):
        if name not in ledgers:
            raise BundleRefused(f"{layout.ledger_path(name)} is missing, but it contributed.")
        if name not in names:
            raise BundleRefused(f"{layout.ledger_path(name)} is of nobody in the charter.")
    losses: dict[str, Losses] = {}
    for name, data in sorted(ledgers.items()):
        own = [item for item in accepted if item.event.hospital == name]
        try:
            account = _account(data, charter, charter.hospital(name))
            _check_contributions(account, charter.digest, own, rounds)
        except FedHelpError as error:
            raise BundleRefused(f"{layout.ledger_path(name)}: {error}") from error
        losses[name] = _losses(charter, account)
    return losses


def _losses(charter: Charter, account: _Account) -> Losses:
    rounds, group, delta = len(account.reserved), account.hospital.group, charter.privacy.delta
    return Losses(
        charter.round_loss(group).times(rounds).epsilon(delta),
        charter.round_loss_collusion(group).times(rounds).epsilon(delta),
    )


def _account(data: bytes, charter: Charter, hospital: Hospital) -> _Account:
    lines = data.split(b"\n")
    if len(lines) < 2 or lines.pop() != b"":
        raise BundleRefused("it must be lines of entries, the last one ending in a newline.")
    account = _Account(hospital)
    previous: str | None = None
    for number, line in enumerate(lines):
        entry = open_entry(line, hospital.verifying_key())
        record = entry.record
        if record.hospital != hospital.name:
            raise BundleRefused(f"entry {number} speaks for another hospital.")
        if record.sequence != number or record.previous != previous:
            raise BundleRefused(f"the chain is broken at entry {number}.")
        if isinstance(record, Reservation):
            _add_reservation(account, charter, entry, record)
        else:
            _add_outcome(account, record)
        previous = entry.digest
    return account


def _add_reservation(
    account: _Account, charter: Charter, entry: LedgerEntry, record: Reservation
) -> None:
    place = (record.charter, record.round)
    if place in account.places:
        raise BundleRefused(f"entry {record.sequence} reserves a round a second time.")
    account.places.add(place)
    if record.charter == charter.digest:
        _check_parameters(charter, account.hospital, record)
        account.reserved[record.round] = entry.digest
    _check_losses(account, record)
    _check_limits(charter, record)


def _check_parameters(charter: Charter, hospital: Hospital, record: Reservation) -> None:
    pairs = (
        (record.federation, charter.federation),
        (record.group, hospital.group),
        (record.delta, charter.privacy.delta),
        (record.event, event_of(charter, hospital.name)),
    )
    if any(written != agreed for written, agreed in pairs):
        raise BundleRefused(f"entry {record.sequence} has other parameters than the charter.")
    if record.round > charter.rounds.count:
        raise BundleRefused(f"entry {record.sequence} is for a round that the charter lacks.")


def _check_losses(account: _Account, record: Reservation) -> None:
    """The stated losses and totals, against sums made here."""
    totals = record.totals
    own = (record.event.loss_aggregate, record.event.loss_collusion)
    before = account.losses.get(record.charter, (NOTHING, NOTHING))
    after = (before[0] + own[0], before[1] + own[1])
    account.losses[record.charter] = after
    lifetime = sum((spent[0] for spent in account.losses.values()), NOTHING)
    spent = [loss.epsilon(record.delta) for loss in after]
    # As text: a number of a million digits must not be parsed to be found wrong.
    pairs = (
        (record.rho_aggregate, own[0].text()),
        (record.rho_collusion, own[1].text()),
        (totals.rho_aggregate, after[0].text()),
        (totals.rho_collusion, after[1].text()),
        (totals.epsilon_aggregate, _decimal(spent[0])),
        (totals.epsilon_collusion, _decimal(spent[1])),
        (totals.lifetime_rho_aggregate, lifetime.text()),
    )
    if any(written != worked_out for written, worked_out in pairs):
        raise BundleRefused(f"entry {record.sequence} states another loss than it must.")


def _decimal(epsilon: Fraction) -> str:
    whole, millionths = divmod(int(epsilon * 10**6), 10**6)
    return f"{whole}.{millionths:06d}"


def _check_limits(charter: Charter, record: Reservation) -> None:
    totals, limits = record.totals, record.limits
    lifetime = Loss.parse(totals.lifetime_rho_aggregate).epsilon(limits.lifetime_delta)
    pairs = [
        (Fraction(totals.epsilon_aggregate), limits.epsilon),
        (Fraction(totals.epsilon_collusion), limits.epsilon_collusion),
        (lifetime, limits.lifetime_epsilon),
    ]
    if record.charter == charter.digest:
        pairs.append((Fraction(limits.epsilon), charter.privacy.epsilon))
    if any(limit is not None and spent > Fraction(limit) for spent, limit in pairs):
        raise BundleRefused(f"entry {record.sequence} is above its limits.")


def _add_outcome(account: _Account, record: Outcome) -> None:
    place = (record.charter, record.round)
    if record.status == "sent":
        follows = place in account.places and place not in account.sent
        account.sent[place] = record.contribution
    else:
        follows = account.sent.get(place) == record.contribution and place not in account.opened
        account.opened.add(place)
    if not follows:
        raise BundleRefused(f"entry {record.sequence} does not follow from the entries before it.")


def _check_contributions(
    account: _Account, charter_digest: str, accepted: list[Accepted], rounds: Rounds
) -> None:
    manifests = {item.event.round: item for item in accepted}
    for number, item in manifests.items():
        if account.reserved.get(number) != item.manifest.ledger_entry_digest:
            raise BundleRefused(f"the manifest of round {number} does not name its debit.")
    for (charter, number), contribution in account.sent.items():
        logged = manifests.get(number)
        if charter == charter_digest and logged and logged.event.manifest_digest != contribution:
            raise BundleRefused(f"round {number} was sent with another manifest than was logged.")
    for charter, number in account.opened:
        shown = number in manifests and number in rounds.summed
        if charter == charter_digest and not shown:
            raise BundleRefused(f"round {number} was opened, but the log has no sum with it.")
