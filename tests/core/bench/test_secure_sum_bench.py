"""The benchmark as its users run it, on a vector short enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest

from fedhelp_secure.bench.components import ComponentCost, measure_baseline
from fedhelp_secure.bench.result import Measured, RoundCost, ratios
from fedhelp_secure.bench.schemes import BASELINES, NvflareDefault, Plaintext

KEYS = {
    "bytes_per_value",
    "encrypt_us_per_value",
    "aggregate_us_per_value",
    "open_us_per_value",
    "round_seconds",
    "peak_rss_mb",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A run with 9,000 values (two frames) from three hospitals under two unmaskers."""
    out = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, "-m", "fedhelp_secure", "bench", "secure-sum", "--values", "9000"]
    command += ["--hospitals", "3", "--unmaskers", "2", "--repeats", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text()), done.stdout


def test_the_json_has_the_documented_keys(finished: tuple[dict[str, Any], str]) -> None:
    document, _ = finished
    assert (document["values"], document["hospitals"], document["unmaskers"]) == (9000, 3, 2)
    for column in (document, document["plaintext"], document["nvflare_default"]):
        assert column.keys() >= KEYS
        assert all(column[name] > 0 for name in KEYS - {"peak_rss_mb"})
        assert column["peak_rss_mb"].keys() >= {"aggregator", "hospital"}
    assert document["peak_rss_mb"].keys() >= {"decryptor", "unmasker", "unmasker-2"}


def test_bytes_are_those_of_the_frames(finished: tuple[dict[str, Any], str]) -> None:
    document, _ = finished
    frames = 2 * 65_536
    assert document["upload_bytes_per_value"] * 9000 == pytest.approx(frames, rel=0.1)
    assert document["bytes_per_value"] > document["upload_bytes_per_value"]


def test_the_table_names_every_scheme(finished: tuple[dict[str, Any], str]) -> None:
    _, screen = finished
    for text in ("secure sum", "plaintext", "nvflare default", "ratio to plaintext"):
        assert text in screen


@pytest.mark.parametrize("name", BASELINES)
def test_a_compared_scheme_adds(name: str) -> None:
    scheme = BASELINES[name](None)
    left, right = np.arange(-40, 41, dtype=np.int64), np.arange(81, dtype=np.int64)
    total = scheme.add([scheme.encode(left), scheme.encode(right)])
    assert (scheme.decode(total, 81) == left + right).all()


def test_nvflare_clients_share_one_secret_key() -> None:
    first = NvflareDefault()
    second = NvflareDefault(first.secret)
    values = np.array([1, -2, 3], dtype=np.int64)
    assert (second.decode(first.add([first.encode(values)]), 3) == values).all()


def test_a_wrong_sum_is_no_figure() -> None:
    class Wrong(Plaintext):
        def decode(self, total: bytes, values: int) -> np.ndarray:
            return super().decode(total, values) + 1

    with pytest.raises(Exception, match="did not open the sum"):
        measure_baseline(Wrong(), values=10, hospitals=2)


def test_ratios_compare_repeat_by_repeat() -> None:
    def measured(*totals: float) -> Measured:
        return Measured(
            tuple(ComponentCost(total, 0.0, total, total) for total in totals),
            tuple(RoundCost(total, 10, 10) for total in totals),
            {},
        )

    ratio = ratios(measured(1, 4), measured(2, 2))["round"]
    assert (ratio["least"], ratio["largest"]) == (0.5, 2)


def test_a_terminated_run_leaves_no_process() -> None:
    command = [sys.executable, "-m", "fedhelp_secure", "bench", "secure-sum", "--values", "9000"]
    with subprocess.Popen([*command, "--rounds-only", "--repeats", "50"]) as running:
        bench = psutil.Process(running.pid)
        deadline = time.monotonic() + 60
        while len(started := bench.children(recursive=True)) < 4:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.terminate()
        assert running.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
