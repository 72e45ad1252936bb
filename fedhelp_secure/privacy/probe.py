"""The probe: a functional gradient in a public feature space, one bounded vector a patient.

For every row (an image, or a patch token of one) of patient p, with projected public feature z and
target y, the residual is r = y - softmax(F z), F the current public model. The patient's vector is
the weighted mean of outer(z, r) over all rows, on the integer grid, clipped to L2 norm
``clip_units``. A hospital's query is the sum over its patients.

Sensitivity. A patient's vector is computed from that patient's rows and public values only, one
patient at a time: a matrix product over several patients could round one patient's numbers
differently when another joins or leaves. The sum is a sum of integers. So adding or removing one
patient, whatever the number of images, pixels or other patients, changes the query by one vector,
whose norm was checked in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, sqrt

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, InternalError
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.fixed_point import quantise, to_real

_TOLERANCE = 1e-3
_LARGEST_MODEL_ENTRY = 1e30
_MOST_STEPS = 5000
_FLAT = 1e-10
"""A slope under this is zero: far under one grid unit over the patients of any federation."""


class PatientsRefused(ConfigurationError):
    """This hospital's patients cannot be released as they are: nothing was debited."""

    code = "patients"


class ProbeMisused(InternalError):
    """Model, features and charter do not fit one another."""

    code = "probe"


@dataclass(frozen=True, slots=True, eq=False)
class PatientExamples:
    """All rows of one patient.

    Raises PatientsRefused unless every value is finite, every feature has norm at most 1, every
    target is a distribution over the classes, and the weights are not negative with a positive sum.
    """

    features: NDArray[np.float64]
    """[n, D], as `fedhelp_secure.public_set.Projection.apply` makes them."""
    targets: NDArray[np.float64]
    """[n, C], each row a distribution over the classes."""
    weights: NDArray[np.float64]
    """[n], of the rows in the patient's mean."""

    def __post_init__(self) -> None:
        for name in ("features", "targets", "weights"):
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if array.size == 0 or not np.isfinite(array).all():
                raise PatientsRefused(
                    f"a patient's {name} are empty or not finite; mend the image or its label."
                )
            object.__setattr__(self, name, array)
        rows = self.features.shape[:1]
        if self.features.ndim != 2 or self.targets.ndim != 2 or self.weights.ndim != 1:
            raise PatientsRefused("a patient's rows do not have the shapes [n, D], [n, C] and [n].")
        if self.targets.shape[:1] != rows or self.weights.shape != rows:
            raise PatientsRefused("a patient's features, targets and weights differ in number.")
        if np.linalg.norm(self.features, axis=1).max() > 1 + _TOLERANCE:
            raise PatientsRefused("a patient's features are not projected to norm 1; project them.")
        sums = self.targets.sum(axis=1)
        if self.targets.min() < 0 or np.abs(sums - 1).max() > _TOLERANCE:
            raise PatientsRefused("a patient's target is not a distribution over the classes.")
        if self.weights.min() < 0 or not 0 < self.weights.sum() < np.inf:
            raise PatientsRefused("a patient's weights must not be negative, and not all zero.")


def initial_model(charter: Charter) -> NDArray[np.float64]:
    """The public model before the first round: zeros, shape [D, C]."""
    return np.zeros(_shape(charter))


def soft_labels(
    model: NDArray[np.float64], features: NDArray[np.floating], temperature: float = 1.0
) -> NDArray[np.float64]:
    """softmax(features @ model / temperature), shape [..., C] for features [..., D].

    Raises ProbeMisused unless the last axis of ``features`` has D entries and the temperature is
    positive.
    """
    if model.ndim != 2 or features.shape[-1:] != model.shape[:1] or not temperature > 0:
        raise ProbeMisused("features, model and temperature do not fit one another.")
    logits = features.astype(np.float64) @ model / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    labels: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return labels


def contribution(
    charter: Charter, model: NDArray[np.float64], patients: Sequence[PatientExamples]
) -> NDArray[np.int64]:
    """The sum of the patients' clipped vectors in grid units, shape [D * C]; holds no noise yet.

    Raises PatientsRefused without patients, or with more than the charter's ``maximum_patients``.
    """
    # Nothing to release: a hospital that sent noise alone would only add noise.
    if not patients:
        raise PatientsRefused("this hospital has no patients to release; it cannot take part.")
    # Refused, never truncated: in a full list the arrival of one patient displaces another, so
    # that neighbouring data differ in two patients and the sensitivity is twice the clip.
    if len(patients) > charter.privacy.maximum_patients:
        raise PatientsRefused(
            "this hospital has more patients than the charter allows; "
            "ask for a charter with a higher maximum_patients."
        )
    total = np.zeros(charter.secure_sum.values, dtype=np.int64)
    for patient in patients:
        total += patient_vector(charter, model, patient)
    return total


def patient_vector(
    charter: Charter, model: NDArray[np.float64], patient: PatientExamples
) -> NDArray[np.int64]:
    """One patient's vector in grid units, shape [D * C], L2 norm at most ``clip_units``.

    Raises ProbeMisused unless ``model`` and ``patient`` have the charter's dimensions.
    """
    _check_model(charter, model)
    dimension, classes = model.shape
    if patient.features.shape[1] != dimension or patient.targets.shape[1] != classes:
        raise ProbeMisused("a patient's rows do not have the charter's dimension and classes.")
    residuals = patient.targets - soft_labels(model, patient.features)
    shares = patient.weights / patient.weights.sum()
    mean = patient.features.T @ (shares[:, np.newaxis] * residuals)
    integers = quantise(mean.reshape(-1), charter.secure_sum.fraction_bits)
    return clip(integers, charter.privacy.clip_units)


def clip(integers: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """``integers`` if their L2 norm is at most ``bound``, else scaled down towards zero.

    With s the root of the sum of squares, rounded up, every entry becomes x * bound / s, rounded
    towards zero: no magnitude exceeds |x| * bound / norm, so that the norm is at most ``bound``.
    Python integers throughout: nothing overflows or rounds.
    """
    entries: list[int] = integers.tolist()
    squares = sum(entry * entry for entry in entries)
    if squares <= bound * bound:
        return integers
    root = isqrt(squares - 1) + 1
    scaled = [(abs(entry) * bound // root) * (1 if entry > 0 else -1) for entry in entries]
    if sum(entry * entry for entry in scaled) > bound * bound:
        raise ProbeMisused("clipping did not keep the bound; please report this.")
    return np.array(scaled, dtype=np.int64)


def apply_step(
    charter: Charter,
    public_set: PublicSet,
    model: NDArray[np.float64],
    opened: NDArray[np.int64],
    *,
    round_number: int,
) -> NDArray[np.float64]:
    """The public model after the opened sum of round ``round_number`` (from 1), shape [D, C].

    Only public values and opened sums enter it, so that it costs no privacy. With G the sum as
    reals over ``nominal_patients``, A the second moment of the proxy features and F the model:

    gradient: F + step (A + ridge I)^-1 G.

    moments: logistic regression from sums. Its likelihood needs the patients only through the mean
    of z y^T, which the mean of z softmax(F z) over the proxies plus G estimates, and through the
    mean of log sum exp(F z), which is taken over the proxies. Estimates of all rounds count alike,
    so that later rounds correct where the proxies differ from the patients and noise averages out.
    ``step`` is not used.

    Raises ProbeMisused unless the shapes are the charter's and the rounds are counted from 1.
    """
    _check_model(charter, model)
    if opened.shape != (charter.secure_sum.values,):
        raise ProbeMisused("the opened sum does not have the charter's number of values.")
    if public_set.projection.dimension != charter.probe.dimension:
        raise ProbeMisused("the public set does not have the charter's dimension.")
    if round_number < 1:
        raise ProbeMisused("rounds are counted from 1.")
    rows = public_set.features.reshape(-1, charter.probe.dimension).astype(np.float64)
    gradient = to_real(opened, charter.secure_sum.fraction_bits).reshape(model.shape)
    gradient /= charter.probe.nominal_patients
    ridge = float(charter.probe.ridge)
    if charter.probe.update == "gradient":
        return model + float(charter.probe.step) * (
            _inverse(rows.T @ rows / len(rows), ridge) @ gradient
        )
    # The model before is where gradient and ridge of the rounds so far balance, so that it tells
    # the mean of their estimates: mean z softmax(F z) + ridge F.
    before = rows.T @ soft_labels(model, rows) / len(rows)
    moments = before + ((round_number - 1) * ridge * model + gradient) / round_number
    return fit_moments(rows, moments, ridge=ridge, start=model)


def fit_moments(
    rows: NDArray[np.float64],
    moments: NDArray[np.float64],
    *,
    ridge: float,
    start: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The model [D, C] at which mean z softmax(F z) + ridge F over ``rows`` [N, D] is ``moments``.

    The mean is weighted by ``weights`` [N], which are not negative and sum to 1, if they are given.

    It minimises the mean of log sum exp(F z) - <F, moments> + ridge / 2 |F|^2, by accelerated steps
    under a bound of the curvature that holds everywhere (Boehning 1992). Raises ProbeMisused if
    ``ridge`` leaves that bound singular.
    """
    shares = np.full(len(rows), 1 / len(rows)) if weights is None else weights
    weighted = shares[:, np.newaxis] * rows
    # Half the second moment and the ridge bound the curvature.
    curvature = _inverse(weighted.T @ rows / 2, ridge)
    fitted, ahead, weight = start, start, 1.0
    for _ in range(_MOST_STEPS):
        slope = weighted.T @ soft_labels(ahead, rows) + ridge * ahead - moments
        if np.abs(slope).max() < _FLAT:
            break
        following = ahead - curvature @ slope
        next_weight = (1 + sqrt(1 + 4 * weight**2)) / 2
        # Momentum that points uphill is dropped (O'Donoghue and Candes 2015).
        if (slope * (following - fitted)).sum() > 0:
            next_weight = 1.0
        momentum = (weight - 1) / next_weight
        ahead = following + momentum * (following - fitted)
        fitted, weight = following, next_weight
    return ahead


def _inverse(moment: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    ridged = moment + ridge * np.eye(len(moment))
    try:
        return np.linalg.inv(ridged).astype(np.float64)
    except np.linalg.LinAlgError as error:
        raise ProbeMisused(
            "the proxy features are degenerate; choose a charter with a larger ridge."
        ) from error


def _shape(charter: Charter) -> tuple[int, int]:
    shape = (charter.probe.dimension, len(charter.classes))
    if shape[0] * shape[1] != charter.secure_sum.values:
        raise ProbeMisused("the charter's number of values is not dimension times classes.")
    return shape


def _check_model(charter: Charter, model: NDArray[np.float64]) -> None:
    if model.shape != _shape(charter) or not (np.abs(model) < _LARGEST_MODEL_ENTRY).all():
        raise ProbeMisused("the public model does not have the charter's shape, or is not finite.")
