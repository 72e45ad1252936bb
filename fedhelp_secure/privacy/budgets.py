"""Which limits are in force: the charter's, the site's own, and what consents made of these.

The stricter of charter and site wins. The site's file may only get stricter from one entry of the
ledger to the next; what a consent grants counts for its one period, from its entry on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

from fedhelp_secure.charter import Charter
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.consent import LIFETIME, Consent, Period
from fedhelp_secure.privacy.loss import Loss
from fedhelp_secure.privacy.records import SCOPES, Limits, Reservation, SiteLimits, Totals

_NAMES = {
    "charter": "epsilon",
    "year": "epsilon of the year",
    "data-set": "epsilon of the data set",
    "lifetime": "lifetime epsilon",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a round is debited: the three periods that are not the whole ledger."""

    charter: str
    year: str
    data_set: str

    @classmethod
    def of(cls, record: Reservation) -> Place:
        """Where ``record`` debits."""
        return cls(record.charter, record.reserved_at[:4], record.data_set)

    @property
    def periods(self) -> tuple[Period, ...]:
        """All four, in the order of `SCOPES`."""
        return (
            Period("charter", self.charter),
            Period("year", self.year),
            Period("data-set", self.data_set),
            LIFETIME,
        )


@dataclass(slots=True)
class Budgets:
    """The limits of one ledger as they stand after some of its entries."""

    site: SiteLimits | None = None
    """As the last reservation or consent recorded them."""
    consents: dict[Period, list[Consent]] = field(default_factory=dict)

    def loosened(self, site: SiteLimits) -> str | None:
        """The name of the first limit that ``site`` loosens without a consent, None if none."""
        before = self.site
        if before is None:
            return None
        if before.consent_key not in (None, site.consent_key):
            return "consent_key"
        if Fraction(site.lifetime_delta) > Fraction(before.lifetime_delta):
            return "lifetime_delta"
        for scope in SCOPES:
            kinds = ("epsilon", "epsilon_collusion")
            for name, old, new in zip(kinds, before.of(scope), site.of(scope), strict=True):
                if old is not None and (new is None or Fraction(new) > Fraction(old)):
                    return name if scope == "charter" else f"{scope.replace('-', '_')}_{name}"
        return None

    def of_site(self, site: SiteLimits, period: Period) -> tuple[str | None, str | None]:
        """(aggregate, collusion) limit that file and consents together set for ``period``."""
        aggregate, collusion = site.of(period.scope)
        for consent in self.consents.get(period, ()):
            aggregate = _raised(aggregate, consent.instead_of, consent.epsilon)
            collusion = _raised(collusion, consent.instead_of_collusion, consent.epsilon_collusion)
        return aggregate, collusion

    def limits(self, charter_epsilon: str, site: SiteLimits, place: Place) -> Limits:
        """The limits for a debit at ``place``."""
        charter, year, data_set, lifetime = (self.of_site(site, period) for period in place.periods)
        return Limits(
            epsilon=stricter(charter_epsilon, charter[0]),
            epsilon_collusion=charter[1],
            year_epsilon=year[0],
            year_epsilon_collusion=year[1],
            data_set_epsilon=data_set[0],
            data_set_epsilon_collusion=data_set[1],
            lifetime_epsilon=lifetime[0],
            lifetime_epsilon_collusion=lifetime[1],
            lifetime_delta=site.lifetime_delta,
        )

    def refusal(self, consent: Consent, site: SiteLimits, *, year: str) -> str | None:
        """Why ``consent`` may not be recorded in ``year``, None if it may."""
        period = consent.period
        if period.scope == "year" and period.subject < year:
            return "it is for a year that has passed"
        aggregate, collusion = site.of(period.scope)
        if consent.epsilon is not None and consent.instead_of != aggregate:
            return "it does not replace the limit that the site's policy sets"
        if consent.epsilon_collusion is not None and consent.instead_of_collusion != collusion:
            return "it does not replace the limit that the site's policy sets"
        before = self.of_site(site, period)
        given = (consent.epsilon, consent.epsilon_collusion)
        for new, old in zip(given, before, strict=True):
            if new is not None and (old is None or Fraction(new) <= Fraction(old)):
                return "it raises no limit that is in force"
        return None


def site_limits(policy: SitePolicy) -> SiteLimits:
    """What of ``policy`` a ledger records."""
    return SiteLimits(**{name: getattr(policy, name) for name in SiteLimits.model_fields})


def stricter(charter_epsilon: str, site_epsilon: str | None) -> str:
    """The smaller of the two limits."""
    if site_epsilon is None or Fraction(charter_epsilon) <= Fraction(site_epsilon):
        return charter_epsilon
    return site_epsilon


def check_policy(policy: SitePolicy, budgets: Budgets, charter: Charter) -> None:
    """`SitePolicy.check`, with the limit per charter that consents give for this charter."""
    period = Period("charter", charter.digest)
    epsilon, _ = budgets.of_site(site_limits(policy), period)
    policy.model_copy(update={"epsilon": epsilon}).check(charter)


def broken_limit(totals: Totals, limits: Limits) -> str | None:
    """The name of the first of ``limits`` that ``totals`` exceed, None if they keep all."""
    for scope in SCOPES:
        stated = (totals.epsilon_aggregate, totals.epsilon_collusion)
        for kind, limit, rho, epsilon in zip(
            ("aggregate", "collusion"), limits.of(scope), totals.of(scope), stated, strict=True
        ):
            if limit is None:
                continue
            spent = (
                Fraction(epsilon)
                if scope == "charter"
                else epsilon_of(Loss.parse(rho), limits.lifetime_delta)
            )
            if spent > Fraction(limit):
                return f"{_NAMES[scope]} ({kind})"
    return None


@lru_cache(maxsize=8192)
def epsilon_of(loss: Loss, delta: str) -> Fraction:
    """`Loss.epsilon`, remembered: every operation on a ledger checks all of its entries."""
    return loss.epsilon(delta)


def _raised(limit: str | None, instead_of: str | None, granted: str | None) -> str | None:
    """``limit`` after a consent, unless the file has since been tightened below what it replaced.

    The limit before an earlier consent's grant is never below what that consent replaced.
    """
    if limit is None or granted is None or instead_of is None:
        return limit
    return limit if Fraction(limit) < Fraction(instead_of) else granted
