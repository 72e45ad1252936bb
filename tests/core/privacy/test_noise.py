from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from fractions import Fraction
from math import erfc, exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2
from support.charters import make_charter_kit

import fedhelp_client
import fedhelp_keys
import fedhelp_secure.privacy
from fedhelp_secure.charter import MINIMUM_SHARE_UNITS
from fedhelp_secure.privacy.noise import NoiseMisused, draw_share, gaussian

FALSE_ALARM = 1e-10
NORMAL_QUANTILE = 6.6
"""P(|normal| > 6.6) is under `FALSE_ALARM`."""
DRAWS = 20_000


@pytest.mark.parametrize("scale", [4, 3000, 1 << 34])
def test_mean_and_variance_are_those_of_the_scale(scale: int) -> None:
    assert erfc(NORMAL_QUANTILE / sqrt(2)) < FALSE_ALARM
    draws = draw_share(DRAWS, scale)
    assert draws.dtype == np.int64
    assert draws.shape == (DRAWS,)
    assert abs(draws.mean()) < NORMAL_QUANTILE * scale / sqrt(DRAWS)
    squares = float(np.sum((draws / scale) ** 2))
    assert chi2.ppf(FALSE_ALARM, DRAWS) < squares < chi2.isf(FALSE_ALARM, DRAWS)


def test_the_frequencies_are_the_discrete_gaussians() -> None:
    scale = 4
    draws = draw_share(DRAWS, scale)
    total = sum(exp(-(k * k) / (2 * scale**2)) for k in range(-100, 101))
    for value in range(-8, 9):
        probability = exp(-(value * value) / (2 * scale**2)) / total
        deviation = sqrt(DRAWS * probability * (1 - probability))
        seen = int(np.count_nonzero(draws == value))
        assert abs(seen - DRAWS * probability) < NORMAL_QUANTILE * deviation + 1


def test_two_draws_another_process_and_its_fork_all_differ() -> None:
    program = (
        "import os, sys\n"
        "from fedhelp_secure.privacy.noise import draw_share\n"
        "draw_share(1, 4)\n"
        "child = os.fork()\n"
        "print(draw_share(16, 1 << 30).tolist(), flush=True)\n"
        "os._exit(0) if child == 0 else os.waitpid(child, 0)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    here = [str(draw_share(16, 1 << 30).tolist()) for _ in range(2)]
    lines = [*run.stdout.splitlines(), *here]
    assert len(lines) == len(set(lines)) == 4


@pytest.mark.parametrize(
    ("values", "scale"),
    [(0, 100), (-1, 100), (5, 0), (5, -4), (5, MINIMUM_SHARE_UNITS - 1), (5, (1 << 53) + 1)],
)
def test_noise_that_protects_nobody_is_refused(values: int, scale: int) -> None:
    with pytest.raises(NoiseMisused):
        draw_share(values, scale)


def test_opendp_states_the_loss_that_the_charter_accounts() -> None:
    charter = make_charter_kit().charter()
    for group in ("large", "small"):
        rho = charter.round_rho_collusion(group)
        measurement: Any = gaussian(charter.share_units(group))
        measured = measurement.map(float(charter.privacy.clip_units))
        assert Fraction(measured) == pytest.approx(rho, rel=1e-12)


FORBIDDEN = re.compile(
    r"np\.random|numpy\.random|default_rng|RandomState|import random|from random|"
    r"\bseed\s*[:=(,)]|manual_seed|torch\.(?:randn?|randint|randperm|normal|bernoulli|Generator)\b|getrandbits|"
    r"secure_mode|PrivacyEngine|DPOptimizer|PYTHONHASHSEED"
)
"""Every generator that can be repeated, and Opacus' own noise."""

SHARES_A_SEED = re.compile(r"seed")
"""The masks' seeds: 32 fresh bytes of the operating system each, which the unmaskers expand."""


def _sources(root: Path, *patterns: str) -> list[Path]:
    found = [source for pattern in patterns for source in sorted(root.glob(pattern))]
    assert found
    return found


def test_no_seed_and_no_other_generator_is_anywhere_near() -> None:
    """Privacy, masks, keys, and the release at the node, DP-SGD included."""
    assert list(inspect.signature(draw_share).parameters) == ["values", "scale_units"]
    core = Path(next(iter(fedhelp_secure.privacy.__path__))).parent
    client = Path(next(iter(fedhelp_client.__path__)))
    sources = [
        *_sources(core, "privacy/*.py", "public_set.py"),
        *_sources(client, "dp_sgd*.py", "node/release.py", "node/mechanisms.py"),
    ]
    names = {source.name for source in sources}
    assert {"noise.py", "probe.py", "ledger.py", "sampling.py", "mechanisms.py"} <= names
    assert {"dp_sgd.py", "dp_sgd_models.py"} <= names
    keys = Path(next(iter(fedhelp_keys.__path__)))
    of_masks = [
        *_sources(core, "secure_sum/*.py", "sealing.py", "signing.py"),
        *_sources(keys, "**/*.py"),
    ]
    assert {"masks.py", "contribution.py", "authenticator.py", "ca.py"} <= {
        source.name for source in of_masks
    }
    found = [
        f"{source.name}: {line}"
        for source in [*sources, *of_masks]
        for line in source.read_text().splitlines()
        if FORBIDDEN.search(line if source in sources else SHARES_A_SEED.sub("", line))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "noise = np.random.normal(size=3)",
        "generator = default_rng(1)",
        "def draw_share(values: int, seed: int) -> None:",
        "torch.manual_seed(1)",
        "noise = torch.randn(3)",
        "sampled = torch.bernoulli(rates)",
        "from opacus import PrivacyEngine",
        "import random",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert FORBIDDEN.search(line)


def test_nothing_of_opacus_but_gradients_and_its_validator_is_imported() -> None:
    client = Path(next(iter(fedhelp_client.__path__)))
    imports = {
        line.strip()
        for source in client.rglob("*.py")
        for line in source.read_text().splitlines()
        if re.match(r"\s*(from|import) opacus", line)
    }
    assert imports == {
        "from opacus.grad_sample import GradSampleModule",
        "from opacus.validators import ModuleValidator",
    }
