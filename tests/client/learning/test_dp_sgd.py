"""DP-SGD by patient: what one patient can change, what is drawn, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.charters import MECHANISMS, make_charter_kit
from support.learning import silent
from support.site import PUBLIC_SET, patients
from torch import Tensor, nn
from torch.nn import functional

from fedhelp_client import dp_sgd
from fedhelp_client.dp_sgd import DpSgdMechanism, gradient_sum, patient_gradient, train_privately
from fedhelp_client.dp_sgd_models import (
    SIDE,
    ModelNotPrivate,
    PatientGradients,
    PatientRows,
    check_model,
    first_model,
    group_norm_cnn,
    head_patients,
    network_patients,
)
from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.mechanisms import MechanismMisused, Setting
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.parameters import Sensitivity
from fedhelp_secure.privacy.probe import PatientsRefused
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.opening import OpenedSum

KIT = make_charter_kit()
COUNT = len(PUBLIC_SET.images)


def charter_of(epsilon: str = "3", **parameters: object) -> Charter:
    overrides = copy.deepcopy(MECHANISMS["dp_sgd"])
    overrides["privacy"]["dp_sgd"] |= parameters
    overrides["privacy"]["epsilon"] = epsilon
    return KIT.charter(
        **overrides,
        classes=["benign", "malignant"],
        proxy={"count": COUNT},
        probe={"dimension": 4, "ridge": "0.001"},
    )


def setting_of(epsilon: str = "3", **parameters: object) -> Setting:
    return Setting(charter_of(epsilon, **parameters), PUBLIC_SET, "small-1")


def network_rows(count: int) -> list[PatientRows]:
    """``count`` patients; the second half has two images each."""
    generator = torch.Generator().manual_seed(4)
    names = [f"p{number}" for number in range(count)] + [f"p{n}" for n in range(count // 2, count)]
    images = torch.rand(len(names), 1, SIDE, SIDE, generator=generator)
    targets = np.eye(2)[[int(name[1:]) % 2 for name in names]]
    return network_patients(images, targets, names)


CASES = [("linear_head", head_patients(patients(6))), ("group_norm_cnn", network_rows(6))]


@pytest.mark.parametrize(("model", "people"), CASES, ids=["head", "network"])
def test_a_patients_gradient_is_the_mean_over_their_rows(
    model: str, people: Sequence[PatientRows]
) -> None:
    charter = charter_of(model=model)
    gradients = PatientGradients(first_model(charter))
    plain = first_model(charter)
    for patient in people[-2:]:
        parts = []
        for row, target in zip(patient.rows, patient.targets, strict=True):
            plain.zero_grad()
            functional.cross_entropy(plain(row[None]), target[None]).backward()  # type: ignore[no-untyped-call]
            grads = [weight.grad for weight in plain.parameters()]
            parts.append(torch.cat([grad.ravel() for grad in grads if grad is not None]))
        expected = torch.stack(parts).mean(dim=0).numpy()
        np.testing.assert_allclose(gradients.gradient(patient), expected, atol=1e-6)


@pytest.mark.parametrize(("model", "people"), CASES, ids=["head", "network"])
def test_one_patient_more_adds_one_vector_within_the_clip_exactly(
    model: str, people: Sequence[PatientRows]
) -> None:
    setting = setting_of(model=model)
    gradients = PatientGradients(first_model(setting.charter))
    clip = setting.charter.privacy.clip_units
    whole = gradient_sum(setting, gradients, people)
    for left_out in range(len(people)):
        others = [patient for number, patient in enumerate(people) if number != left_out]
        change = whole - gradient_sum(setting, gradients, others)
        own = patient_gradient(setting, gradients, people[left_out])
        assert np.array_equal(change, own)
        assert 0 < sum(entry**2 for entry in change.tolist()) <= clip**2


def test_a_patients_many_images_count_as_one_patient() -> None:
    setting = setting_of()
    gradients = PatientGradients(first_model(setting.charter))
    (one,) = head_patients(patients(1))
    many = PatientRows(
        one.rows.repeat(50, 1),
        one.targets.repeat(50, 1),
        torch.full((50,), 1 / 50, dtype=torch.float64),
    )
    change = patient_gradient(setting, gradients, many) - patient_gradient(setting, gradients, one)
    assert np.abs(change).max() <= 1


def test_a_large_gradient_is_clipped_in_integers() -> None:
    setting = setting_of()
    gradients = PatientGradients(first_model(setting.charter))
    (one,) = head_patients(patients(1))
    huge = PatientRows(1e4 * one.rows, one.targets, one.shares)
    entries = patient_gradient(setting, gradients, huge).tolist()
    clip = setting.charter.privacy.clip_units
    assert 0.99 * clip**2 < sum(entry**2 for entry in entries) <= clip**2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_patient_without_a_finite_gradient_stops_nothing(value: float) -> None:
    """An error that depends on a patient would tell of the patient."""
    setting = setting_of()
    gradients = PatientGradients(first_model(setting.charter))
    (one,) = head_patients(patients(1))
    broken = PatientRows(torch.full_like(one.rows, value), one.targets, one.shares)
    entries = patient_gradient(setting, gradients, broken).tolist()
    assert sum(entry**2 for entry in entries) <= setting.charter.privacy.clip_units**2
    release = DpSgdMechanism(setting, silent).prepare(np.zeros(0), [broken] * 5)(draw_share)
    assert (release >= 0).all()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)),
        nn.Sequential(nn.BatchNorm1d(4, affine=False, track_running_stats=False), nn.Linear(4, 2)),
        nn.Sequential(nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
        nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True), nn.Linear(4, 2)),
        nn.LSTM(4, 2),
    ],
    ids=[
        "batch norm",
        "of rows",
        "without weights",
        "without memory",
        "running statistics",
        "running without weights",
        "not per row",
    ],
)
def test_a_model_that_mixes_patients_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelNotPrivate, match="Use group normalisation"):
        check_model(model)
    with pytest.raises(ModelNotPrivate):
        PatientGradients(model)


def test_the_models_that_a_charter_can_choose_are_accepted() -> None:
    for model in ("linear_head", "group_norm_cnn"):
        check_model(first_model(charter_of(model=model)))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in group_norm_cnn(3).modules())


def test_first_weights_are_the_charters_and_nobody_elses() -> None:
    charter = charter_of(model="group_norm_cnn")
    one, again = (PatientGradients(first_model(charter)).vector for _ in range(2))
    assert np.array_equal(one, again)
    other = charter.model_copy(update={"name": "other"})
    assert not np.array_equal(one, PatientGradients(first_model(other)).vector)
    assert 0.01 < one.std() < 1


def recorded(
    monkeypatch: pytest.MonkeyPatch, sampled: list[int]
) -> tuple[list[tuple[int, Fraction]], list[tuple[int, int]]]:
    """What was asked of the sampler, which gives ``sampled``, and of the noise, which is zero."""
    samples: list[tuple[int, Fraction]] = []
    draws: list[tuple[int, int]] = []

    def sample(count: int, rate: Fraction) -> list[int]:
        samples.append((count, rate))
        return sampled

    monkeypatch.setattr(dp_sgd, "poisson_sample", sample)
    return samples, draws


@pytest.mark.parametrize("count", [3, 6])
def test_a_step_divides_by_the_public_number_whoever_is_there(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    setting = setting_of(steps=1)
    samples, draws = recorded(monkeypatch, [0, 1])
    people = head_patients(patients(count))

    def source(values: int, scale_units: int) -> NDArray[np.int64]:
        draws.append((values, scale_units))
        return np.zeros(values, dtype=np.int64)

    trained = train_privately(setting, people, source, silent)
    gradients = PatientGradients(first_model(setting.charter))
    mean = gradient_sum(setting, gradients, people[:2]) / 4096 / (0.1 * 60)
    np.testing.assert_allclose(trained.vector, -2.0 * mean, atol=1e-6)
    assert samples == [(count, Fraction(1, 10))]
    assert draws == [(8, setting.charter.privacy.sigma_units)]


def test_every_step_has_its_own_noise_and_its_own_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = setting_of()
    samples, draws = recorded(monkeypatch, [])

    def source(values: int, scale_units: int) -> NDArray[np.int64]:
        draws.append((values, scale_units))
        return draw_share(values, scale_units)

    # Even a step whose sample is empty is noised: whether it was is nobody's business.
    train_privately(setting, head_patients(patients(3)), source, silent)
    assert len(samples) == len(draws) == 20


def test_two_trainings_differ_and_torchs_generator_has_no_part_in_them() -> None:
    setting = setting_of()
    people = head_patients(patients(6))
    mechanism = DpSgdMechanism(setting, silent)
    releases = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)
        before = torch.get_rng_state()
        releases.append(mechanism.prepare(mechanism.initial_state(), people)(draw_share))
        assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(releases[0], releases[1])


def test_with_little_noise_it_learns_what_a_linear_model_can() -> None:
    setting = setting_of("200", steps=60, sampling_rate="0.5", nominal_patients=30)
    features = torch.from_numpy(PUBLIC_SET.features[:, 0].copy())
    classes = (features[:, 0] > features[:, 1]).long()
    people = [
        PatientRows(row[None], functional.one_hot(label, 2).float()[None], torch.ones(1).double())
        for row, label in zip(features, classes, strict=True)
    ]
    mechanism = DpSgdMechanism(setting, silent)
    state = mechanism.initial_state()
    release = mechanism.prepare(state, people)(draw_share)
    assert release.min() >= 0
    assert release.max() <= 4096
    opened = 2 * release
    labels = mechanism.labels(
        mechanism.postprocess(state, OpenedSum(opened, ("large-1",)), round_number=1)
    )
    assert (labels.proxies[:, 0].argmax(axis=1) == classes.numpy()).mean() > 0.85
    np.testing.assert_allclose(labels.proxies.sum(axis=2), 1)


def test_the_network_releases_labels_of_the_proxy_images() -> None:
    setting = setting_of(model="group_norm_cnn", steps=2)
    mechanism = DpSgdMechanism(setting, silent)
    release = mechanism.prepare(mechanism.initial_state(), network_rows(3))(draw_share)
    assert release.shape == (COUNT * 2,)
    assert np.abs(release.reshape(COUNT, 2).sum(axis=1) - 4096).max() <= 1


def test_patch_tokens_are_rows_and_get_labels_of_their_own() -> None:
    """As in segmentation: four rows an image, in patients and in proxies."""
    features = np.tile(PUBLIC_SET.features, (1, 4, 1))
    public_set = PublicSet(PUBLIC_SET.images, features, PUBLIC_SET.projection)
    setting = Setting(charter_of(tokens=4), public_set, "small-1")
    mechanism = DpSgdMechanism(setting, silent)
    state = mechanism.initial_state()
    release = mechanism.prepare(state, head_patients(patients(6)))(draw_share)
    assert release.shape == (COUNT * 4 * 2,)
    labels = mechanism.labels(
        mechanism.postprocess(state, OpenedSum(release, ("small-1",)), round_number=1)
    )
    assert labels.proxies.shape == (COUNT, 4, 2)
    np.testing.assert_allclose(labels.proxies[:, 0], labels.proxies[:, 3], atol=1e-3)


def test_the_plan_states_the_steps() -> None:
    (spec,) = DpSgdMechanism(setting_of(), silent).plan()
    assert spec.sensitivity == Sensitivity(Fraction(3276), "sampled-clipped-sum")
    mechanism = DpSgdMechanism(setting_of(), silent)
    people = head_patients(patients(4))
    query = mechanism.contribution(mechanism.initial_state(), people)
    assert np.array_equal(query, mechanism.contribution(mechanism.initial_state(), people[::-1]))


def rows(features: Tensor) -> PatientRows:
    return PatientRows(features, torch.tensor([[1.0, 0.0]]), torch.ones(1).double())


def test_what_costs_no_budget_is_refused_before_the_debit() -> None:
    mechanism = DpSgdMechanism(setting_of(), silent)
    state = mechanism.initial_state()
    with pytest.raises(PatientsRefused, match="no patients"):
        mechanism.prepare(state, [])
    with pytest.raises(PatientsRefused, match="more patients than the charter"):
        mechanism.prepare(state, [rows(torch.zeros(1, 4))] * 501)
    with pytest.raises(PatientsRefused, match="shape"):
        mechanism.prepare(state, [rows(torch.zeros(1, 5))])
    other = Setting(KIT.charter(), PUBLIC_SET, "small-1")
    with pytest.raises((MechanismMisused, ModelNotPrivate)):
        DpSgdMechanism(other, silent).prepare(state, [rows(torch.zeros(1, 4))])
