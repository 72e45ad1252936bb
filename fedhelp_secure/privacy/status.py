"""What a hospital's patients have spent, period by period, against every limit.

Everything is recomputed from the signed ledger; epsilons are rounded up.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from pydantic import BaseModel, ConfigDict

from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.account import Account
from fedhelp_secure.privacy.budgets import Place, epsilon_of, site_limits, stricter
from fedhelp_secure.privacy.consent import Period
from fedhelp_secure.privacy.events import GaussianEvent, decimal_text
from fedhelp_secure.privacy.loss import NOTHING, Loss
from fedhelp_secure.privacy.records import Reservation, SiteLimits, fewer_honest


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PeriodStatus(_Model):
    """One period: what is spent, and up to where it may be."""

    period: str
    """As `fedhelp_secure.privacy.consent.Period` writes it."""
    delta: str
    """At which all epsilons of this period hold."""
    rounds: int
    """Debited."""
    epsilon_aggregate: str
    limit_aggregate: str | None
    """None where there is no limit."""
    epsilon_collusion: str
    limit_collusion: str | None
    epsilon_fewer_honest: dict[str, str]
    """Aggregate, if so many fewer shares than each charter counts on are honest; by that number."""


class ConsentStatus(_Model):
    """One consent in the ledger."""

    period: str
    epsilon: str | None
    epsilon_collusion: str | None
    reason: str
    given_at: str


class PrivacyStatus(_Model):
    """A whole ledger at a glance."""

    hospital: str
    entries: int
    head: str | None
    """Digest of the last entry: what a later ledger must contain."""
    last_at: str | None
    periods: tuple[PeriodStatus, ...]
    """Every charter, year and data set in order of first debit, then the lifetime."""
    consents: tuple[ConsentStatus, ...]


def status_of(account: Account, policy: SitePolicy | None = None) -> PrivacyStatus:
    """What ``account`` amounts to, against the limits that ``policy`` sets.

    Without a policy, against those of the ledger's last entry that has any.
    """
    site = account.budgets.site if policy is None else site_limits(policy)
    reserved: dict[Period, list[Reservation]] = {}
    for entry in account.entries:
        if isinstance(entry.record, Reservation):
            for period in Place.of(entry.record).periods:
                reserved.setdefault(period, []).append(entry.record)
    ordered = sorted(reserved, key=lambda period: period.scope == "lifetime")
    return PrivacyStatus(
        hospital=account.hospital,
        entries=len(account.entries),
        head=account.head,
        last_at=account.last_at or None,
        periods=tuple(_period(account, period, reserved[period], site) for period in ordered),
        consents=tuple(
            ConsentStatus(
                period=str(period),
                epsilon=consent.epsilon,
                epsilon_collusion=consent.epsilon_collusion,
                reason=consent.reason,
                given_at=consent.given_at,
            )
            for period, consents in account.budgets.consents.items()
            for consent in consents
        ),
    )


def _period(
    account: Account, period: Period, reserved: list[Reservation], site: SiteLimits | None
) -> PeriodStatus:
    last = reserved[-1]
    site = site or last.site
    aggregate, collusion = account.budgets.of_site(site, period)
    delta = site.lifetime_delta
    if period.scope == "charter":
        delta, aggregate = last.delta, stricter(last.limits.epsilon, aggregate)
    losses = account.losses(period)
    return PeriodStatus(
        period=str(period),
        delta=delta,
        rounds=len(reserved),
        epsilon_aggregate=decimal_text(epsilon_of(losses.aggregate, delta)),
        limit_aggregate=aggregate,
        epsilon_collusion=decimal_text(epsilon_of(losses.collusion, delta)),
        limit_collusion=collusion,
        epsilon_fewer_honest={
            str(missing): decimal_text(epsilon_of(_loss_without(reserved, missing), delta))
            for missing in _missing(reserved)
        },
    )


def _missing(reserved: Iterable[Reservation]) -> tuple[int, ...]:
    """How many honest shares may be missing, from one to all but one in the smallest cohort."""
    events = (record.event for record in reserved)
    counted = [event.honest_shares for event in events if isinstance(event, GaussianEvent)]
    if not counted:
        return ()
    honest = min(counted)
    return tuple(honest - left for left in fewer_honest(honest))


def _loss_without(reserved: Iterable[Reservation], missing: int) -> Loss:
    """The loss if ``missing`` of each round's t honest shares are not there: rho t / (t - missing).

    Rounds whose noise is the hospital's own alone cost what they cost. See
    `fedhelp_secure.privacy.account.epsilons_fewer_honest`.
    """
    total = NOTHING
    for event in (record.event for record in reserved):
        if isinstance(event, GaussianEvent):
            share = Fraction(event.honest_shares, event.honest_shares - missing)
            total += Loss(event.rho_aggregate * share)
        else:
            total += event.loss_aggregate
    return total
