"""The audit of the code as it is: claims hold, and the adversary is not blind."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.mechanisms import ProbeMechanism
from fedhelp_secure.privacy_audit.audit import (
    ClaimRefuted,
    Finding,
    Options,
    Place,
    audit_logit_noise,
    audit_one_run,
    audit_two_worlds,
    check_findings,
)
from fedhelp_secure.privacy_audit.bounds import OneRun
from fedhelp_secure.privacy_audit.one_run import canary, plan_one_run
from fedhelp_secure.privacy_audit.parties import COHORT, COLLUDERS, TARGET, make_parties
from fedhelp_secure.privacy_audit.pipeline import Claim, Pipeline
from fedhelp_secure.privacy_audit.two_worlds import (
    CANARY,
    OTHERS,
    TooFewRuns,
    plan_two_worlds,
    public_models,
)

CAREFUL = Options(runs=2000, canaries=600, confidence=0.9999)
"""Correct code fails a bound once in ten thousand times at most, in truth far more rarely: both
rates are bounded by themselves, and the claim is a zCDP one, 6 to 8 % above the truth."""


def by_method(findings: tuple[Finding, ...], view: str) -> dict[str, Finding]:
    return {finding.method: finding for finding in findings if finding.view == view}


@pytest.mark.parametrize(("epsilon", "rounds"), [("1", 1), ("3", 2)])
def test_two_worlds_stay_below_the_claim(epsilon: str, rounds: int) -> None:
    findings = audit_two_worlds(epsilon, replace(CAREFUL, rounds=rounds))
    check_findings(findings)
    claim = by_method(findings, "aggregate")["Gaussian"].claim
    assert Fraction(epsilon) * Fraction(99, 100) < claim <= Fraction(epsilon)
    # Not vacuous: whoever sees the hospital's own release comes close to that claim.
    collusion = by_method(findings, "collusion")["Gaussian"]
    assert collusion.lower_bound > float(collusion.claim) * (0.2 if epsilon == "1" else 0.5)


@pytest.mark.parametrize("epsilon", ["1", "3"])
def test_one_run_stays_below_the_claim(epsilon: str) -> None:
    findings = audit_one_run(epsilon, replace(CAREFUL, rounds=1))
    check_findings(findings)
    if epsilon == "3":
        assert by_method(findings, "collusion")["Gaussian"].lower_bound > 0.5


def test_logit_noise_stays_below_the_claim() -> None:
    findings = audit_logit_noise("3", CAREFUL)
    check_findings(findings)
    assert by_method(findings, "aggregate")["Gaussian"].lower_bound > 0.8
    assert {finding.mechanism for finding in findings} == {"logit_noise"}


def test_encrypted_sums_are_attacked_as_the_others_are() -> None:
    options = replace(CAREFUL, runs=400, canaries=200, encrypt=True)
    findings = (*audit_two_worlds("8", options), *audit_one_run("8", options))
    findings += audit_logit_noise("8", options)
    check_findings(findings)
    assert by_method(findings[:4], "aggregate")["Gaussian"].lower_bound > 2


@pytest.mark.parametrize("encrypt", [False, True])
def test_what_is_seen_is_canary_and_noise_and_nothing_else(encrypt: bool) -> None:
    """Over many runs the mean is the canary's vector and the deviation is the charter's."""
    runs = 1500
    parties = make_parties(plan_two_worlds("8", 1))
    with Pipeline(parties, ProbeMechanism, public_models(1), encrypt) as pipeline:
        debits = pipeline.debit()
        seen = pipeline.observe(debits, [*OTHERS, CANARY], OTHERS, runs=runs)
        vector = pipeline.query(1, [CANARY])
    charter = parties.charter
    for array, weight, deviation in (
        (seen.aggregate, charter.weight_of(TARGET), charter.privacy.sigma_units),
        (seen.collusion, 1, charter.share_units("large")),
    ):
        assert array.shape == (runs, 1, 4)
        noise = array[:, 0].astype(np.float64) - weight * vector
        assert abs(noise.mean()) < 6 * deviation / np.sqrt(4 * runs)
        assert float(noise.std()) == pytest.approx(deviation, rel=6 / np.sqrt(8 * runs))


def test_the_canary_is_as_long_as_the_clip_allows() -> None:
    charter = make_parties(plan_two_worlds("3", 2)).charter
    for model in public_models(2):
        squares = int(np.sum(probe.patient_vector(charter, model, CANARY) ** 2))
        assert (charter.privacy.clip_units - 2) ** 2 <= squares <= charter.privacy.clip_units**2


@pytest.mark.parametrize("canaries", [64, 512, 600])
def test_canaries_of_one_run_are_orthogonal_and_as_long_as_the_clip(canaries: int) -> None:
    charter = make_parties(plan_one_run("3", 1, canaries)).charter
    model = probe.initial_model(charter)
    vectors = np.stack(
        [probe.patient_vector(charter, model, canary(charter, n)) for n in range(canaries)]
    )
    products = (vectors @ vectors.T) / charter.privacy.clip_units**2
    assert np.abs(products - np.eye(canaries)).max() < 1e-3


def test_the_cohort_is_the_smallest_that_is_opened() -> None:
    charter = make_parties(plan_two_worlds("3", 1)).charter
    assert (len(COHORT), len(COLLUDERS)) == (charter.cohort.minimum, charter.cohort.colluders)
    assert charter.weight_of(TARGET) == charter.maximum_weight


def test_too_few_runs_or_canaries_are_refused() -> None:
    with pytest.raises(TooFewRuns, match="--runs"):
        audit_two_worlds("3", replace(CAREFUL, runs=10))
    with pytest.raises(TooFewRuns, match="--canaries"):
        audit_one_run("3", replace(CAREFUL, canaries=10))


def test_no_findings_are_no_pass() -> None:
    with pytest.raises(ClaimRefuted, match="nothing was tried"):
        check_findings(())


def test_a_bound_above_its_claim_is_named() -> None:
    place = Place("3", "probe", "one run", "collusion")
    claim = Claim(Fraction(3), Fraction(7), "1e-6")
    finding = place.finding("Gaussian", claim, 7.5, OneRun(10, 10, 10))
    below = replace(finding, lower_bound=7.0)
    check_findings((below,))
    with pytest.raises(ClaimRefuted, match=r"one run test of probe shows .*collusion.* 7\.500"):
        check_findings((below, finding))
