"""The audit of DP-SGD: the real training keeps its claim, and mistakes made in it are noticed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_client import dp_sgd
from fedhelp_client.dp_sgd_audit.attack import DpSgdOptions, audit_dp_sgd
from fedhelp_client.dp_sgd_models import PatientGradients, PatientRows
from fedhelp_secure.privacy.mechanisms import Setting
from fedhelp_secure.privacy_audit.audit import ClaimRefuted, check_findings
from fedhelp_secure.privacy_audit.two_worlds import TooFewRuns

RUNS = DpSgdOptions(steps=2, runs=150)
"""In 14 audits of the mistake below, the sharp bound was 3.8 to 7.5 and the claim is 1. With 50
runs it was below the claim in two of twelve."""


def test_the_canary_is_seen_and_bounds_stay_below_the_claim() -> None:
    general, sharp = audit_dp_sgd("8", RUNS)
    check_findings([general, sharp])
    assert {general.method, sharp.method} == {"any noise", "Gaussian"}
    assert Fraction("7.9") < sharp.claim <= 8
    # An attack that sees nothing would show nothing of a mistake either. Chance alone gives so much
    # with a probability below 1e-4.
    assert sharp.counts["true_positives"] > sharp.counts["false_positives"] + 35


def test_sampled_steps_have_no_sharp_bound() -> None:
    (general,) = audit_dp_sgd("3", DpSgdOptions(steps=2, sampling_rate="0.5", runs=40))
    assert general.method == "any noise"
    check_findings([general])


def test_clipping_image_by_image_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dp_sgd.patient_gradient

    def by_image(
        setting: Setting, gradients: PatientGradients, patient: PatientRows
    ) -> NDArray[np.int64]:
        images = [
            PatientRows(patient.rows[[row]], patient.targets[[row]], patient.shares[[row]] * 0 + 1)
            for row in range(len(patient.rows))
        ]
        clipped = [whole(setting, gradients, image) for image in images]
        summed: NDArray[np.int64] = np.stack(clipped).sum(axis=0)
        return summed

    monkeypatch.setattr(dp_sgd, "patient_gradient", by_image)
    with pytest.raises(ClaimRefuted, match="two worlds test of dp_sgd"):
        check_findings(audit_dp_sgd("1", RUNS))


def test_too_few_trainings_are_refused() -> None:
    with pytest.raises(TooFewRuns):
        audit_dp_sgd("1", DpSgdOptions(runs=39))


def test_the_command_prints_bounds_beside_claims() -> None:
    from typer.testing import CliRunner

    from fedhelp_secure.cli import build

    called = ["audit", "dp-sgd", "--epsilon", "1", "--steps", "2", "--runs", "40"]
    done = CliRunner().invoke(build(called), called)
    assert done.exit_code == 0, done.output
    for said in ("claimed", "lower bound", "any noise", "Gaussian"):
        assert said in done.output
