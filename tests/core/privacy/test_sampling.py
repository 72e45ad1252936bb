from __future__ import annotations

import inspect
import subprocess
import sys
from fractions import Fraction
from math import sqrt

import pytest

from fedhelp_secure.privacy.sampling import SamplingMisused, poisson_sample

FALSE_ALARM_DEVIATIONS = 6.6
"""P(|normal| > 6.6) is under 1e-10."""


@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(3, 10), Fraction(999, 1000)])
def test_every_patient_is_sampled_at_the_rate(rate: Fraction) -> None:
    count, times = 200, 100
    sizes = [len(poisson_sample(count, rate)) for _ in range(times)]
    expected, trials = float(rate) * count * times, count * times
    deviation = sqrt(trials * float(rate) * (1 - float(rate)))
    assert abs(sum(sizes) - expected) < FALSE_ALARM_DEVIATIONS * deviation + 1
    # By coins: were the size fixed, it would never vary.
    assert len(set(sizes)) > 1


def test_each_patient_by_a_coin_of_their_own() -> None:
    """Pairs come up together as often as independent coins do."""
    times, rate = 4000, Fraction(1, 2)
    together = sum({0, 1} <= set(poisson_sample(3, rate)) for _ in range(times))
    assert abs(together - times / 4) < FALSE_ALARM_DEVIATIONS * sqrt(times * 3 / 16)


def test_a_rate_of_one_samples_everybody_and_nobody_is_sampled_twice() -> None:
    assert poisson_sample(50, Fraction(1)) == list(range(50))
    assert poisson_sample(0, Fraction(1, 2)) == []
    sample = poisson_sample(500, Fraction(1, 2))
    assert sample == sorted(set(sample))


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-1, 2), Fraction(3, 2)])
def test_what_is_no_probability_is_refused(rate: Fraction) -> None:
    with pytest.raises(SamplingMisused):
        poisson_sample(3, rate)


def test_two_samples_and_another_process_all_differ() -> None:
    program = (
        "from fractions import Fraction\n"
        "from fedhelp_secure.privacy.sampling import poisson_sample\n"
        "print(poisson_sample(300, Fraction(1, 2)))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    here = [str(poisson_sample(300, Fraction(1, 2))) for _ in range(2)]
    assert len({*(run.stdout.strip() for run in runs), *here}) == 4


def test_there_is_no_seed() -> None:
    assert list(inspect.signature(poisson_sample).parameters) == ["count", "rate"]
