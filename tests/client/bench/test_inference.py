"""The bench of latency measures real networks in turns, and finds the small one smaller."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.learning import discs
from typer.testing import CliRunner

from fedhelp_client.bench.inference import FOUNDATION, LARGE, SMALL, SMALL_INT8, measure
from fedhelp_client.data.embeddings import resize_images
from fedhelp_secure.cli import build


def test_every_network_is_measured_in_every_turn() -> None:
    images = resize_images([e.image for e in discs(4, seed=1, task="segmentation").examples])
    measured = {one.network: one for one in measure("segmentation", turns=4, images=images)}
    assert list(measured) == [LARGE, SMALL, SMALL_INT8, FOUNDATION]
    assert all(
        len(one.milliseconds) == 4 and min(one.milliseconds) > 0 for one in measured.values()
    )
    sizes = [measured[name].size_bytes for name in (SMALL_INT8, SMALL, LARGE, FOUNDATION)]
    assert sizes == sorted(sizes)
    assert measured[LARGE].median == np.median(measured[LARGE].milliseconds)


def test_the_command_writes_ratios(tmp_path: Path) -> None:
    path = tmp_path / "inference.json"
    arguments = ["bench", "inference", "--turns", "3", "--json", str(path)]
    shown = CliRunner().invoke(build(arguments), arguments)
    assert shown.exit_code == 0, shown.output
    networks = json.loads(path.read_bytes())["networks"]
    assert networks[LARGE]["of_the_large"] == 1
    assert set(networks) == {LARGE, SMALL, SMALL_INT8, FOUNDATION}
