"""Mistakes that were made elsewhere, made in the real code here: the audit must notice each.

Every mutant replaces one function of the product where the product looks it up. The data, the
attack, the claim from the ledger and everything else stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from math import isqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from fedhelp_secure.charter import Charter, Group
from fedhelp_secure.privacy import noise, parameters, probe
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.mechanisms import ProbeMechanism
from fedhelp_secure.privacy.parameters import Bounded
from fedhelp_secure.privacy.probe import PatientExamples
from fedhelp_secure.privacy.records import LedgerEntry
from fedhelp_secure.privacy_audit.audit import (
    ClaimRefuted,
    Options,
    audit_logit_noise,
    audit_one_run,
    audit_two_worlds,
    check_findings,
)
from fedhelp_secure.privacy_audit.parties import COHORT, COLLUDERS, make_parties
from fedhelp_secure.privacy_audit.pipeline import Pipeline
from fedhelp_secure.privacy_audit.two_worlds import OTHERS, plan_two_worlds, public_models

Model = NDArray[np.float64]
Patch = pytest.MonkeyPatch


def share_of_sigma_over_n(patch: Patch) -> None:
    """Every hospital draws sigma / n, as if deviations and not variances added up."""
    draw = noise.draw_share
    honest, everybody = len(COHORT) - len(COLLUDERS), len(COHORT) + 1

    def too_little(values: int, scale_units: int) -> NDArray[np.int64]:
        return draw(values, -(-scale_units * isqrt(honest) // everybody))

    patch.setattr(noise, "draw_share", too_little)


def clipped_image_by_image(patch: Patch) -> None:
    """Each image's vector is clipped, and the patient's is their sum."""
    whole = probe.patient_vector

    def by_image(charter: Charter, model: Model, patient: PatientExamples) -> NDArray[np.int64]:
        images = [
            PatientExamples(patient.features[[row]], patient.targets[[row]], np.ones(1))
            for row in range(len(patient.weights))
        ]
        summed: NDArray[np.int64] = np.stack(
            [whole(charter, model, image) for image in images]
        ).sum(axis=0)
        return summed

    patch.setattr(probe, "patient_vector", by_image)


def one_patient_displaces_another(patch: Patch) -> None:
    """A full list takes the newest patients: who joins replaces who came first, at twice the
    distance that is charged for joining."""
    every = probe.contribution

    def newest(
        charter: Charter, model: Model, patients: Sequence[PatientExamples]
    ) -> NDArray[np.int64]:
        return every(charter, model, patients[-len(OTHERS) :])

    patch.setattr(probe, "contribution", newest)


def all_rounds_charged_once(patch: Patch) -> None:
    """A ledger that takes the debit of a charter for the debit of all its rounds."""
    reserve = Ledger.reserve
    first: dict[int, LedgerEntry] = {}

    def once(ledger: Ledger, charter: Charter, round_number: int) -> LedgerEntry:
        if id(ledger) not in first:
            first[id(ledger)] = reserve(ledger, charter, round_number)
        return first[id(ledger)]

    patch.setattr(Ledger, "reserve", once)


def seed_used_again(patch: Patch) -> None:
    """What a sampler with a fixed seed gives: in the second round the first one's noise."""
    draw = noise.draw_share
    first_round: list[NDArray[np.int64]] = []
    calls = count()

    def again(values: int, scale_units: int) -> NDArray[np.int64]:
        # Two rounds a world, one share a hospital in each.
        round_number, place = divmod(next(calls) % (2 * len(COHORT)), len(COHORT))
        if round_number == 0:
            first_round[place:] = [draw(values, scale_units)]
        return first_round[place]

    patch.setattr(noise, "draw_share", again)


@dataclass(frozen=True, slots=True)
class Case:
    mutate: Callable[[Patch], None]
    epsilon: str
    rounds: int
    runs: int


CASES = [
    Case(share_of_sigma_over_n, "1", 1, 1500),
    Case(share_of_sigma_over_n, "3", 1, 800),
    Case(clipped_image_by_image, "1", 1, 800),
    Case(one_patient_displaces_another, "1", 1, 3000),
    Case(one_patient_displaces_another, "3", 1, 1500),
    Case(all_rounds_charged_once, "3", 4, 1500),
    Case(seed_used_again, "1", 2, 800),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.mutate.__name__}-{case.epsilon}")
def test_the_mutant_is_flagged(monkeypatch: Patch, case: Case) -> None:
    case.mutate(monkeypatch)
    findings = audit_two_worlds(case.epsilon, Options(rounds=case.rounds, runs=case.runs))
    with pytest.raises(ClaimRefuted, match="two worlds test of probe"):
        check_findings(findings)
    assert any(finding.refuted and finding.method == "Gaussian" for finding in findings)


def test_one_clip_for_a_matrix_that_may_turn_around_is_flagged(monkeypatch: Patch) -> None:
    """The mistake of taking the distance from the centre of the ball for its diameter."""
    counted = {**parameters.BOUNDS, "logit_noise": Bounded("whole-matrix", 1)}
    monkeypatch.setattr(parameters, "BOUNDS", counted)
    findings = audit_logit_noise("3", Options(runs=1500))
    with pytest.raises(ClaimRefuted, match="two worlds test of logit_noise"):
        check_findings(findings)


def test_one_run_flags_too_little_noise(monkeypatch: Patch) -> None:
    share_of_sigma_over_n(monkeypatch)
    findings = audit_one_run("3", Options(rounds=1))
    with pytest.raises(ClaimRefuted, match="one run test"):
        check_findings(findings)


def test_noise_that_repeats_shows_everything(monkeypatch: Patch) -> None:
    """The noise of two rounds cancels: as sure as the number of runs allows."""
    seed_used_again(monkeypatch)
    findings = audit_two_worlds("3", Options(rounds=2, runs=800))
    assert all(finding.lower_bound > 4 for finding in findings)


def test_the_ledger_takes_no_debit_for_shares_of_sigma_over_n(monkeypatch: Patch) -> None:
    """The same mistake in the charter: nothing is released, so that there is nothing to attack."""

    def sigma_over_n(charter: Charter, group: Group) -> int:
        weight = charter.weights.of(group)
        return -(-charter.privacy.sigma_units // (weight * len(charter.hospitals)))

    parties = make_parties(plan_two_worlds("3", 1))
    monkeypatch.setattr(Charter, "share_units", sigma_over_n)
    with (
        Pipeline(parties, ProbeMechanism, public_models(1), False) as pipeline,
        pytest.raises(ValidationError, match="share_units"),
    ):
        pipeline.debit()
