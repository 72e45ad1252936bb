"""Two-world canary audit of the real integer pipeline, and proof that it notices real mistakes.

A canary patient whose vector is as long as the clip allows is in the data (world 1) or not
(world 0). The adversary knows everything else: all other patients, the model, every colluder's
share. It projects the opened sum on the canary and compares it with half the canary's length. From
its true and false positive rates over many runs follows a lower bound on the epsilon that holds
(Clopper-Pearson on both rates, then the Gaussian trade-off: the claim is a Gaussian one). A bound
above the claim proves a mistake. A bound below it proves nothing, which is why there are mutants.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import beta, norm
from support.charters import make_charter_kit
from support.gaussian import analytic_epsilon

from fedhelp_secure.charter import Charter, Group
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.privacy.probe import (
    PatientExamples,
    contribution,
    patient_vector,
)

KIT = make_charter_kit()
RUNS = 2000
MODEL = np.array([[4.0, -4.0], [4.0, -4.0]])
"""Sure that everybody is of class 0: the canary, of class 1, has the largest residual."""
FALSE_ALARM = 1e-5
"""Bound on how often one audit of correct code fails; the slack of zCDP makes it far rarer."""
DIMENSION, CLASSES = 2, 2
TARGET = "large-1"
"""The canary's hospital: one of the group whose weight sets sigma."""
HONEST = (TARGET, "small-1", "small-2", "small-3")
"""t = 4 hospitals whose shares the adversary does not know."""


def make_charter(epsilon: str, rounds: int) -> Charter:
    return KIT.charter(
        classes=["benign", "malignant"],
        probe={"dimension": DIMENSION},
        secure_sum={"values": DIMENSION * CLASSES},
        privacy={"epsilon": epsilon},
        rounds={"count": rounds},
    )


def patient(images: int, label: int) -> PatientExamples:
    feature = np.array([np.sqrt(0.5), np.sqrt(0.5)])
    return PatientExamples(
        np.tile(feature, (images, 1)), np.tile(np.eye(CLASSES)[label], (images, 1)), np.ones(images)
    )


CANARY = patient(4, 1)
OTHERS = [patient(1, 0), patient(3, 1), patient(2, 0)]


@dataclass(frozen=True, slots=True)
class Release:
    """One hospital's releases over all rounds, as the adversary sees them in the opened sums."""

    charter: Charter
    query_without: NDArray[np.int64]
    query_with: NDArray[np.int64]
    direction: NDArray[np.float64]
    """Of the canary's vector, norm 1."""
    signal: float
    """How far the canary moves the sum over all rounds along ``direction``."""

    @classmethod
    def of(cls, charter: Charter, canary: list[PatientExamples]) -> Release:
        without = contribution(charter, MODEL, OTHERS)
        joined = contribution(charter, MODEL, [*OTHERS, *canary])
        difference = (joined - without).astype(np.float64)
        length = float(np.linalg.norm(difference))
        weight = charter.weight_of(TARGET)
        return cls(
            charter, without, joined, difference / length, charter.rounds.count * weight * length
        )

    def statistics(self, *, joined: bool) -> NDArray[np.float64]:
        """[RUNS]: the opened sums of a run, less what the adversary knows, along the canary."""
        rounds, values = self.charter.rounds.count, len(self.direction)
        query = self.query_with if joined else self.query_without
        opened = np.zeros((RUNS, rounds, values), dtype=np.int64)
        opened += self.charter.weight_of(TARGET) * (query - self.query_without)
        for hospital in HONEST:
            group = self.charter.hospital(hospital).group
            shares = draw_share(opened.size, self.charter.share_units(group))
            opened += self.charter.weights.of(group) * shares.reshape(opened.shape)
        projected: NDArray[np.float64] = opened.sum(axis=1) @ self.direction
        return projected


def epsilon_lower_bound(release: Release) -> float:
    threshold = release.signal / 2
    true_positives = int(np.sum(release.statistics(joined=True) > threshold))
    false_positives = int(np.sum(release.statistics(joined=False) > threshold))
    tail = FALSE_ALARM / 2
    caught = beta.ppf(tail, true_positives, RUNS - true_positives + 1)
    blamed = beta.isf(tail, false_positives + 1, RUNS - false_positives)
    mu = float(norm.ppf(caught) - norm.ppf(blamed))
    return analytic_epsilon(mu, float(release.charter.privacy.delta))


def claimed(charter: Charter, directory: Path) -> Fraction:
    """What the hospital's own ledger says after all rounds."""
    ledger = Ledger.open(directory / "ledger.sqlite", hospital=TARGET, signing_key=KIT.keys[TARGET])
    for number in range(1, charter.rounds.count + 1):
        ledger.reserve(charter, number)
    return ledger.spent(charter).epsilon_aggregate


def test_the_canary_is_as_long_as_the_clip_allows() -> None:
    charter = make_charter("3", 1)
    squares = int(np.sum(patient_vector(charter, MODEL, CANARY) ** 2))
    assert (charter.privacy.clip_units - 2) ** 2 <= squares <= charter.privacy.clip_units**2


@pytest.mark.parametrize(("epsilon", "rounds"), [("1", 1), ("3", 2)])
def test_the_lower_bound_is_below_the_claim(tmp_path: Path, epsilon: str, rounds: int) -> None:
    charter = make_charter(epsilon, rounds)
    claim = claimed(charter, tmp_path)
    assert Fraction(epsilon) * Fraction(99, 100) < claim <= Fraction(epsilon)
    bound = epsilon_lower_bound(Release.of(charter, [CANARY]))
    assert bound <= claim
    if epsilon == "3":
        # Not vacuous: the audit does see the canary.
        assert bound > 0.3


@pytest.mark.parametrize("epsilon", ["1", "3"])
def test_shares_of_sigma_over_n_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epsilon: str
) -> None:
    charter = make_charter(epsilon, 1)
    claim = claimed(charter, tmp_path)

    def sigma_over_n(charter: Charter, group: Group) -> int:
        weight = charter.weights.of(group)
        return -(-charter.privacy.sigma_units // (weight * len(charter.hospitals)))

    monkeypatch.setattr(Charter, "share_units", sigma_over_n)
    assert epsilon_lower_bound(Release.of(charter, [CANARY])) > claim
    # And the ledger would not even have taken the debit.
    with pytest.raises(ValidationError, match="share_units"):
        claimed(charter, tmp_path / "mutant")


def test_clipping_images_instead_of_patients_is_caught(tmp_path: Path) -> None:
    charter = make_charter("3", 1)
    one_patient_an_image = [patient(1, 1) for _ in range(len(CANARY.weights))]
    bound = epsilon_lower_bound(Release.of(charter, one_patient_an_image))
    assert bound > claimed(charter, tmp_path)


def test_four_rounds_charged_as_one_are_caught(tmp_path: Path) -> None:
    charter = make_charter("3", 1)
    rounds = charter.rounds.model_copy(update={"count": 4})
    bound = epsilon_lower_bound(Release.of(charter.model_copy(update={"rounds": rounds}), [CANARY]))
    assert bound > claimed(charter, tmp_path)
