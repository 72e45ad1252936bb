"""`fedhelp audit privacy`: both tests at every epsilon, and the bounds beside the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np

from fedhelp_secure.errors import PolicyError
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.mechanisms import LogitNoise, ProbeMechanism
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.privacy_audit import bounds
from fedhelp_secure.privacy_audit.one_run import plan_one_run, run_one_run
from fedhelp_secure.privacy_audit.parties import make_parties
from fedhelp_secure.privacy_audit.pipeline import Claim, Pipeline, View
from fedhelp_secure.privacy_audit.two_worlds import (
    MODELS,
    PATIENTS,
    Worlds,
    plan_two_worlds,
    public_models,
    run_two_worlds,
)

_Inputs = TypeVar("_Inputs")

Test = Literal["two worlds", "one run"]
Method = Literal["any noise", "Gaussian"]


class ClaimRefuted(PolicyError):
    """An adversary did better than the claimed epsilon allows: the mechanism does not keep it."""

    code = "claim-refuted"


@dataclass(frozen=True, slots=True)
class Options:
    """How much to try."""

    rounds: int = 2
    runs: int = 4000
    """Of each world, in the two-world test."""
    canaries: int = 1000
    """In the one-run test."""
    encrypt: bool = False
    """Whether sums go through masks, CKKS and the custodians' functions, or are added directly."""
    confidence: float = 0.99
    """Each bound holds at least with this probability."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which epsilon is looked at, how, and by whom."""

    epsilon: str
    """The charter's."""
    mechanism: MechanismName
    test: Test
    view: View

    def finding(
        self, method: Method, claim: Claim, bound: float, counts: bounds.Guesses | bounds.OneRun
    ) -> Finding:
        """The finding of one bound here."""
        return Finding(
            self.epsilon,
            self.mechanism,
            self.test,
            self.view,
            method,
            claim=claim.of(self.view),
            lower_bound=bound,
            counts=asdict(counts),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One lower bound beside the claim that it must not exceed."""

    epsilon: str
    """The charter's."""
    mechanism: MechanismName
    test: Test
    view: View
    method: Method
    """What the bound assumes of the noise. A Gaussian bound is the sharper one."""
    claim: Fraction
    """From the hospital's ledger."""
    lower_bound: float
    counts: dict[str, int]
    """From which the bound follows."""

    @property
    def refuted(self) -> bool:
        """Whether the claim cannot hold."""
        return self.lower_bound > self.claim

    def document(self) -> dict[str, Any]:
        """As JSON values; the claim as text, exactly as the ledger has it."""
        return {
            "epsilon": self.epsilon,
            "mechanism": self.mechanism,
            "test": self.test,
            "view": self.view,
            "method": self.method,
            "claim": f"{float(self.claim):.6f}",
            "lower_bound": round(self.lower_bound, 6),
            "counts": self.counts,
            "refuted": self.refuted,
        }


def audit_epsilon(epsilon: str, options: Options) -> tuple[Finding, ...]:
    """Every test of charters with this epsilon; raises CharterRefused if there are none."""
    return (
        *audit_two_worlds(epsilon, options),
        *audit_one_run(epsilon, options),
        *audit_logit_noise(epsilon, options),
    )


def audit_two_worlds(epsilon: str, options: Options) -> tuple[Finding, ...]:
    """The two-world test of the probe."""
    parties = make_parties(plan_two_worlds(epsilon, options.rounds))
    models = public_models(options.rounds)
    with Pipeline(parties, ProbeMechanism, models, options.encrypt) as pipeline:
        return _two_worlds(epsilon, options, pipeline, PATIENTS)


def audit_logit_noise(epsilon: str, options: Options) -> tuple[Finding, ...]:
    """The two-world test of ``logit_noise``, whose charters have one round."""
    parties = make_parties(plan_two_worlds(epsilon, 1, "logit_noise"))
    with Pipeline(parties, LogitNoise, [np.zeros(0)], options.encrypt) as pipeline:
        return _two_worlds(epsilon, options, pipeline, MODELS)


def _two_worlds(
    epsilon: str, options: Options, pipeline: Pipeline[_Inputs], worlds: Worlds[_Inputs]
) -> tuple[Finding, ...]:
    mechanism, tail = pipeline.parties.charter.privacy.mechanism, 1 - options.confidence
    claim, results = run_two_worlds(pipeline, worlds, runs=options.runs, tail=tail)
    delta = float(claim.delta)
    findings: list[Finding] = []
    for result in results:
        place = Place(epsilon, mechanism, "two worlds", result.view)
        bound = bounds.two_worlds(result.general, delta, tail)
        findings.append(place.finding("any noise", claim, bound, result.general))
        bound = bounds.two_worlds_gaussian(result.gaussian, delta, tail)
        findings.append(place.finding("Gaussian", claim, bound, result.gaussian))
    return tuple(findings)


def audit_one_run(epsilon: str, options: Options) -> tuple[Finding, ...]:
    """The one-run test of the probe."""
    parties = make_parties(plan_one_run(epsilon, options.rounds, options.canaries))
    models = [probe.initial_model(parties.charter)] * options.rounds
    tail = 1 - options.confidence
    with Pipeline(parties, ProbeMechanism, models, options.encrypt) as pipeline:
        claim, results = run_one_run(pipeline, canaries=options.canaries, tail=tail)
    delta = float(claim.delta)
    findings: list[Finding] = []
    for result in results:
        place = Place(epsilon, "probe", "one run", result.view)
        bound = bounds.one_run(result.general, delta, tail)
        findings.append(place.finding("any noise", claim, bound, result.general))
        bound = bounds.one_run_gaussian(result.gaussian, delta, tail)
        findings.append(place.finding("Gaussian", claim, bound, result.gaussian))
    return tuple(findings)


def check_findings(findings: Sequence[Finding]) -> None:
    """Raises ClaimRefuted, naming the first bound above its claim; or if there is none at all."""
    if not findings:
        raise ClaimRefuted("nothing was tried, so nothing is shown; give an epsilon to audit.")
    for finding in findings:
        if finding.refuted:
            raise ClaimRefuted(
                f"at epsilon {finding.epsilon} the {finding.test} test of {finding.mechanism} "
                f"shows an epsilon ({finding.view}) of at least {finding.lower_bound:.3f}, above "
                f"the claimed {float(finding.claim):.3f}: release nothing with this software."
            )
