"""Part of step 10: the limits that a ledger states, and the consents that raised them.

Worked out anew, as the losses are: only the definitions of the records are shared with the ledger.
A bundle does not hold the site's policy, so what is checked is that the file's limits, which every
debit repeats, never got laxer, and that every limit above them was granted by a consent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import Spent, check_claim, epsilon_of, fewer_honest
from fedhelp_secure.privacy.consent import Consent, open_consent
from fedhelp_secure.privacy.records import Consented, Reservation, SiteLimits
from fedhelp_secure.signing import VerifyingKey

_Limits = dict[str, str | None]

_PERIODS = {"year": "year_", "data-set": "data_set_", "lifetime": "lifetime_"}
"""Periods that reach over several charters, and how their fields begin."""


@dataclass(slots=True)
class BudgetCheck:
    """The limits and the periods' losses of one ledger, entry by entry."""

    hospital: str
    _site: SiteLimits | None = None
    _granted: list[Consent] = field(default_factory=list)
    _spent: dict[tuple[str, str], tuple[Spent, Spent]] = field(default_factory=dict)
    _last: str = ""

    def check_time(self, number: int, at: str) -> None:
        """Entries are made one after the other: nobody goes back to a year with budget left."""
        if at < self._last:
            raise BundleRefused(f"entry {number} is older than the one before it.")
        self._last = at

    def add_reservation(self, record: Reservation, *, own: tuple[Spent, Spent]) -> None:
        """Raises BundleRefused unless totals and limits of all periods are what they must be.

        ``own`` is the round's (aggregate, collusion) loss.
        """
        self._check_site(record.sequence, record.site)
        subjects = {"year": record.reserved_at[:4], "data-set": record.data_set, "lifetime": "all"}
        limits, totals = record.limits.model_dump(), record.totals.model_dump()
        for scope, prefix in _PERIODS.items():
            place = (scope, subjects[scope])
            before = self._spent.get(place, (Spent(), Spent()))
            after = (before[0] + own[0], before[1] + own[1])
            self._spent[place] = after
            pairs = (
                (totals[f"{prefix}rho_aggregate"], after[0].text),
                (totals[f"{prefix}rho_collusion"], after[1].text),
            )
            if any(stated != worked_out for stated, worked_out in pairs):
                raise BundleRefused(f"entry {record.sequence} states another loss than it must.")
        self._check_limits(record, limits, subjects)

    def add_consent(self, record: Consented, *, previous: str | None) -> None:
        """Raises BundleRefused unless ``record`` holds a consent, for here, that raises a limit."""
        self._check_site(record.sequence, record.site)
        try:
            key = VerifyingKey.from_base64(record.site.consent_key or "")
            consent = open_consent(record.statement.encode(), key)
        except FedHelpError as error:
            raise BundleRefused(
                f"entry {record.sequence} holds no consent by the key that it names."
            ) from error
        if consent.hospital != self.hospital or consent.after != previous:
            raise BundleRefused(f"entry {record.sequence} holds a consent for another place.")
        if consent.scope == "year" and consent.subject < record.recorded_at[:4]:
            raise BundleRefused(f"entry {record.sequence} consents to a year that has passed.")
        names = _names(consent.scope)
        pairs = (
            (names[0], consent.epsilon, consent.instead_of),
            (names[1], consent.epsilon_collusion, consent.instead_of_collusion),
        )
        for name, granted, replaced in pairs:
            if granted is None:
                continue
            before = self._in_force(record.site, name, consent.scope, consent.subject)
            if replaced != getattr(record.site, name) or before is None:
                raise BundleRefused(f"entry {record.sequence} replaces a limit that is not there.")
            if Fraction(granted) <= Fraction(before):
                raise BundleRefused(f"entry {record.sequence} consents to no larger budget.")
        self._granted.append(consent)

    def _check_limits(self, record: Reservation, limits: _Limits, subjects: dict[str, str]) -> None:
        for scope, subject in (("charter", record.charter), *subjects.items()):
            for name in _names(scope):
                expected = self._in_force(record.site, name, scope, subject)
                stated = limits[name]
                if name == "epsilon":
                    # The stricter of charter and site; the charter's own is compared elsewhere.
                    within = expected is None or Fraction(stated or "0") <= Fraction(expected)
                else:
                    within = stated == expected
                if not within:
                    raise BundleRefused(
                        f"entry {record.sequence} has another limit than site and consents give."
                    )
                self._check_kept(record, name, stated, (scope, subject))
        if limits["lifetime_delta"] != record.site.lifetime_delta:
            raise BundleRefused(f"entry {record.sequence} has another delta than its site.")

    def _check_kept(
        self, record: Reservation, name: str, limit: str | None, place: tuple[str, str]
    ) -> None:
        if limit is None or place[0] == "charter":
            return
        spent = self._spent[place][name.endswith("collusion")]
        if spent.epsilon(record.limits.lifetime_delta) > Fraction(limit):
            raise BundleRefused(f"entry {record.sequence} is above its limits.")

    def _check_site(self, number: int, site: SiteLimits) -> None:
        """The file's limits must not be laxer than they were."""
        before, self._site = self._site, site
        if before is None:
            return
        old, new = before.model_dump(), site.model_dump()
        laxer = [
            name
            for name, value in old.items()
            if "epsilon" in name and value is not None
            if new[name] is None or Fraction(new[name]) > Fraction(value)
        ]
        if Fraction(new["lifetime_delta"]) > Fraction(old["lifetime_delta"]):
            laxer.append("lifetime_delta")
        if old["consent_key"] is not None and new["consent_key"] != old["consent_key"]:
            laxer.append("consent_key")
        if laxer:
            raise BundleRefused(f"entry {number} loosens the site's {laxer[0]} without a consent.")

    def _in_force(self, site: SiteLimits, name: str, scope: str, subject: str) -> str | None:
        """The site's limit called ``name`` for one period, after the consents so far."""
        limit: str | None = getattr(site, name)
        for consent in self._granted:
            if (consent.scope, consent.subject) != (scope, subject):
                continue
            collusion = name.endswith("collusion")
            granted = consent.epsilon_collusion if collusion else consent.epsilon
            replaced = consent.instead_of_collusion if collusion else consent.instead_of
            if limit is None or granted is None or replaced is None:
                continue
            # A file that was tightened below what the consent replaced wins over it.
            if Fraction(limit) >= Fraction(replaced):
                limit = granted
        return limit


def check_fewer_honest(record: Reservation, spent: Spent) -> None:
    """The epsilons with fewer honest shares, of what was ``spent`` under the charter.

    Of k shares, rho t / k; where all noise is the hospital's own there are no shares to be fewer.
    """
    stated, event = record.totals.epsilon_fewer_honest, record.event
    honest = event.honest_shares
    numbers = fewer_honest(honest)
    if len(stated) != len(numbers):
        raise BundleRefused(
            f"entry {record.sequence} states another loss than it must: epsilons with fewer honest "
            "shares are missing, or too many."
        )
    for fewer, claim in zip(numbers, stated, strict=True):
        recomputed = epsilon_of(spent.rho * Fraction(honest, fewer), record.delta)
        name = f"epsilon (aggregate) with {fewer} honest shares"
        check_claim(record.sequence, name, claim, recomputed)


def _names(scope: str) -> tuple[str, str]:
    prefix = _PERIODS.get(scope, "")
    return f"{prefix}epsilon", f"{prefix}epsilon_collusion"
