"""Step 10 of the verifier: every hospital debited every release, and by how much.

``fedhelp audit budget`` is this step by itself. Only the definitions of the ledger's records are
shared with the ledger: the chain, the sensitivities, the losses and the epsilons are worked out
here anew, from the charter, so that a mistake in the ledger does not hide itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.recompute import Spent, epsilon_of, fewer_honest, sensitivity_of
from fedhelp_secure.evidence.verify_chain import Account, account_of
from fedhelp_secure.evidence.verify_releases import (
    check_cohorts,
    check_contributions,
    check_debits,
    check_members,
    check_same_sums,
)
from fedhelp_secure.evidence.verify_rounds import Accepted, Rounds
from fedhelp_secure.evidence.verify_tuning import check_tuning
from fedhelp_secure.privacy.events import PrivacyEvent


@dataclass(frozen=True, slots=True)
class Losses:
    """Both epsilons of one hospital's patients under the charter, at its delta."""

    epsilon_aggregate: Fraction
    epsilon_collusion: Fraction


@dataclass(frozen=True, slots=True)
class Budget:
    """What one hospital's patients spent under one charter: recomputed, and as claimed."""

    hospital: str
    group: str
    charter: str
    """Digest."""
    agreed: bool
    """Whether the parameters are those of the charter at hand; else they are the ledger's word."""
    rounds: tuple[int, ...]
    """Debited, whatever became of them."""
    event: PrivacyEvent
    """Of every round: what its loss follows from."""
    delta: str
    aggregate: Spent
    collusion: Spent
    claimed_aggregate: Fraction
    """Epsilon, in the last of the ledger's entries for this charter."""
    claimed_collusion: Fraction

    @property
    def sensitivity(self) -> int:
        """L2, by one patient more or less, of what the noise is added to (grid units)."""
        return sensitivity_of(self.event)

    @property
    def epsilon_aggregate(self) -> Fraction:
        """What anybody outside learns at most."""
        return self.aggregate.epsilon(self.delta)

    @property
    def epsilon_collusion(self) -> Fraction:
        """What aggregator and all custodians together learn at most."""
        return self.collusion.epsilon(self.delta)

    @property
    def fewer_honest(self) -> tuple[tuple[int, Fraction], ...]:
        """Epsilon (aggregate) if only so many shares were honest."""
        honest = self.event.honest_shares
        losses = (
            (fewer, self.aggregate.rho * Fraction(honest, fewer)) for fewer in fewer_honest(honest)
        )
        return tuple((fewer, epsilon_of(rho, self.delta)) for fewer, rho in losses)


def check_ledgers(
    files: BundleFiles,
    charter: Charter,
    accepted: tuple[Accepted, ...],
    *,
    rounds: Rounds | None,
) -> Mapping[str, Losses]:
    """Step 10: the losses by hospital, for every hospital that has a ledger.

    Every hospital that contributed must have one, its entries signed by it and chained by digest;
    every manifest must name the reservation of its round; every stated loss, total and epsilon must
    be what the charter gives. See `recompute_ledgers`.
    """
    spent = recompute_ledgers(files, charter, accepted, rounds=rounds)
    return losses_under(charter.digest, spent)


def losses_under(
    charter_digest: str, spent: Mapping[str, tuple[Budget, ...]]
) -> Mapping[str, Losses]:
    """Of ``spent``, what was spent under one charter; nothing for a hospital that had no part."""
    losses = dict.fromkeys(spent, Losses(Fraction(0), Fraction(0)))
    for name, budgets in spent.items():
        for budget in budgets:
            if budget.charter == charter_digest:
                losses[name] = Losses(budget.epsilon_aggregate, budget.epsilon_collusion)
    return losses


def recompute_ledgers(
    files: BundleFiles,
    charter: Charter,
    accepted: tuple[Accepted, ...],
    *,
    rounds: Rounds | None,
) -> Mapping[str, tuple[Budget, ...]]:
    """What each hospital with a ledger spent, under each charter of which it has entries.

    ``accepted`` are the contributions that are proved otherwise; ``rounds`` is None if there is no
    log: then what the ledgers say of cohorts and sums is compared between them. Raises
    BundleRefused naming the ledger and the entry or round.
    """
    ledgers = layout.ledgers(files)
    names = {hospital.name for hospital in charter.hospitals}
    contributed = {item.event.hospital for item in accepted}
    for name in sorted(contributed | ledgers.keys()):
        if name not in ledgers:
            raise BundleRefused(f"{layout.ledger_path(name)} is missing, but it contributed.")
        if name not in names:
            raise BundleRefused(f"{layout.ledger_path(name)} is of nobody in the charter.")
    accounts: dict[str, Account] = {}
    sums: dict[int, str] = {}
    for name, data in sorted(ledgers.items()):
        own = [item for item in accepted if item.event.hospital == name]
        with _named(name):
            account = accounts[name] = account_of(data, charter, charter.hospital(name))
            check_contributions(account, charter.digest, own, rounds)
            if rounds is None:
                check_cohorts(account, charter)
            else:
                check_members(account, charter.digest, accepted)
            check_same_sums(account, charter.digest, sums)
    for name, account in accounts.items():
        with _named(name):
            check_debits(account, charter.digest, accounts)
    check_tuning(accounts)
    return {name: _budgets(charter, account) for name, account in accounts.items()}


@contextmanager
def _named(hospital: str) -> Iterator[None]:
    """Whatever is refused within is refused of this hospital's ledger."""
    try:
        yield
    except FedHelpError as error:
        raise BundleRefused(f"{layout.ledger_path(hospital)}: {error}") from error


def _budgets(charter: Charter, account: Account) -> tuple[Budget, ...]:
    return tuple(
        Budget(
            hospital=account.hospital.name,
            group=record.group,
            charter=digest,
            agreed=digest == charter.digest,
            rounds=tuple(sorted(number for owner, number in account.places if owner == digest)),
            event=record.event,
            delta=record.delta,
            aggregate=account.spent[digest][0],
            collusion=account.spent[digest][1],
            claimed_aggregate=Fraction(record.totals.epsilon_aggregate),
            claimed_collusion=Fraction(record.totals.epsilon_collusion),
        )
        for digest, record in account.last.items()
    )
