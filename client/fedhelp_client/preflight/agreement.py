"""Checks of what was agreed: charter, site policy, budget, public files."""

from __future__ import annotations

from datetime import UTC, datetime

from fedhelp_client.node.coordinator import read_context
from fedhelp_client.preflight.outcome import Outcome, failed, passed, warned
from fedhelp_client.preflight.site import Site
from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.own_keys import hospital_keys
from fedhelp_secure.privacy.account import Account
from fedhelp_secure.privacy.budgets import Place, broken_limit, check_policy, site_limits
from fedhelp_secure.privacy.events import check_patients_allowed, event_of
from fedhelp_secure.privacy.ledger_file import ledger_path, read_account
from fedhelp_secure.privacy.records import Limits, Totals
from fedhelp_secure.public_set import PublicSet


def charter(site: Site) -> Outcome:
    """Signed by the governance key that this site trusts, sound, for patients, naming this site."""
    signed, state = site.charter, site.state
    check_patients_allowed(signed)
    signed.check_shares()
    own = signed.hospital(state.identity.name)
    try:
        hospital_keys(state, signed)
    except CharterRefused as error:
        return failed(str(error))
    return passed(
        f"{signed.name}, {signed.digest}, signed by governance key "
        f"{site.signer.to_base64()}, {signed.rounds.count} rounds as a {own.group} "
        "hospital"
    )


def site_policy(site: Site) -> Outcome:
    """The charter keeps every limit of the site's own, and the hours are open or come."""
    policy = site.policy
    policy.check_signer(site.signer)
    check_policy(policy, _account(site).budgets, site.charter)
    if site.policy_file is None:
        return warned("there is no site policy: only the charter's limits hold.")
    if policy.hours is None:
        return passed("the charter keeps every limit; no hours are set")
    wait = policy.hours.seconds_to_wait(datetime.now(UTC))
    now = "open now" if wait == 0 else f"open in {wait / 3600:.1f} hours"
    said = f"the charter keeps every limit; hours: {policy.hours}, {now}"
    if wait > site.charter.rounds.deadline_seconds:
        return warned(f"{said}: a round that begins now closes before that.")
    return passed(said)


def budget(site: Site) -> Outcome:
    """All rounds that remain can be paid for, and the policy is no laxer than the ledger knows."""
    account, signed, policy = _account(site), site.charter, site.policy
    limits_of_site = site_limits(policy)
    loosened = account.budgets.loosened(limits_of_site)
    if loosened is not None:
        return failed(f"the policy sets a laxer {loosened} than the ledger has seen, or none.")
    numbers = range(1, signed.rounds.count + 1)
    remaining = sum(account.progress(signed.digest, number) is None for number in numbers)
    year = max(datetime.now(UTC).strftime("%Y-%m-%d"), account.last_at)[:4]
    place = Place(signed.digest, year, policy.data_set)
    event = event_of(signed, site.state.identity.name)
    planned = account.totals_after(place, event, signed.privacy.delta, times=remaining)
    limits = account.budgets.limits(signed.privacy.epsilon, limits_of_site, place)
    broken = broken_limit(planned, limits)
    said = _both(planned, limits, remaining, signed.privacy.delta)
    return passed(said) if broken is None else failed(f"{said}: over the limit of {broken}.")


def public_files(site: Site) -> Outcome:
    """Public set and CKKS context are those that the charter pins by digest."""
    named = []
    if site.public_set is not None:
        PublicSet.load(site.public_set).check(site.charter)
        named.append("public set")
    if site.context is not None:
        read_context(site.charter, site.context)
        named.append("CKKS context")
    if not named:
        return warned("neither --public-set nor --context is given: not looked at.")
    return passed(f"{' and '.join(named)}: the charter's digests")


def _both(planned: Totals, limits: Limits, remaining: int, delta: str) -> str:
    aggregate = f"{planned.epsilon_aggregate} of {limits.epsilon}"
    collusion = f"{planned.epsilon_collusion} of {limits.epsilon_collusion or 'no limit'}"
    return (
        f"after the {remaining} rounds that remain: epsilon {aggregate} (aggregate), {collusion} "
        f"(collusion), at delta {delta}"
    )


def _account(site: Site) -> Account:
    """The ledger as it is; a hospital that has none has spent nothing."""
    state = site.state
    # Looking for the ledger's path would make its directory.
    directory = state.root / state.identity.role.value
    if not directory.exists() or not ledger_path(state).exists():
        return Account(state.identity.name)
    return read_account(
        ledger_path(state), hospital=state.identity.name, keys=state.verifying_keys()
    )
