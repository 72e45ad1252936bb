from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.charters import make_charter_kit

from fedhelp_secure.charter import CharterRefused
from fedhelp_secure.privacy.probe import (
    PatientExamples,
    PatientsRefused,
    ProbeMisused,
    apply_step,
    clip,
    contribution,
    fit_moments,
    initial_model,
    patient_vector,
    soft_labels,
)
from fedhelp_secure.public_set import PublicSet, fit_projection

KIT = make_charter_kit()
CHARTER = KIT.charter()
DIMENSION, CLASSES = 4, 3
CLIP = CHARTER.privacy.clip_units
GRID = 2**CHARTER.secure_sum.fraction_bits


def norm_squared(vector: NDArray[np.int64]) -> int:
    return sum(int(entry) ** 2 for entry in vector)


@st.composite
def patients(draw: st.DrawFn) -> PatientExamples:
    """Any patient: one or many rows, any directions, soft or hard targets, any weights."""
    rows = draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = generator.normal(size=(rows, DIMENSION)) ** draw(st.sampled_from([1, 3]))
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features *= draw(st.sampled_from([1.0, 1.0, 0.01, 0.0])) / np.maximum(lengths, 1e-9)
    if draw(st.booleans()):
        # Every row alike, with the same label: the largest vector a patient can have.
        features[:] = features[0]
    targets = np.eye(CLASSES)[generator.integers(0, CLASSES, rows)]
    if draw(st.booleans()):
        targets = generator.dirichlet(np.full(CLASSES, 0.3), rows)
    weights = draw(
        st.sampled_from([np.ones(rows), generator.uniform(size=rows), np.full(rows, 1e-300)])
    )
    return PatientExamples(features, targets, weights)


models = st.builds(
    lambda seed, scale: scale * np.random.default_rng(seed).normal(size=(DIMENSION, CLASSES)),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.1, 1.0, 100.0, 1e20]),
)


@given(models, st.lists(patients(), min_size=1, max_size=5), patients(), st.integers(0, 5))
@settings(deadline=None)
def test_one_patient_moves_the_query_by_one_clipped_integer_vector(
    model: NDArray[np.float64],
    others: list[PatientExamples],
    patient: PatientExamples,
    position: int,
) -> None:
    place = min(position, len(others))
    without = contribution(CHARTER, model, others)
    joined = contribution(CHARTER, model, [*others[:place], patient, *others[place:]])
    difference = joined - without
    assert difference.dtype == np.int64
    assert norm_squared(difference) <= CLIP**2
    assert np.array_equal(difference, patient_vector(CHARTER, model, patient))


@given(models, st.lists(patients(), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_query_is_the_sum_over_patients_in_any_order(
    model: NDArray[np.float64], cohort: list[PatientExamples], order: object
) -> None:
    total = np.sum([patient_vector(CHARTER, model, patient) for patient in cohort], axis=0)
    assert np.array_equal(contribution(CHARTER, model, cohort), total)
    shuffled = list(cohort)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert np.array_equal(contribution(CHARTER, model, shuffled), total)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=8), st.integers(1, 2**40))
def test_the_clip_is_exact_in_integers(entries: list[int], bound: int) -> None:
    vector = np.array(entries, dtype=np.int64)
    clipped = clip(vector, bound)
    squares = sum(entry * entry for entry in entries)
    assert norm_squared(clipped) <= bound**2
    if squares <= bound**2:
        assert np.array_equal(clipped, vector)
        return
    for before, after in zip(entries, clipped.tolist(), strict=True):
        assert before * after >= 0
        assert after**2 * squares <= (before * bound) ** 2
        # Rounding towards zero, and the root rounded up, cost less than two units an entry.
        assert (abs(after) + 2) ** 2 * squares > (before * bound) ** 2


@pytest.mark.parametrize(
    ("entries", "bound"), [([3, 4], 5), ([-5], 5), ([0, 0], 1), ([3, -4, 0], 5)]
)
def test_a_vector_on_the_bound_is_kept(entries: list[int], bound: int) -> None:
    assert clip(np.array(entries), bound).tolist() == entries


def test_a_vector_just_over_the_bound_is_not() -> None:
    assert clip(np.array([3, 5]), 5).tolist() == [2, 4]


def test_the_vector_is_the_weighted_mean_of_outer_products() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(5, DIMENSION))
    features /= 4 * np.linalg.norm(features, axis=1, keepdims=True)
    targets = np.eye(CLASSES)[[0, 2, 1, 1, 0]]
    weights = np.array([1.0, 2.0, 0.0, 4.0, 0.5])
    model = generator.normal(size=(DIMENSION, CLASSES))
    expected = np.zeros((DIMENSION, CLASSES))
    for feature, target, weight in zip(features, targets, weights, strict=True):
        logits = feature @ model
        label = np.exp(logits) / np.exp(logits).sum()
        expected += weight * np.outer(feature, target - label) / weights.sum()
    vector = patient_vector(CHARTER, model, PatientExamples(features, targets, weights))
    assert np.abs(vector - GRID * expected.reshape(-1)).max() <= 0.5 + 1e-6


def test_a_patient_already_explained_gives_a_zero_vector() -> None:
    features = np.full((2, DIMENSION), 0.5)
    model = np.zeros((DIMENSION, CLASSES))
    targets = np.full((2, CLASSES), 1 / CLASSES)
    vector = patient_vector(CHARTER, model, PatientExamples(features, targets, np.ones(2)))
    assert not vector.any()
    nothing = PatientExamples(np.zeros((1, DIMENSION)), np.eye(CLASSES)[:1], np.ones(1))
    assert not contribution(CHARTER, model, [nothing]).any()


def test_a_patients_vector_does_not_depend_on_where_its_rows_lie_in_memory() -> None:
    generator = np.random.default_rng(2)
    rows = 1283
    features = generator.normal(size=(rows, DIMENSION))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    targets = np.eye(CLASSES)[generator.integers(0, CLASSES, rows)]
    model = generator.normal(size=(DIMENSION, CLASSES))
    seen = set()
    for offset in range(8):
        buffer = np.empty(rows * DIMENSION + 8)
        shifted = buffer[offset : offset + rows * DIMENSION].reshape(rows, DIMENSION)
        shifted[:] = features
        patient = PatientExamples(shifted, targets, np.ones(rows))
        seen.add(patient_vector(CHARTER, model, patient).tobytes())
    strided = np.zeros((rows, 3 * DIMENSION))
    strided[:, ::3] = features
    for layout in (strided[:, ::3], np.asfortranarray(features)):
        patient = PatientExamples(layout, targets, np.ones(rows))
        seen.add(patient_vector(CHARTER, model, patient).tobytes())
    assert len(seen) == 1


GOOD_FEATURES = np.full((3, DIMENSION), 0.25)
GOOD_TARGETS = np.eye(CLASSES)
GOOD_WEIGHTS = np.ones(3)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": np.full((3, DIMENSION), np.nan)},
        {"features": np.full((3, DIMENSION), np.inf)},
        {"features": np.full((3, DIMENSION), 2.0)},
        {"features": np.zeros((0, DIMENSION)), "targets": np.zeros((0, 3)), "weights": np.ones(0)},
        {"features": np.full(DIMENSION, 0.25)},
        {"features": GOOD_FEATURES[:2]},
        {"targets": GOOD_TARGETS * np.nan},
        {"targets": -GOOD_TARGETS},
        {"targets": 2 * GOOD_TARGETS},
        {"targets": GOOD_TARGETS - 0.5},
        {"targets": np.array([0.0, 1.0, 2.0])},
        {"weights": np.zeros(3)},
        {"weights": np.array([1.0, -0.5, 1.0])},
        {"weights": np.array([1.0, np.nan, 1.0])},
        {"weights": np.full(3, 1e308)},
        {"weights": np.ones(2)},
        {"weights": np.ones((3, 1))},
    ],
)
def test_rows_that_are_not_a_patients_are_refused(changes: dict[str, NDArray[np.float64]]) -> None:
    parts = {"features": GOOD_FEATURES, "targets": GOOD_TARGETS, "weights": GOOD_WEIGHTS}
    PatientExamples(**parts)
    with np.errstate(all="ignore"), pytest.raises(PatientsRefused) as refusal:
        PatientExamples(**{**parts, **changes})
    assert not any(character.isdigit() and character != "1" for character in str(refusal.value))


def good_patient() -> PatientExamples:
    return PatientExamples(GOOD_FEATURES, GOOD_TARGETS, GOOD_WEIGHTS)


def test_no_patient_and_too_many_are_refused() -> None:
    charter = KIT.charter(privacy={"maximum_patients": 3})
    model = initial_model(charter)
    with pytest.raises(PatientsRefused, match="no patients"):
        contribution(charter, model, [])
    contribution(charter, model, [good_patient()] * 3)
    with pytest.raises(PatientsRefused, match="more patients") as refusal:
        contribution(charter, model, [good_patient()] * 4)
    assert "4" not in str(refusal.value)


@pytest.mark.parametrize(
    "model",
    [
        np.zeros((DIMENSION, CLASSES + 1)),
        np.zeros(DIMENSION * CLASSES),
        np.full((DIMENSION, CLASSES), np.nan),
        np.full((DIMENSION, CLASSES), np.inf),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model: NDArray[np.float64]) -> None:
    with pytest.raises(ProbeMisused):
        contribution(CHARTER, model, [good_patient()])
    with pytest.raises(ProbeMisused):
        apply_step(CHARTER, public_set(), model, np.zeros(12, dtype=np.int64), round_number=1)


def test_a_charter_whose_values_do_not_fit_is_refused() -> None:
    with pytest.raises(CharterRefused, match=r"secure_sum\.values"):
        KIT.charter(secure_sum={"values": 13})
    unchecked = CHARTER.secure_sum.model_copy(update={"values": 13})
    with pytest.raises(ProbeMisused):
        initial_model(CHARTER.model_copy(update={"secure_sum": unchecked}))


def test_patients_of_another_shape_are_refused() -> None:
    wide = PatientExamples(np.zeros((1, DIMENSION + 1)), np.eye(CLASSES)[:1], np.ones(1))
    other = PatientExamples(np.zeros((1, DIMENSION)), np.eye(CLASSES + 1)[:1], np.ones(1))
    for patient in (wide, other):
        with pytest.raises(ProbeMisused):
            contribution(CHARTER, initial_model(CHARTER), [patient])


def public_set(tokens: int = 1) -> PublicSet:
    generator = np.random.default_rng(7)
    embeddings = generator.normal(size=(40, tokens, 10)).astype(np.float32)
    projection = fit_projection(embeddings, DIMENSION)
    images = generator.integers(0, 256, (40, 16, 16), dtype=np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)


@pytest.mark.parametrize("tokens", [1, 6])
def test_a_step_solves_the_ridge_system_for_the_mean_gradient(tokens: int) -> None:
    public = public_set(tokens)
    generator = np.random.default_rng(8)
    model = generator.normal(size=(DIMENSION, CLASSES))
    opened = generator.integers(-(10**6), 10**6, DIMENSION * CLASSES)
    stepped = apply_step(CHARTER, public, model, opened, round_number=1)
    moment = np.zeros((DIMENSION, DIMENSION))
    for row in public.features.reshape(-1, DIMENSION).astype(np.float64):
        moment += np.outer(row, row)
    moment /= public.features.shape[0] * tokens
    gradient = opened.reshape(DIMENSION, CLASSES) / (GRID * CHARTER.probe.nominal_patients)
    assert np.allclose((moment + 0.1 * np.eye(DIMENSION)) @ (stepped - model), gradient)
    assert np.array_equal(stepped, apply_step(CHARTER, public, model, opened, round_number=1))


def test_a_step_takes_its_size_from_the_charter() -> None:
    public, opened = public_set(), np.arange(12) * 1000
    once = apply_step(CHARTER, public, initial_model(CHARTER), opened, round_number=1)
    half = KIT.charter(probe={"step": "0.5"})
    assert np.allclose(
        2 * apply_step(half, public, initial_model(half), opened, round_number=1), once
    )
    twice_as_many = KIT.charter(probe={"nominal_patients": 100})
    slower = apply_step(twice_as_many, public, initial_model(twice_as_many), opened, round_number=1)
    assert np.allclose(2 * slower, once)


def test_a_step_refuses_what_does_not_fit() -> None:
    model = initial_model(CHARTER)
    with pytest.raises(ProbeMisused):
        apply_step(CHARTER, public_set(), model, np.zeros(11, dtype=np.int64), round_number=1)
    wider = KIT.charter(probe={"dimension": 5}, secure_sum={"values": 15})
    with pytest.raises(ProbeMisused):
        apply_step(
            wider, public_set(), initial_model(wider), np.zeros(15, dtype=np.int64), round_number=1
        )


def test_a_degenerate_public_set_without_ridge_is_refused() -> None:
    charter = KIT.charter(probe={"ridge": "0"})
    public = public_set()
    degenerate = np.zeros_like(public.features)
    flat = PublicSet(public.images, degenerate, public.projection)
    with pytest.raises(ProbeMisused, match="ridge"):
        apply_step(
            charter, flat, initial_model(charter), np.ones(12, dtype=np.int64), round_number=1
        )


def separable(count: int) -> tuple[PublicSet, list[PatientExamples], NDArray[np.int64]]:
    """A public set of 40, ``count`` patients like it, and the labels of the public set."""
    generator = np.random.default_rng(9)
    centres = 4 * generator.normal(size=(CLASSES, 10))
    labels = generator.integers(0, CLASSES, 40 + count)
    embeddings = (centres[labels] + generator.normal(size=(len(labels), 10))).astype(np.float32)
    projection = fit_projection(embeddings[:40], DIMENSION)
    rows = projection.apply(embeddings).astype(np.float64)
    images = generator.integers(0, 256, (40, 16, 16), dtype=np.uint8)
    public = PublicSet(images, rows[:40, np.newaxis].astype(np.float32), projection)
    people = [
        PatientExamples(rows[i : i + 1], np.eye(CLASSES)[labels[i : i + 1]], np.ones(1))
        for i in range(40, len(labels))
    ]
    return public, people, labels[:40]


@pytest.mark.parametrize("update", ["gradient", "moments"])
def test_rounds_learn_what_the_patients_show(update: str) -> None:
    """Without noise, three rounds on separable patients classify the proxy set."""
    public, people, labels = separable(200)
    charter = KIT.charter(probe={"nominal_patients": 200, "update": update})
    model = initial_model(charter)
    for number in (1, 2, 3):
        opened = contribution(charter, model, people)
        model = apply_step(charter, public, model, opened, round_number=number)
    right = soft_labels(model, public.features[:, 0]).argmax(axis=1) == labels
    assert right.mean() >= 0.95


def test_fitted_moments_are_those_asked_for() -> None:
    generator = np.random.default_rng(10)
    for ridge in (1.0, 0.1, 0.005):
        rows = generator.normal(size=(50, DIMENSION)) / 2
        weights = generator.dirichlet(np.ones(50))
        moments = generator.normal(size=(DIMENSION, CLASSES)) / 10
        start = generator.normal(size=(DIMENSION, CLASSES))
        for given_weights in (None, weights):
            fitted = fit_moments(rows, moments, ridge=ridge, start=start, weights=given_weights)
            means = np.full(50, 1 / 50) if given_weights is None else given_weights
            found = (means[:, np.newaxis] * rows).T @ soft_labels(fitted, rows) + ridge * fitted
            assert np.abs(found - moments).max() < 1e-9


def test_one_step_on_moments_is_logistic_regression_where_proxies_are_the_patients() -> None:
    public, _, labels = separable(0)
    rows = public.features[:, 0].astype(np.float64)
    people = [
        PatientExamples(row[np.newaxis], np.eye(CLASSES)[[label]], np.ones(1))
        for row, label in zip(rows, labels, strict=True)
    ]
    charter = KIT.charter(
        privacy={"clip_units": GRID}, probe={"nominal_patients": 40, "update": "moments"}
    )
    opened = contribution(charter, initial_model(charter), people)
    model = apply_step(charter, public, initial_model(charter), opened, round_number=1)
    slope = rows.T @ (np.eye(CLASSES)[labels] - soft_labels(model, rows)) / 40
    assert np.abs(slope - float(charter.probe.ridge) * model).max() < 2 / GRID


def test_estimates_of_all_rounds_count_alike() -> None:
    """Noise that cancels over the rounds leaves no trace, in whatever order it came."""
    public, people, _ = separable(200)
    charter = KIT.charter(probe={"nominal_patients": 200, "update": "moments"})
    noise = np.random.default_rng(11).integers(-4 * GRID, 4 * GRID, (2, DIMENSION * CLASSES))
    ends = []
    for added in ([noise[0], noise[1], -noise[0] - noise[1]], [-noise[0], noise[0], 0 * noise[0]]):
        model = initial_model(charter)
        before = contribution(charter, model, people)
        for number, drawn in enumerate(added, start=1):
            # The same statement about the patients each time, as seen from the model of the time.
            rows = public.features[:, 0].astype(np.float64)
            moved = rows.T @ (soft_labels(initial_model(charter), rows) - soft_labels(model, rows))
            shift = np.rint(moved / 40 * 200 * GRID).astype(np.int64).reshape(-1)
            opened = before + shift + drawn
            model = apply_step(charter, public, model, opened, round_number=number)
        ends.append(model)
    quiet = apply_step(charter, public, initial_model(charter), before, round_number=1)
    for end in ends:
        assert np.abs(end - quiet).max() < 1e-3
    assert np.abs(quiet).max() > 0.1


def test_rounds_are_counted_from_one() -> None:
    with pytest.raises(ProbeMisused, match="counted from 1"):
        apply_step(
            CHARTER,
            public_set(),
            initial_model(CHARTER),
            np.zeros(12, dtype=np.int64),
            round_number=0,
        )


@given(
    models,
    st.integers(0, 2**32),
    st.sampled_from([0.25, 1.0, 4.0]),
)
def test_soft_labels_are_distributions(
    model: NDArray[np.float64], seed: int, temperature: float
) -> None:
    features = np.random.default_rng(seed).normal(size=(2, 3, DIMENSION))
    labels = soft_labels(model, features, temperature)
    assert labels.shape == (2, 3, CLASSES)
    assert np.all(labels >= 0)
    assert np.allclose(labels.sum(axis=-1), 1)
    logits = features @ model
    assert np.array_equal(labels.argmax(axis=-1), logits.argmax(axis=-1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ProbeMisused):
        soft_labels(np.zeros((DIMENSION, CLASSES)), np.zeros((1, DIMENSION)), temperature)


def test_soft_labels_refuse_features_of_another_dimension() -> None:
    with pytest.raises(ProbeMisused):
        soft_labels(np.zeros((DIMENSION, CLASSES)), np.zeros((1, DIMENSION + 1)))


def test_five_hundred_patients_of_segmentation_take_less_than_a_second() -> None:
    dimension = 24
    charter = KIT.charter(probe={"dimension": dimension}, secure_sum={"values": 3 * dimension})
    generator = np.random.default_rng(10)
    rows = 5 * 256
    features = generator.normal(size=(rows, dimension))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    targets = np.eye(CLASSES)[generator.integers(0, CLASSES, rows)]
    people = [
        PatientExamples(np.roll(features, shift, axis=1), targets, np.ones(rows))
        for shift in range(500)
    ]
    started = time.process_time()
    query = contribution(charter, initial_model(charter), people)
    assert time.process_time() - started < 1.0
    assert query.any()
