"""The log's benchmark on a small log: every figure is there and is one of this log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.evidence import tell
from support.federation import make_federation
from typer.testing import CliRunner

from fedhelp_secure.bench.commands import app
from fedhelp_secure.bench.log import bundle_bytes
from fedhelp_secure.errors import FedHelpError

SMALL = ["--entries", "300", "--batch", "70", "--singles", "3", "--proofs", "40", "--repeats", "2"]


def test_a_small_log_has_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = make_federation(tmp_path / "parties", large=1, small=2)
    (tmp_path / "scratch").mkdir()
    bundle = tell(federation, tmp_path / "scratch").write(tmp_path / "bundle")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(
        app, ["log", *SMALL, "--evidence", str(bundle), "--json", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_bytes())
    figures = document["figures"]
    assert len(figures) == 18
    for name, figure in figures.items():
        least, largest = figure["spread"]
        assert least <= figure["median"] <= largest, name
        assert figure["median"] > 0 or name == "memory_mb_of_the_open_log", name
    # As the entries are, and 8 bytes of frame each.
    assert 200 < figures["bytes_per_entry"]["median"] < 300
    assert document["bundle"]["rounds"] == federation.charter.rounds.count
    whole = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    assert document["bundle"]["bytes"] == whole
    assert sum(document["bundle"]["by_kind"].values()) == whole
    # Nothing is left of the log.
    assert list((tmp_path / "here").iterdir()) == []


def test_what_is_no_bundle_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(FedHelpError, match="not a directory"):
        bundle_bytes(tmp_path / "nowhere")
