"""Limits of charter, year, data set and lifetime; consents; and what goes round them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from support.budgets import (
    CHARTERS,
    FORGERIES,
    HOSPITAL,
    KEY,
    OFFICER,
    YEAR,
    Documents,
    consent,
    documents_with_consent,
    open_ledger,
    policy_of,
    resigned,
    signed,
    spend,
)

from fedhelp_secure.policy import SitePolicy, SitePolicyRefuses
from fedhelp_secure.privacy.account import Account, check_chain, epsilons_fewer_honest
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.privacy.budgets import Budgets, site_limits
from fedhelp_secure.privacy.consent import (
    LIFETIME,
    ConsentRefused,
    NoPeriod,
    Period,
)
from fedhelp_secure.privacy.events import LedgerRefused, event_of
from fedhelp_secure.privacy.ledger import BudgetExhausted, LimitLoosened
from fedhelp_secure.privacy.ledger_file import Clock
from fedhelp_secure.privacy.records import Reservation, fewer_honest, open_entry
from fedhelp_secure.signing import SigningKey

PERIODS = {"year": f"year:{YEAR}", "data_set": "data-set:scans", "lifetime": "lifetime"}


@pytest.mark.parametrize("name", PERIODS)
@pytest.mark.parametrize("kind", ["aggregate", "collusion"])
def test_every_period_has_a_hard_stop_that_only_a_consent_moves(
    tmp_path: Path, name: str, kind: str
) -> None:
    # Epsilon (collusion) of one charter is 7, of two 10.6.
    suffix, limit, larger = ("", "3.5", "4.5") if kind == "aggregate" else ("_collusion", "8", "11")
    policy = policy_of(**{f"{name}_epsilon{suffix}": limit})
    ledger = open_ledger(tmp_path, policy)
    first, second, third = CHARTERS
    spend(ledger, first)
    before = ledger.account().entries
    with pytest.raises(BudgetExhausted, match=f"{name.replace('_', ' ').split()[-1]}.*{kind}"):
        ledger.reserve(second, 1)
    assert ledger.account().entries == before
    if kind == "aggregate":
        consent(ledger, PERIODS[name], larger)
    else:
        consent(ledger, PERIODS[name], collusion=larger)
    spend(ledger, second)
    last = ledger.account().entries[-1].record
    assert isinstance(last, Reservation)
    limits = last.limits.of("data-set" if name == "data_set" else name)  # type: ignore[arg-type]
    assert limits == ((larger, None) if kind == "aggregate" else (None, larger))
    with pytest.raises(BudgetExhausted):
        ledger.reserve(third, 1)


def test_another_data_set_has_a_budget_of_its_own_but_not_another_lifetime(tmp_path: Path) -> None:
    limits = {"data_set_epsilon": "3.5", "lifetime_epsilon": "5"}
    first, second, third = CHARTERS
    spend(open_ledger(tmp_path, policy_of(**limits)), first)
    others = open_ledger(tmp_path, policy_of(**limits, data_set="other-scans"))
    spend(others, second)
    with pytest.raises(BudgetExhausted, match="data set"):
        others.reserve(third, 1)
    fresh = open_ledger(tmp_path, policy_of(**limits, data_set="more-scans"))
    with pytest.raises(BudgetExhausted, match="lifetime"):
        fresh.reserve(third, 1)
    spent = fresh.account().spent
    assert spent[Period("data-set", "scans")] == spent[Period("data-set", "other-scans")]
    assert spent[LIFETIME].aggregate == spent[Period("data-set", "scans")].aggregate.times(2)


def test_a_charter_above_the_sites_limit_needs_a_consent_for_that_charter(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, policy_of(epsilon="2.5"))
    first, second, _ = CHARTERS
    for refused in (ledger.check, lambda charter: ledger.reserve(charter, 1)):
        with pytest.raises(SitePolicyRefuses, match=r"at most 2\.5"):
            refused(first)
    consent(ledger, f"charter:{first.digest}", "4")
    ledger.check(first)
    entry = ledger.reserve(first, 1)
    assert isinstance(entry.record, Reservation)
    # The stricter of the two: the charter's own limit stays.
    assert entry.record.limits.epsilon == "3"
    with pytest.raises(SitePolicyRefuses):
        ledger.check(second)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({"epsilon": "3"}, {"epsilon": "4"}, "epsilon"),
        ({"epsilon_collusion": "30"}, {}, "epsilon_collusion"),
        ({"year_epsilon": "6"}, {"year_epsilon": "6.000001"}, "year_epsilon"),
        ({"data_set_epsilon_collusion": "60"}, {}, "data_set_epsilon_collusion"),
        ({"lifetime_epsilon": "9"}, {"lifetime_epsilon": "10"}, "lifetime_epsilon"),
        ({"lifetime_delta": "1e-7"}, {"lifetime_delta": "1e-6"}, "lifetime_delta"),
    ],
)
def test_the_file_can_tighten_a_limit_and_never_loosen_it(
    tmp_path: Path, before: dict[str, str], after: dict[str, str], named: str
) -> None:
    first = CHARTERS[0]
    open_ledger(tmp_path, policy_of(**before)).reserve(first, 1)
    loosened = open_ledger(tmp_path, policy_of(**after))
    entries = loosened.account().entries
    for attempt in (lambda: loosened.reserve(first, 2), lambda: loosened.check(first)):
        with pytest.raises(LimitLoosened, match=named):
            attempt()
    with pytest.raises(LimitLoosened):
        consent(loosened, "lifetime", "90")
    assert loosened.account().entries == entries
    # The other way round is fine.
    tighter = tmp_path / "tighter"
    open_ledger(tighter, policy_of(**after)).reserve(first, 1)
    open_ledger(tighter, policy_of(**before)).reserve(first, 2)


def test_the_consent_key_stays(tmp_path: Path) -> None:
    first = CHARTERS[0]
    open_ledger(tmp_path, SitePolicy(lifetime_epsilon="4")).reserve(first, 1)
    open_ledger(tmp_path, policy_of(lifetime_epsilon="4")).reserve(first, 2)
    stranger = SigningKey.generate()
    for key in (None, stranger.public.to_base64()):
        policy = SitePolicy(lifetime_epsilon="4", consent_key=key)
        with pytest.raises(LimitLoosened, match="consent_key"):
            open_ledger(tmp_path, policy).reserve(CHARTERS[1], 1)


@pytest.mark.parametrize(
    ("period", "epsilon", "reason"),
    [
        ("lifetime", "4", "raises no limit"),
        ("lifetime", "3.5", "raises no limit"),
        (f"year:{int(YEAR) - 1}", "9", "year that has passed"),
        ("data-set:scans", "9", "limit that the site's policy sets"),
        ("lifetime", "1e3", "as a decimal"),
        ("lifetime", "-1", "as a decimal"),
    ],
)
def test_a_consent_that_raises_nothing_is_not_recorded(
    tmp_path: Path, period: str, epsilon: str, reason: str
) -> None:
    ledger = open_ledger(tmp_path, policy_of(lifetime_epsilon="4", year_epsilon="5"))
    with pytest.raises(ConsentRefused, match=reason):
        consent(ledger, period, epsilon)
    assert ledger.account().entries == []


def test_a_consent_for_one_year_does_not_count_in_another(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, policy_of(year_epsilon="3.5"))
    spend(ledger, CHARTERS[0])
    consent(ledger, f"year:{int(YEAR) + 1}", "9")
    with pytest.raises(BudgetExhausted, match="year"):
        ledger.reserve(CHARTERS[1], 1)
    consent(ledger, f"year:{YEAR}", "4.5")
    ledger.reserve(CHARTERS[1], 1)


def at_time(year: int, month: int, day: int) -> Clock:
    return lambda: datetime(year, month, day, 12, tzinfo=UTC)


def test_a_new_year_begins_at_midnight_utc_and_has_its_own_budget(tmp_path: Path) -> None:
    first, second, third = CHARTERS
    policy = policy_of(year_epsilon="3.5")
    spend(open_ledger(tmp_path, policy, clock=at_time(2026, 12, 31)), first)
    with pytest.raises(BudgetExhausted, match="year"):
        open_ledger(tmp_path, policy, clock=at_time(2026, 12, 31)).reserve(second, 1)
    spend(open_ledger(tmp_path, policy, clock=at_time(2027, 1, 1)), second)
    # Back in the old year there is nothing left, and the ledger does not go back anyway.
    again = open_ledger(tmp_path, policy, clock=at_time(2026, 12, 31))
    with pytest.raises(BudgetExhausted, match="year"):
        again.reserve(third, 1)
    spent = again.account().spent
    assert spent[Period("year", "2026")] == spent[Period("year", "2027")]


def test_a_clock_that_is_set_back_returns_to_no_earlier_year(tmp_path: Path) -> None:
    first, second, _ = CHARTERS
    policy = policy_of(year_epsilon="3.5")
    spend(open_ledger(tmp_path, policy, clock=at_time(2027, 1, 1)), first)
    with pytest.raises(BudgetExhausted, match="year"):
        open_ledger(tmp_path, policy, clock=at_time(2026, 1, 1)).reserve(second, 1)


def test_a_consent_for_the_next_year_counts_once_it_is_there(tmp_path: Path) -> None:
    first, second, third = CHARTERS
    policy = policy_of(year_epsilon="3.5")
    consent(open_ledger(tmp_path, policy, clock=at_time(2026, 6, 1)), "year:2027", "4.5")
    spend(open_ledger(tmp_path, policy, clock=at_time(2027, 2, 1)), first)
    spend(open_ledger(tmp_path, policy, clock=at_time(2027, 3, 1)), second)
    with pytest.raises(BudgetExhausted, match="year"):
        open_ledger(tmp_path, policy, clock=at_time(2027, 4, 1)).reserve(third, 1)


def test_a_charter_over_new_year_must_fit_the_year_it_is_in(tmp_path: Path) -> None:
    first, second, _ = CHARTERS
    policy = policy_of(year_epsilon="3.5")
    open_ledger(tmp_path, policy, clock=at_time(2026, 12, 31)).reserve(first, 1)
    open_ledger(tmp_path, policy, clock=at_time(2027, 1, 1)).reserve(first, 2)
    # A round and a whole charter are too much for 2027.
    with pytest.raises(BudgetExhausted, match="year"):
        open_ledger(tmp_path, policy, clock=at_time(2027, 1, 2)).reserve(second, 1)


def test_a_file_that_is_tightened_after_a_consent_wins_over_it(tmp_path: Path) -> None:
    first, second, third = CHARTERS
    ledger = open_ledger(tmp_path, policy_of(lifetime_epsilon="3.5"))
    spend(ledger, first)
    consent(ledger, "lifetime", "6")
    open_ledger(tmp_path, policy_of(lifetime_epsilon="3.5")).reserve(second, 1)
    tightened = open_ledger(tmp_path, policy_of(lifetime_epsilon="3.4"))
    with pytest.raises(BudgetExhausted, match="lifetime"):
        tightened.reserve(second, 2)
    # What is raised then is the new value.
    consent(tightened, "lifetime", "5")
    tightened.reserve(second, 2)
    with pytest.raises(BudgetExhausted):
        tightened.reserve(third, 1)


@pytest.mark.parametrize(
    ("pinned", "signing", "reason"),
    [
        (OFFICER, SigningKey.generate(), "not the one"),
        (None, OFFICER, "pins no consent_key"),
        (KEY, KEY, "hospital's own"),
    ],
)
def test_only_the_privacy_officers_own_key_consents(
    tmp_path: Path, pinned: SigningKey | None, signing: SigningKey, reason: str
) -> None:
    key = None if pinned is None else pinned.public.to_base64()
    ledger = open_ledger(tmp_path, SitePolicy(lifetime_epsilon="4", consent_key=key))
    with pytest.raises(ConsentRefused, match=reason):
        consent(ledger, "lifetime", "9", key=signing)
    assert ledger.account().entries == []


@pytest.mark.parametrize("reason", ["", "x" * 201, "\x1b[2Jcleared", "two\nlines"])
def test_a_reason_is_one_printable_line(tmp_path: Path, reason: str) -> None:
    ledger = open_ledger(tmp_path, policy_of(lifetime_epsilon="4"))
    with pytest.raises(ConsentRefused, match="printable"):
        ledger.consent(LIFETIME, epsilon="9", epsilon_collusion=None, reason=reason, key=OFFICER)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_with_consent(tmp_path_factory.mktemp("ledger"))


def check(documents: Documents) -> Account:
    return check_chain(signed(documents), hospital=HOSPITAL, keys=[KEY.public])


@pytest.mark.parametrize(("reason", "forge"), FORGERIES)
def test_a_forged_budget_is_found_out(
    documents: Documents, reason: str, forge: Callable[[Documents], None]
) -> None:
    assert len(check(copy.deepcopy(documents)).entries) == 4
    forged = copy.deepcopy(documents)
    forge(forged)
    with pytest.raises(LedgerRefused, match=reason):
        check(forged)


def test_a_consent_of_another_ledger_is_refused(tmp_path: Path) -> None:
    """Taken out of one ledger and put into another of the same hospital, at the same place."""
    policy = policy_of(lifetime_epsilon="3.5")
    one, two = (open_ledger(tmp_path / name, policy) for name in ("one", "two"))
    spend(one, CHARTERS[0])
    spend(two, CHARTERS[1])
    consent(one, "lifetime", "9")
    documents = [entry.record.model_dump(mode="json") for entry in two.account().entries]
    documents.append(one.account().entries[-1].record.model_dump(mode="json"))
    with pytest.raises(LedgerRefused, match="another place"):
        check(documents)


def test_a_refused_consent_leaves_the_account_as_it_was(documents: Documents) -> None:
    good = copy.deepcopy(documents)
    account = check(good[:2])
    forged = copy.deepcopy(documents)
    resigned(instead_of="4")(forged)
    with pytest.raises(LedgerRefused):
        account.add(open_entry(signed(forged)[2], KEY.public))
    assert account.budgets.consents == {}
    for envelope in signed(copy.deepcopy(documents))[2:]:
        account.add(open_entry(envelope, KEY.public))


def test_fewer_honest_shares_cost_more_exactly() -> None:
    loss = event_of(CHARTERS[0], HOSPITAL).loss_aggregate
    stated = epsilons_fewer_honest(loss, 4, "1e-6")
    assert [shares for shares, _ in stated] == [3, 2, 1]
    for shares, epsilon in stated:
        assert epsilon == epsilon_of_rho(loss.rho * Fraction(4, shares), "1e-6")
    assert epsilons_fewer_honest(loss, 1, "1e-6") == ()
    assert fewer_honest(9) == (8, 7, 6, 5, 4, 3, 2, 1)
    assert fewer_honest(40) == (39, 38, 37, 36, 35, 34, 33, 1)


def test_one_honest_share_is_never_better_than_the_hospitals_own(tmp_path: Path) -> None:
    """Its own share is the one that is surely honest for its own patients."""
    ledger = open_ledger(tmp_path, policy_of())
    spend(ledger, CHARTERS[0])
    totals = ledger.account().entries[-1].record
    assert isinstance(totals, Reservation)
    worst = Fraction(totals.totals.epsilon_fewer_honest[-1])
    assert worst >= Fraction(totals.totals.epsilon_collusion)


@pytest.mark.parametrize(
    "text",
    ["", "year", "year:26", "charter:tiny", "data-set:", "data-set:A", "lifetime:x", "month"],
)
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(NoPeriod, match="year:YYYY"):
        Period.parse(text)


def test_periods_are_written_as_they_are_read() -> None:
    for text in ("year:2026", "data-set:scans", "lifetime", f"charter:{CHARTERS[0].digest}"):
        assert str(Period.parse(text)) == text


def test_a_site_without_limits_loosens_nothing() -> None:
    site = site_limits(SitePolicy())
    assert Budgets().loosened(site) is None
    assert Budgets(site).loosened(site_limits(policy_of(epsilon="3"))) is None
