"""DP-SGD whose unit is the patient: `fedhelp_secure.privacy.mechanisms.Mechanism` by training.

Each of T steps (Abadi et al. 2016, per patient as McMahan et al. 2018):

1. Sample patients, each with probability q, by the operating system's coins.
2. For each of them, alone: the mean of the per-image gradients (Opacus' GradSampleModule), on the
   integer grid, clipped to L2 norm ``clip_units``, checked in integers.
3. Sum the integers and add discrete Gaussian noise of scale ``sigma_units``.
4. Step by the learning rate times the noised sum over q * ``nominal_patients``.

q, T and the nominal number are the charter's. Opacus' own engine is not used: it derives q and the
divisor from the number of records, which one can then read off a step, samples images, and draws
noise from a generator that can be repeated. Nothing here fails, stops or takes another path because
of a patient: a gradient that is not finite counts as zero.

The trained model's soft labels on the proxy set are post-processing. They go through the secure sum
without further noise, so that both epsilons are the same: every hospital's own noise protects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhelp_client.dp_sgd_models import (
    SIDE,
    PatientGradients,
    PatientRows,
    first_model,
    standard,
)
from fedhelp_client.progress import ProgressCallback
from fedhelp_client.training import images_tensor
from fedhelp_secure.privacy.mechanisms import (
    MechanismMisused,
    NoiseSource,
    PreparedRelease,
    PublicLabels,
    PublicState,
    ReleaseSpec,
    Setting,
    labels_of,
    mean_of_sum,
)
from fedhelp_secure.privacy.parameters import DpSgd, MechanismName
from fedhelp_secure.privacy.probe import PatientsRefused, clip
from fedhelp_secure.privacy.sampling import poisson_sample
from fedhelp_secure.secure_sum.fixed_point import quantise, to_real
from fedhelp_secure.secure_sum.opening import OpenedSum

_LARGEST_GRADIENT = 1e6
"""Of one entry, before it is clipped in norm: the grid holds it whatever a patient's image is."""
_LARGEST_WEIGHT = 1e4
"""Of the model: noise cannot drive it where nothing is finite."""
_PROGRESS_STEPS = 10


@dataclass(frozen=True, slots=True)
class DpSgdMechanism:
    """DP-SGD as a mechanism; takes a hospital's patients as the charter's model does."""

    setting: Setting
    progress: ProgressCallback
    name: MechanismName = "dp_sgd"

    def plan(self) -> tuple[ReleaseSpec, ...]:
        """See `Mechanism.plan`."""
        return self.setting.plan()

    def initial_state(self) -> PublicState:
        """Labels that say nothing."""
        count, tokens, _ = self.setting.public_set.features.shape
        classes = len(self.setting.charter.classes)
        return np.full((count, tokens, classes), 1 / classes)

    def contribution(self, state: PublicState, inputs: Sequence[PatientRows]) -> NDArray[np.int64]:
        """The first step's query, with ``inputs`` as the sample, at the public first weights."""
        gradients = PatientGradients(first_model(self.setting.charter))
        return gradient_sum(self.setting, gradients, inputs)

    def prepare(self, state: PublicState, inputs: Sequence[PatientRows]) -> PreparedRelease:
        """Check model and patients; the training is what is called after the debit.

        Raises ModelNotPrivate, or PatientsRefused without patients or with more than the charter's
        ``maximum_patients``.
        """
        first = PatientGradients(first_model(self.setting.charter))
        proxies = self._proxy_rows()
        # All of the public part once, so that a mistake in it costs no budget.
        _, classes = first.soft_labels(proxies).shape
        if not inputs:
            raise PatientsRefused("this hospital has no patients to release; it cannot take part.")
        if len(inputs) > self.setting.charter.privacy.maximum_patients:
            raise PatientsRefused(
                "this hospital has more patients than the charter allows; "
                "ask for a charter with a higher maximum_patients."
            )
        for patient in inputs:
            if patient.rows.shape[1:] != proxies.shape[1:] or patient.targets.shape[1] != classes:
                raise PatientsRefused(
                    "a patient's rows do not have the shape that the charter's model takes."
                )
        return lambda draw: self._release(inputs, draw)

    def postprocess(
        self, state: PublicState, opened: OpenedSum, *, round_number: int
    ) -> PublicState:
        """The weighted mean of the hospitals' labels, [N, T, C]."""
        return mean_of_sum(self.setting, opened)

    def labels(self, state: PublicState) -> PublicLabels:
        """The mean labels, each row scaled to sum 1."""
        positive = np.maximum(state, 1e-9)
        return labels_of(self.setting, positive / positive.sum(axis=-1, keepdims=True))

    def _release(self, inputs: Sequence[PatientRows], draw: NoiseSource) -> NDArray[np.int64]:
        gradients = train_privately(self.setting, inputs, draw, self.progress)
        labels = gradients.soft_labels(self._proxy_rows())
        return quantise(labels.reshape(-1), self.setting.charter.secure_sum.fraction_bits)

    def _proxy_rows(self) -> Tensor:
        public_set = self.setting.public_set
        if _parameters(self.setting).model == "linear_head":
            return torch.tensor(public_set.features.reshape(-1, public_set.features.shape[2]))
        return standard(images_tensor(list(public_set.images), SIDE))


def train_privately(
    setting: Setting,
    patients: Sequence[PatientRows],
    draw: NoiseSource,
    progress: ProgressCallback,
) -> PatientGradients:
    """The charter's model after its T noised steps; see the module's text for one step."""
    torch.set_num_threads(1)
    parameters = _parameters(setting)
    charter = setting.charter
    divisor = float(parameters.rate * parameters.nominal_patients)
    rate = float(parameters.learning_rate) / divisor
    gradients = PatientGradients(first_model(charter))
    vector = gradients.vector
    for step in range(1, parameters.steps + 1):
        sampled = [patients[index] for index in poisson_sample(len(patients), parameters.rate)]
        noised = gradient_sum(setting, gradients, sampled)
        noised += draw(len(noised), charter.privacy.sigma_units)
        vector -= rate * to_real(noised, charter.secure_sum.fraction_bits)
        np.clip(vector, -_LARGEST_WEIGHT, _LARGEST_WEIGHT, out=vector)
        gradients.set_vector(vector)
        if step % _PROGRESS_STEPS == 0 or step == parameters.steps:
            progress("private training", step, parameters.steps)
    return gradients


def gradient_sum(
    setting: Setting, gradients: PatientGradients, sampled: Sequence[PatientRows]
) -> NDArray[np.int64]:
    """The sum of the sampled patients' clipped gradients in grid units, [P]; holds no noise yet."""
    total = np.zeros(gradients.vector.size, dtype=np.int64)
    for patient in sampled:
        total += patient_gradient(setting, gradients, patient)
    return total


def patient_gradient(
    setting: Setting, gradients: PatientGradients, patient: PatientRows
) -> NDArray[np.int64]:
    """One patient's mean gradient in grid units, [P], L2 norm at most ``clip_units``."""
    mean = gradients.gradient(patient)
    bounded = np.clip(
        np.nan_to_num(mean, nan=0.0, posinf=0.0, neginf=0.0), -_LARGEST_GRADIENT, _LARGEST_GRADIENT
    )
    integers = quantise(bounded, setting.charter.secure_sum.fraction_bits)
    return clip(integers, setting.charter.privacy.clip_units)


def _parameters(setting: Setting) -> DpSgd:
    parameters = setting.charter.privacy.dp_sgd
    if parameters is None:
        raise MechanismMisused("the charter does not choose dp_sgd.")
    return parameters
