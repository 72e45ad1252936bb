from __future__ import annotations

import copy
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.charters import MECHANISMS, make_charter_kit
from support.site import PUBLIC_SET, patients

from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.mechanisms import (
    LogitNoise,
    MechanismMisused,
    ProbeMechanism,
    Setting,
)
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.parameters import MechanismName, Sensitivity
from fedhelp_secure.privacy.probe import PatientsRefused
from fedhelp_secure.secure_sum.fixed_point import quantise
from fedhelp_secure.secure_sum.opening import OpenedSum

KIT = make_charter_kit()
COUNT = len(PUBLIC_SET.images)
SHAPE = (COUNT, 1, 2)


def charter_of(mechanism: MechanismName) -> Charter:
    return KIT.charter(
        **copy.deepcopy(MECHANISMS[mechanism]),
        classes=["benign", "malignant"],
        proxy={"count": COUNT},
        secure_sum={"values": 8},
    )


def setting_of(mechanism: MechanismName, hospital: str = "small-1") -> Setting:
    return Setting(charter_of(mechanism), PUBLIC_SET, hospital)


def logits(scale: float) -> NDArray[np.float64]:
    return np.random.default_rng(5).normal(scale=scale, size=SHAPE)


def no_noise(values: int, scale_units: int) -> NDArray[np.int64]:
    return np.zeros(values, dtype=np.int64)


PLANS: list[tuple[ProbeMechanism | LogitNoise, Sensitivity]] = [
    (ProbeMechanism(setting_of("probe")), Sensitivity(Fraction(3276), "clipped-sum")),
    (LogitNoise(setting_of("logit_noise")), Sensitivity(Fraction(6552), "whole-matrix")),
]


@pytest.mark.parametrize(("mechanism", "sensitivity"), PLANS, ids=["probe", "logit_noise"])
def test_a_plan_is_public_and_states_every_release(
    mechanism: ProbeMechanism | LogitNoise, sensitivity: Sensitivity
) -> None:
    charter, plan = mechanism.setting.charter, mechanism.plan()
    assert [spec.round for spec in plan] == list(range(1, charter.rounds.count + 1))
    for spec in plan:
        assert spec.event.mechanism == mechanism.name == charter.privacy.mechanism
        assert spec.event.values == charter.secure_sum.values
        assert spec.fraction_bits == 12
        assert spec.sensitivity == sensitivity


def test_the_probe_is_the_probe() -> None:
    setting = setting_of("probe")
    mechanism, charter, people = ProbeMechanism(setting), setting.charter, patients(6)
    state = mechanism.initial_state()
    query = probe.contribution(charter, state, people)
    assert np.array_equal(mechanism.contribution(state, people), query)
    assert np.array_equal(mechanism.prepare(state, people)(no_noise), query)
    stepped = mechanism.postprocess(state, OpenedSum(query, ("small-1",)), round_number=1)
    once = probe.apply_step(charter, PUBLIC_SET, state, query, round_number=1)
    assert np.array_equal(stepped, once)
    further = OpenedSum(query, ("small-1",))
    assert np.array_equal(
        mechanism.postprocess(stepped, further, round_number=2),
        probe.apply_step(charter, PUBLIC_SET, stepped, query, round_number=2),
    )
    labels = mechanism.labels(stepped)
    assert labels.model is stepped
    assert np.array_equal(labels.proxies, probe.soft_labels(stepped, PUBLIC_SET.features))


@pytest.mark.parametrize("hospital", ["small-1", "large-1"])
def test_the_noise_is_this_hospitals_share_drawn_once_after_the_debit(hospital: str) -> None:
    setting = setting_of("logit_noise", hospital)
    asked: list[tuple[int, int]] = []

    def source(values: int, scale_units: int) -> NDArray[np.int64]:
        asked.append((values, scale_units))
        return np.full(values, 7, dtype=np.int64)

    mechanism = LogitNoise(setting)
    prepared = mechanism.prepare(mechanism.initial_state(), logits(1.0))
    assert asked == []
    release = prepared(source)
    group = setting.charter.hospital(hospital).group
    assert asked == [(COUNT * 2, setting.charter.share_units(group))]
    assert np.array_equal(
        release - 7, mechanism.contribution(mechanism.initial_state(), logits(1.0))
    )


@given(st.floats(0, 1e300), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_logits_are_centred_and_clipped_as_one_matrix_in_integers(scale: float, draw: int) -> None:
    mechanism = LogitNoise(setting_of("logit_noise"))
    drawn = scale * np.random.default_rng(draw).normal(size=SHAPE)
    query = mechanism.contribution(mechanism.initial_state(), drawn)
    clip = mechanism.setting.charter.privacy.clip_units
    entries: list[int] = query.tolist()
    assert sum(entry**2 for entry in entries) <= clip**2
    # Any two are at most the stated sensitivity apart.
    other = mechanism.contribution(mechanism.initial_state(), -drawn)
    apart = sum((one - two) ** 2 for one, two in zip(entries, other.tolist(), strict=True))
    assert isqrt(apart) <= mechanism.plan()[0].sensitivity.units
    assert np.abs(query.reshape(SHAPE).sum(axis=2)).max() <= 2


def test_two_models_can_be_the_whole_sensitivity_apart() -> None:
    """So one clip, the probe's sensitivity, would be too little."""
    mechanism = LogitNoise(setting_of("logit_noise"))
    one = np.zeros(SHAPE)
    one[..., 0] = 100.0
    queries = [mechanism.contribution(mechanism.initial_state(), sign * one) for sign in (1, -1)]
    apart = np.linalg.norm((queries[0] - queries[1]).astype(float))
    assert 1.9 * 3276 < apart <= 2 * 3276


def test_small_logits_are_not_changed_but_for_their_mean() -> None:
    mechanism = LogitNoise(setting_of("logit_noise"))
    drawn = logits(1e-3)
    query = mechanism.contribution(mechanism.initial_state(), drawn + 5.0)
    centred = drawn - drawn.mean(axis=2, keepdims=True)
    assert np.abs(query - quantise(centred.reshape(-1), 12)).max() <= 1


def test_the_teacher_is_the_weighted_mean_of_the_logits() -> None:
    setting = setting_of("logit_noise")
    mechanism = LogitNoise(setting)
    state = mechanism.initial_state()
    small, large = logits(0.01), -3 * logits(0.02)
    opened = mechanism.contribution(state, small) + 2 * mechanism.contribution(state, large)
    mean = mechanism.postprocess(state, OpenedSum(opened, ("small-1", "large-2")), round_number=1)
    expected = (small + 2 * large) / 3
    expected -= expected.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(mean, expected, atol=1e-3)
    labels = mechanism.labels(mean).proxies
    np.testing.assert_allclose(labels.sum(axis=2), 1)
    np.testing.assert_array_equal(labels.argmax(axis=2), mean.argmax(axis=2))


def test_the_linear_model_explains_labels_that_are_linear_in_the_features() -> None:
    setting = Setting(
        KIT.charter(
            **copy.deepcopy(MECHANISMS["logit_noise"]),
            classes=["benign", "malignant"],
            proxy={"count": COUNT},
            probe={"ridge": "0.000001"},
        ),
        PUBLIC_SET,
        "small-1",
    )
    truth = np.array([[2.0, -2.0], [-1.0, 1.0], [0.5, -0.5], [0.3, -0.3]])
    mechanism = LogitNoise(setting)
    labels = mechanism.labels(PUBLIC_SET.features.astype(np.float64) @ truth)
    np.testing.assert_allclose(labels.model, truth, atol=1e-3)
    again = probe.soft_labels(labels.model, PUBLIC_SET.features)
    np.testing.assert_allclose(again, labels.proxies, atol=1e-3)


def test_logits_that_do_not_fit_or_are_not_finite_are_refused_before_the_debit() -> None:
    mechanism = LogitNoise(setting_of("logit_noise"))
    state = mechanism.initial_state()
    with pytest.raises(MechanismMisused):
        mechanism.prepare(state, np.zeros((COUNT, 2, 2)))
    for value in (np.nan, np.inf):
        broken = np.zeros(SHAPE)
        broken[3, 0, 1] = value
        with pytest.raises(PatientsRefused):
            mechanism.prepare(state, broken)


def test_a_sum_of_nobody_or_of_other_values_is_refused() -> None:
    mechanism = LogitNoise(setting_of("logit_noise"))
    state = mechanism.initial_state()
    with pytest.raises(MechanismMisused):
        mechanism.postprocess(
            state, OpenedSum(np.zeros(COUNT * 2, dtype=np.int64), ()), round_number=1
        )
    with pytest.raises(MechanismMisused):
        mechanism.postprocess(
            state, OpenedSum(np.zeros(COUNT * 2 + 1, dtype=np.int64), ("small-1",)), round_number=1
        )


def test_two_releases_of_the_same_logits_differ() -> None:
    mechanism = LogitNoise(setting_of("logit_noise"))
    state = mechanism.initial_state()
    releases = [mechanism.prepare(state, logits(1.0))(draw_share) for _ in range(2)]
    assert not np.array_equal(releases[0], releases[1])
