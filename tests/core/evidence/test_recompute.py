"""The auditor's arithmetic beside the accountant's, with which it shares nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.charters import MECHANISMS, make_charter_kit

from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.recompute import (
    ORDERS,
    check_claim,
    epsilon_of,
    fewer_honest,
    losses_of,
    rho_of,
    sensitivity_of,
    text_of,
)
from fedhelp_secure.evidence.verify_ledgers import recompute_ledgers
from fedhelp_secure.privacy import renyi
from fedhelp_secure.privacy.accountant import epsilon_of_rho, rho_of_gaussian
from fedhelp_secure.privacy.events import PrivacyEvent, SampledGaussianEvent, event_of
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.loss import Loss
from fedhelp_secure.privacy.parameters import MechanismName

RHOS = st.builds(Fraction, st.integers(1, 10**9), st.integers(1, 10**12))
DELTAS = st.integers(1, 15).map(lambda digits: f"1e-{digits}")


@given(RHOS.filter(lambda rho: rho < 500), DELTAS)
def test_two_ways_to_one_epsilon(rho: Fraction, delta: str) -> None:
    """The accountant pads before it rounds up: it is never below, and hardly above."""
    ours, accountant = epsilon_of(rho, delta), epsilon_of_rho(rho, delta)
    assert ours <= accountant <= ours * (1 + Fraction(1, 10**8)) + Fraction(2, 10**6)
    check_claim(0, "epsilon", text_of(accountant), ours)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_two_ways_to_one_loss(sensitivity: int, deviation: int) -> None:
    assert rho_of(sensitivity, deviation) == rho_of_gaussian(
        sensitivity=sensitivity, sigma=deviation
    )


def test_no_loss_is_no_epsilon() -> None:
    assert epsilon_of(Fraction(0), "1e-6") == 0


@pytest.mark.parametrize(
    ("rho", "delta"), [(Fraction(-1), "1e-6"), (Fraction(1), "1e-0"), (Fraction(1), "0")]
)
def test_what_is_no_loss_or_no_delta_is_refused(rho: Fraction, delta: str) -> None:
    with pytest.raises(BundleRefused):
        epsilon_of(rho, delta)


@pytest.mark.parametrize(("sensitivity", "deviation"), [(0, 1), (1, 0), (-1, 1)])
def test_no_noise_is_refused(sensitivity: int, deviation: int) -> None:
    with pytest.raises(BundleRefused, match="nothing is protected"):
        rho_of(sensitivity, deviation)


def test_a_claim_may_not_be_below_nor_far_above() -> None:
    check_claim(3, "epsilon", "1.000000", Fraction(1))
    check_claim(3, "epsilon", "1.000001", Fraction(1))
    with pytest.raises(BundleRefused, match=r"entry 3 claims an epsilon of 0\.999999, below"):
        check_claim(3, "epsilon", "0.999999", Fraction(1))
    with pytest.raises(BundleRefused, match="another loss"):
        check_claim(3, "epsilon", "1.000003", Fraction(1))


def test_fewer_honest_shares_go_down_to_one() -> None:
    assert fewer_honest(1) == ()
    assert fewer_honest(4) == (3, 2, 1)
    assert fewer_honest(20) == (19, 18, 17, 16, 15, 14, 13, 1)


KIT = make_charter_kit()
HOSPITAL = "large-1"


def event_under(mechanism: MechanismName) -> PrivacyEvent:
    return event_of(KIT.charter(**copy.deepcopy(MECHANISMS[mechanism])), HOSPITAL)


def test_renyi_losses_are_at_the_ledgers_orders() -> None:
    assert ORDERS == renyi.ORDERS


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_two_ways_to_the_losses_of_every_mechanism(mechanism: MechanismName) -> None:
    event = event_under(mechanism)
    theirs = (event.loss_aggregate, event.loss_collusion)
    ours = losses_of(event, 0, theirs[0].text())
    for spent, loss in zip(ours, theirs, strict=True):
        assert spent.text == loss.text()
        twice = (spent + spent).epsilon("1e-6")
        accountant = loss.times(2).epsilon("1e-6")
        assert twice <= accountant <= twice + Fraction(2, 10**6)
    weight = 1 if mechanism == "dp_sgd" else event.weight
    assert sensitivity_of(event) == weight * Fraction(event.sensitivity)


def test_a_mixed_loss_adds_up_in_both_forms() -> None:
    probe, sampled = event_under("probe"), event_under("dp_sgd")
    stated = sampled.loss_aggregate.text()
    spent = losses_of(probe, 0, "")[0] + losses_of(sampled, 0, stated)[0]
    accountant = (probe.loss_aggregate + sampled.loss_aggregate).epsilon("1e-6")
    assert spent.epsilon("1e-6") <= accountant <= spent.epsilon("1e-6") + Fraction(2, 10**6)
    assert spent.epsilon("1e-6") > losses_of(probe, 0, "")[0].epsilon("1e-6")


@pytest.mark.parametrize("rate", ["0.01", "0.5", "1"])
@pytest.mark.parametrize("multiplier", [1, 4])
def test_two_ways_to_a_sampled_loss(rate: str, multiplier: int) -> None:
    event = event_under("dp_sgd").model_copy(
        update={"sampling_rate": rate, "sigma_units": multiplier * 3276, "steps": 7}
    )
    losses_of(event, 0, event.loss_aggregate.text())


@pytest.mark.parametrize(
    "change", [{"sampling_rate": "0"}, {"sampling_rate": "2"}, {"sigma_units": 0}]
)
def test_steps_without_a_probability_or_noise_are_refused(change: dict[str, object]) -> None:
    event = event_under("dp_sgd")
    with pytest.raises(BundleRefused, match="no probability, or there is no noise"):
        losses_of(event.model_copy(update=change), 0, event.loss_aggregate.text())


def test_a_renyi_loss_at_no_delta_is_refused() -> None:
    event = event_under("dp_sgd")
    spent, _ = losses_of(event, 0, event.loss_aggregate.text())
    with pytest.raises(BundleRefused, match="delta"):
        spent.epsilon("1e-0")


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        # The writer rounds each step up by less than a unit.
        ("below the recomputed", lambda units, steps: units - steps),
        ("below the recomputed", lambda _units, _steps: 0),
        ("another loss", lambda units, steps: units + 2 * steps),
    ],
)
@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_false_curve_is_named(reason: str, change: Callable[[int, int], int], place: int) -> None:
    event = event_under("dp_sgd")
    assert isinstance(event, SampledGaussianEvent)
    curve = list(event.loss_aggregate.curve)
    curve[place] = change(curve[place], event.steps)
    with pytest.raises(BundleRefused, match=f"entry 5 .*{reason}"):
        losses_of(event, 5, Loss(curve=tuple(curve)).text())


@pytest.mark.parametrize("stated", ["", "0/1", "0/1 renyi 0.000000000000000"])
def test_a_curve_that_is_missing_or_short_is_refused(stated: str) -> None:
    with pytest.raises(BundleRefused, match="another loss"):
        losses_of(event_under("dp_sgd"), 5, stated)


@pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
def test_a_ledger_of_any_mechanism_is_recomputed(tmp_path: Path, mechanism: MechanismName) -> None:
    charter = KIT.charter(**copy.deepcopy(MECHANISMS[mechanism]))
    ledger = Ledger.open(
        tmp_path / "ledger.sqlite", hospital=HOSPITAL, signing_key=KIT.keys[HOSPITAL]
    )
    ledger.reserve(charter, 1)
    ledger.export(tmp_path / "ledger.jsonl")
    files = {layout.ledger_path(HOSPITAL): (tmp_path / "ledger.jsonl").read_bytes()}
    ((budget,),) = recompute_ledgers(files, charter, (), rounds=None).values()
    assert budget.agreed
    spent = ledger.spent(charter)
    for ours, theirs in (
        (budget.epsilon_aggregate, spent.epsilon_aggregate),
        (budget.epsilon_collusion, spent.epsilon_collusion),
    ):
        assert 0 < ours <= theirs <= ours + Fraction(2, 10**6)
    assert (budget.fewer_honest == ()) == (mechanism == "dp_sgd")
