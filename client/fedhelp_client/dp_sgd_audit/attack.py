"""Two worlds against DP-SGD: is the canary patient in the data, or not?

The adversary sees the trained weights, of which every released label is post-processing, and knows
every other patient. What is attacked is `fedhelp_client.dp_sgd.train_privately` itself, looked up
when it is called: sampling, gradients by patient, clipping in integers, noise and steps. The
canary's gradient is longer than the clip, and as the learning rate is tiny it points the same way
in every step: the worst patient that the accounting allows for.

With a sampling rate of 1 all steps together are one Gaussian mechanism, and the sharp bound holds;
sampled steps are none, so that only the bound for any noise is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_client import dp_sgd
from fedhelp_client.dp_sgd_models import PatientGradients, PatientRows, first_model
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.mechanisms import Setting
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.parameters import DpSgdChoices
from fedhelp_secure.privacy_audit import bounds
from fedhelp_secure.privacy_audit.audit import Finding, Place
from fedhelp_secure.privacy_audit.parties import TARGET, Parties, Plan, make_parties
from fedhelp_secure.privacy_audit.pipeline import Claim, black_images
from fedhelp_secure.privacy_audit.two_worlds import FEWEST_RUNS, TooFewRuns

_FRACTION_BITS = 12
_CLIP_UNITS = 1638
"""0.4: the canary's mean gradient has norm 0.7."""
_IMAGES = 8
_LEARNING_RATE, _NOMINAL = "0.000001", 1000
"""Weights stay where they began, so that every step's gradients are those of the first."""
_AHEAD = 1.0
"""Deviations by which the threshold of the bound for any noise is above the middle."""


@dataclass(frozen=True, slots=True)
class DpSgdOptions:
    """How much to try."""

    steps: int = 4
    sampling_rate: str = "1"
    runs: int = 400
    """Of each world."""
    confidence: float = 0.99


def audit_dp_sgd(epsilon: str, options: DpSgdOptions) -> tuple[Finding, ...]:
    """Lower bounds on what a charter with this epsilon gives, beside the ledger's claim.

    Raises TooFewRuns, or CharterRefused if there is no such charter.
    """
    if options.runs < FEWEST_RUNS:
        raise TooFewRuns(f"the two-world test needs at least {FEWEST_RUNS} runs; raise --runs.")
    parties = make_parties(_plan(epsilon, options))
    claim = _claim(parties)
    setting = Setting(parties.charter, black_images(), TARGET)
    canary, others = _patient(1), [_patient(0), _patient(0)]
    gradients = PatientGradients(first_model(parties.charter))
    direction = dp_sgd.patient_gradient(setting, gradients, canary).astype(np.float64)
    direction /= np.linalg.norm(direction)
    known = options.steps * dp_sgd.gradient_sum(setting, gradients, others) @ direction
    rate = float(options.sampling_rate)
    joined, absent = (
        np.array([_weighed(setting, people, direction) for _ in range(options.runs)]) - rate * known
        for people in ([*others, canary], others)
    )
    middle = rate * options.steps * _CLIP_UNITS / 2
    deviation = parties.charter.privacy.sigma_units * options.steps**0.5
    return _findings(
        Place(epsilon, "dp_sgd", "two worlds", "collusion"),
        claim,
        sharp=_guesses(joined, absent, middle) if options.sampling_rate == "1" else None,
        general=_guesses(joined, absent, middle + _AHEAD * deviation),
        tail=1 - options.confidence,
    )


def _findings(
    place: Place,
    claim: Claim,
    *,
    sharp: bounds.Guesses | None,
    general: bounds.Guesses,
    tail: float,
) -> tuple[Finding, ...]:
    delta = float(claim.delta)
    bound = bounds.two_worlds(general, delta, tail)
    findings = [place.finding("any noise", claim, bound, general)]
    if sharp is not None:
        bound = bounds.two_worlds_gaussian(sharp, delta, tail)
        findings.append(place.finding("Gaussian", claim, bound, sharp))
    return tuple(findings)


def _plan(epsilon: str, options: DpSgdOptions) -> Plan:
    return Plan(
        epsilon=epsilon,
        rounds=1,
        dimension=2,
        classes=2,
        clip_units=_CLIP_UNITS,
        fraction_bits=_FRACTION_BITS,
        canaries=1,
        mechanism="dp_sgd",
        dp_sgd=DpSgdChoices(
            model="linear_head",
            sampling_rate=options.sampling_rate,
            steps=options.steps,
            nominal_patients=_NOMINAL,
            learning_rate=_LEARNING_RATE,
        ),
    )


def _claim(parties: Parties) -> Claim:
    """What a real ledger of the target says after the debit."""
    charter = parties.charter
    with TemporaryDirectory(prefix="fedhelp-audit-") as scratch:
        ledger = Ledger.open(
            Path(scratch) / "ledger.sqlite",
            hospital=TARGET,
            signing_key=parties.signing_keys[TARGET],
        )
        ledger.reserve(charter, 1)
        spent = ledger.spent(charter)
    return Claim(spent.epsilon_aggregate, spent.epsilon_collusion, charter.privacy.delta)


def _patient(label: int) -> PatientRows:
    """Eight images that look alike, all of class ``label``."""
    return PatientRows(
        torch.tensor([[1.0, 0.0]] * _IMAGES),
        torch.eye(2)[[label] * _IMAGES],
        torch.full((_IMAGES,), 1 / _IMAGES, dtype=torch.float64),
    )


def _weighed(
    setting: Setting, people: Sequence[PatientRows], direction: NDArray[np.float64]
) -> float:
    """The sum of all steps' noised gradients (grid units) along ``direction``, off the weights."""
    trained = dp_sgd.train_privately(setting, people, draw_share, _silent).vector
    began = PatientGradients(first_model(setting.charter)).vector
    parameters = setting.charter.privacy.dp_sgd
    assert parameters is not None  # noqa: S101 - the charter was made for it
    step = float(parameters.learning_rate) / float(parameters.rate * parameters.nominal_patients)
    summed = (began - trained) / step * (1 << setting.charter.secure_sum.fraction_bits)
    return float(summed @ direction)


def _guesses(
    joined: NDArray[np.float64], absent: NDArray[np.float64], threshold: float
) -> bounds.Guesses:
    return bounds.Guesses(
        true_positives=int(np.sum(joined > threshold)),
        with_canary=len(joined),
        false_positives=int(np.sum(absent > threshold)),
        without_canary=len(absent),
    )


def _silent(step: str, done: int, total: int) -> None:
    """Nobody watches one run."""
