"""What every mechanism keeps, whichever it is: one test for all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.charters import MECHANISMS, make_charter_kit
from support.learning import silent
from support.site import PUBLIC_SET, patients

from fedhelp_client.dp_sgd import DpSgdMechanism
from fedhelp_client.dp_sgd_models import head_patients
from fedhelp_client.node import mechanisms as node_mechanisms
from fedhelp_secure.privacy.events import event_of
from fedhelp_secure.privacy.mechanisms import LogitNoise, Mechanism, ProbeMechanism, Setting
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.parameters import RULES, MechanismName
from fedhelp_secure.secure_sum.opening import OpenedSum

KIT = make_charter_kit()
HOSPITAL = "small-1"
COUNT = len(PUBLIC_SET.images)


def _setting(name: MechanismName) -> Setting:
    charter = KIT.charter(
        **copy.deepcopy(MECHANISMS[name]),
        classes=["benign", "malignant"],
        proxy={"count": COUNT},
        secure_sum={"values": 8},
    )
    return Setting(charter, PUBLIC_SET, HOSPITAL)


def _logits(people: Sequence[int]) -> NDArray[np.float64]:
    """A model that one patient changes altogether."""
    generator = np.random.default_rng(list(people))
    return 20 * generator.normal(size=(COUNT, 1, 2))


@dataclass(frozen=True, slots=True)
class Case:
    """A mechanism, and what it takes of the patients with given numbers."""

    mechanism: Mechanism[Any]
    inputs: Callable[[Sequence[int]], Any]
    setting: Setting


def _case(name: MechanismName) -> Case:
    setting = _setting(name)
    everybody = patients(8)
    if name == "probe":
        return Case(
            ProbeMechanism(setting), lambda people: [everybody[one] for one in people], setting
        )
    if name == "logit_noise":
        return Case(LogitNoise(setting), _logits, setting)
    rows = head_patients(everybody)
    mechanism = DpSgdMechanism(setting, silent)
    return Case(mechanism, lambda people: [rows[one] for one in people], setting)


@pytest.fixture(params=sorted(MECHANISMS))
def case(request: pytest.FixtureRequest) -> Case:
    return _case(request.param)


def _no_draw(values: int, scale_units: int) -> NDArray[np.int64]:
    raise AssertionError("drawn before the debit")


def test_the_plan_is_the_charters(case: Case) -> None:
    charter, plan = case.setting.charter, case.mechanism.plan()
    assert [spec.round for spec in plan] == list(range(1, charter.rounds.count + 1))
    for spec in plan:
        assert spec.event == event_of(charter, HOSPITAL)
        assert spec.event.mechanism == case.mechanism.name == charter.privacy.mechanism
        assert spec.sensitivity == charter.privacy.sensitivity
        assert spec.sensitivity.rule in RULES


def test_one_patient_changes_the_query_by_no_more_than_the_sensitivity(case: Case) -> None:
    mechanism, everybody = case.mechanism, list(range(8))
    state = mechanism.initial_state()
    sensitivity = mechanism.plan()[0].sensitivity.units
    whole: list[int] = mechanism.contribution(state, case.inputs(everybody)).tolist()
    largest = Fraction(0)
    for left_out in everybody:
        others = [one for one in everybody if one != left_out]
        without = mechanism.contribution(state, case.inputs(others)).tolist()
        squares = sum((one - two) ** 2 for one, two in zip(whole, without, strict=True))
        assert squares <= sensitivity**2
        largest = max(largest, Fraction(squares))
    # The bound is no idle one: patients do change the query.
    assert largest > (sensitivity / 20) ** 2


def test_the_query_holds_no_noise_and_preparing_draws_none(case: Case) -> None:
    mechanism, inputs = case.mechanism, case.inputs([0, 1, 2])
    state = mechanism.initial_state()
    first, second = (mechanism.contribution(state, inputs) for _ in range(2))
    assert np.array_equal(first, second)
    prepared = mechanism.prepare(state, inputs)
    with pytest.raises(AssertionError, match="before the debit"):
        prepared(_no_draw)


def test_a_release_has_the_charters_values_and_is_never_the_same_twice(case: Case) -> None:
    mechanism, charter = case.mechanism, case.setting.charter
    state = mechanism.initial_state()
    releases = [
        mechanism.prepare(state, case.inputs(range(8)))(draw_share).tolist() for _ in range(2)
    ]
    assert all(len(release) == charter.secure_sum.values for release in releases)
    assert releases[0] != releases[1]


def test_opened_sums_end_as_labels_of_every_proxy(case: Case) -> None:
    mechanism = case.mechanism
    state = mechanism.initial_state()
    release = mechanism.prepare(state, case.inputs(range(8)))(draw_share)
    state = mechanism.postprocess(state, OpenedSum(release, (HOSPITAL,)), round_number=1)
    labels = mechanism.labels(state)
    assert labels.proxies.shape == (COUNT, 1, 2)
    assert (labels.proxies >= 0).all()
    np.testing.assert_allclose(labels.proxies.sum(axis=2), 1)
    assert labels.model.shape == (4, 2)
    assert np.isfinite(labels.model).all()


def test_a_node_can_run_every_mechanism_that_releases_patients() -> None:
    assert node_mechanisms._RUNS.keys() == MECHANISMS.keys()
