"""What a release states, by mechanism: its sensitivity, its rule, its losses."""

from __future__ import annotations

import copy
from fractions import Fraction
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from support.charters import MECHANISMS, make_charter_kit
from support.gaussian import analytic_epsilon

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.account import Account, check_chain, check_under_charter
from fedhelp_secure.privacy.budgets import Place
from fedhelp_secure.privacy.consent import LIFETIME
from fedhelp_secure.privacy.events import (
    KIND,
    GaussianEvent,
    LedgerRefused,
    PrivacyEvent,
    SampledGaussianEvent,
    event_of,
)
from fedhelp_secure.privacy.ledger import BudgetExhausted, Ledger
from fedhelp_secure.privacy.loss import NOTHING, Loss
from fedhelp_secure.privacy.parameters import RULES, MechanismName, sensitivity_of
from fedhelp_secure.privacy.records import Reservation

KIT = make_charter_kit()
HOSPITAL = "large-1"
KEY = KIT.keys[HOSPITAL]
ADAPTER: TypeAdapter[PrivacyEvent] = TypeAdapter(PrivacyEvent)


def charter_of(mechanism: MechanismName, **overrides: object) -> Charter:
    return KIT.charter(**copy.deepcopy(MECHANISMS[mechanism]), **overrides)


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_an_event_survives_its_own_text(mechanism: MechanismName) -> None:
    event = event_of(charter_of(mechanism), HOSPITAL)
    assert ADAPTER.validate_json(event.model_dump_json()) == event
    assert event.mechanism == mechanism
    assert event.rule in RULES


def test_sensitivities_are_exact_and_follow_from_their_rules() -> None:
    stated = {name: event_of(charter_of(name), HOSPITAL) for name in MECHANISMS}
    assert {name: (event.sensitivity, event.rule) for name, event in stated.items()} == {
        "probe": ("3276/1", "clipped-sum"),
        "logit_noise": ("6552/1", "whole-matrix"),
        "dp_sgd": ("3276/1", "sampled-clipped-sum"),
    }
    for name, event in stated.items():
        assert Fraction(event.sensitivity) == sensitivity_of(name, event.clip_units).units


@pytest.mark.parametrize("hospital", ["large-1", "small-1"])
@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_losses_of_an_event_are_the_charters(mechanism: MechanismName, hospital: str) -> None:
    charter = charter_of(mechanism)
    event, group = event_of(charter, hospital), charter.hospital(hospital).group
    assert event.loss_aggregate == charter.round_loss(group)
    assert event.loss_collusion == charter.round_loss_collusion(group)


def test_the_baselines_noise_covers_two_clips() -> None:
    """At the same sigma the diameter of the ball costs four times the rho of its radius."""
    charter = charter_of("logit_noise")
    event = event_of(charter, HOSPITAL)
    assert isinstance(event, GaussianEvent)
    assert event.rho_aggregate == Fraction((2 * 2 * 3276) ** 2, 2 * event.sigma_units**2)
    assert event.rho_collusion == Fraction((2 * 3276) ** 2, 2 * event.share_units**2)
    epsilon = float(event.loss_aggregate.epsilon("1e-6"))
    assert analytic_epsilon(sqrt(2 * event.rho_aggregate), 1e-6) <= epsilon <= 3


def test_both_views_of_sampled_steps_are_the_same() -> None:
    charter = charter_of("dp_sgd")
    for hospital in ("large-1", "small-1"):
        event = event_of(charter, hospital)
        assert isinstance(event, SampledGaussianEvent)
        assert event.loss_aggregate == event.loss_collusion
        assert event.loss_aggregate == event_of(charter, "small-2").loss_aggregate
        assert 2 < event.loss_aggregate.epsilon("1e-6") <= 3
    assert charter.share_units("large") == 0


LIES: list[tuple[MechanismName, dict[str, Any]]] = [
    ("dp_sgd", {"mechanism": "probe"}),
    ("dp_sgd", {"sampling": "none"}),
    ("dp_sgd", {"sampling_rate": "0"}),
    ("dp_sgd", {"sampling_rate": "0.0"}),
    ("dp_sgd", {"sampling_rate": "1.1"}),
    ("dp_sgd", {"steps": 0}),
    ("dp_sgd", {"sigma_units": 0}),
    ("dp_sgd", {"nominal_patients": 0}),
    ("dp_sgd", {"sensitivity": "3275/1"}),
    ("dp_sgd", {"share_units": 5}),
    ("dp_sgd", {"unit": "image"}),
    ("logit_noise", {"mechanism": "probe"}),
    ("logit_noise", {"sensitivity": "3276/1"}),
    ("logit_noise", {"rule": "clipped-sum"}),
    ("logit_noise", {"sampling": "poisson"}),
    ("probe", {"mechanism": "logit_noise"}),
]


@pytest.mark.parametrize(("mechanism", "changes"), LIES)
def test_an_event_that_does_not_hold_together_is_refused(
    mechanism: MechanismName, changes: dict[str, Any]
) -> None:
    document = event_of(charter_of(mechanism), HOSPITAL).model_dump()
    ADAPTER.validate_python(document)
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(document | changes)


PLACE = Place(digest(b"charter"), "2026", "scans")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.sqlite", hospital=HOSPITAL, signing_key=KEY)


def test_a_ledger_of_every_mechanism_adds_up(ledger: Ledger) -> None:
    charters = [charter_of(name, name=name.replace("_", "-")) for name in sorted(MECHANISMS)]
    for charter in charters:
        ledger.reserve(charter, 1)
    account = ledger.account()
    for charter in charters:
        spent = check_under_charter(account, charter)
        assert spent.epsilon_aggregate == charter.round_loss("large").epsilon("1e-6")
        assert 0 < spent.epsilon_aggregate <= 3
    whole = sum(
        (charter.round_loss("large") for charter in charters[1:]), charters[0].round_loss("large")
    )
    assert account.losses(LIFETIME).aggregate == whole
    # Composition of all three: more than any, less than the sum of what each costs alone.
    each = [charter.round_loss("large").epsilon("1e-6") for charter in charters]
    assert max(each) < whole.epsilon("1e-6") < sum(each)


def test_only_sampled_losses_write_curves(ledger: Ledger) -> None:
    entries = [ledger.reserve(charter_of("probe"), 1), ledger.reserve(charter_of("dp_sgd"), 1)]
    probe, sampled = (entry.record.model_dump(mode="json") for entry in entries)
    assert "renyi" not in str(probe)
    assert sampled["rho_aggregate"] == sampled["rho_collusion"]
    assert sampled["rho_aggregate"].startswith("0/1 renyi ")
    assert sampled["totals"]["rho_aggregate"] == sampled["rho_aggregate"]
    both = (Loss.parse(document["rho_aggregate"]) for document in (probe, sampled))
    assert Loss.parse(sampled["totals"]["lifetime_rho_aggregate"]) == sum(both, NOTHING)
    assert sampled["totals"]["epsilon_aggregate"] == sampled["totals"]["epsilon_collusion"]
    event = sampled["event"]
    assert (event["sampling"], event["sampling_rate"], event["steps"]) == ("poisson", "0.1", 20)


def test_the_lifetime_limit_counts_sampled_losses(tmp_path: Path) -> None:
    first, second = (charter_of("dp_sgd", name=name) for name in ("first", "second"))
    policy = SitePolicy(lifetime_epsilon="3")
    ledger = Ledger.open(
        tmp_path / "ledger.sqlite", hospital=HOSPITAL, signing_key=KEY, policy=policy
    )
    ledger.reserve(first, 1)
    with pytest.raises(BudgetExhausted, match="lifetime epsilon"):
        ledger.reserve(second, 1)
    assert len(ledger.account().entries) == 1


def _false(document: dict[str, Any], *path: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rho_aggregate",), "0/1"),
        (("rho_collusion",), "0/1"),
        (("totals", "rho_aggregate"), "0/1"),
        (("totals", "rho_collusion"), "0/1"),
        (("totals", "lifetime_rho_aggregate"), "0/1"),
        (("totals", "epsilon_aggregate"), "0.100000"),
        (("event", "steps"), 19),
        (("event", "sampling_rate"), "0.01"),
        (("event", "sigma_units"), 10**6),
        (("event", "nominal_patients"), 61),
    ],
)
def test_a_false_account_of_sampled_steps_is_found_out(
    ledger: Ledger, path: tuple[str, ...], value: object
) -> None:
    charter = charter_of("dp_sgd")
    document = ledger.reserve(charter, 1).record.model_dump(mode="json")

    def check(changed: dict[str, Any]) -> None:
        account = check_chain(
            [KEY.sign_document(KIND, changed)], hospital=HOSPITAL, keys=[KEY.public]
        )
        check_under_charter(account, charter)

    check(document)
    with pytest.raises(LedgerRefused):
        check(_false(document, *path, value=value))


def test_halved_curves_are_found_out(ledger: Ledger) -> None:
    document = ledger.reserve(charter_of("dp_sgd"), 1).record.model_dump(mode="json")
    curve = Loss.parse(document["rho_aggregate"]).curve
    half = Loss(curve=tuple(units // 2 for units in curve)).text()
    for name in ("rho_aggregate", "rho_collusion", "year_rho_collusion", "lifetime_rho_aggregate"):
        false = _false(document, "totals", name, value=half)
        with pytest.raises(LedgerRefused, match="other totals"):
            check_chain([KEY.sign_document(KIND, false)], hospital=HOSPITAL, keys=[KEY.public])


def test_times_a_round_is_so_many_rounds() -> None:
    event = event_of(charter_of("probe"), HOSPITAL)
    totals = Account(HOSPITAL).totals_after(PLACE, event, "1e-6", times=3)
    assert Fraction(totals.rho_aggregate) == 3 * event.loss_aggregate.rho
    sampled = event_of(charter_of("dp_sgd"), HOSPITAL)
    thrice = Account(HOSPITAL).totals_after(PLACE, sampled, "1e-6", times=3)
    assert thrice.rho_aggregate == sampled.loss_aggregate.times(3).text()
    assert isinstance(sampled, SampledGaussianEvent)
    more = sampled.model_copy(update={"steps": 3 * sampled.steps})
    assert thrice.rho_aggregate == more.loss_aggregate.text()
    assert Reservation.model_fields["event"].discriminator == "sampling"
