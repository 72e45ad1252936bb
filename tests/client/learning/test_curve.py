"""The loss of every epoch: in a file of its owner's, and nowhere else."""

from __future__ import annotations

import logging
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from support.learning import discs, silent

from fedhelp_client.curve import Curve, EpochLoss, read_curves
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.types import DataError
from fedhelp_client.distillation import DistillationPlan, distil
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.progress import ProgressFile
from fedhelp_client.training import TrainingPlan, train_alone

OWN, PROXIES = (discs(16, seed=seed, task="classification") for seed in (1, 2))


def _train(curve: Curve, progress: ProgressFile | None = None) -> HospitalModel:
    model = build_model("small", task="classification", classes=2, seed=0)
    train_alone(
        model,
        OWN,
        task="classification",
        seed=0,
        plan=TrainingPlan(passes=160, learning_rate=3e-3),
        progress=progress or silent,
        curve=curve,
    )
    return model


def test_the_loss_falls_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    _train(Curve(tmp_path / "results", "training"))
    curve = read_curves(tmp_path / "results")
    assert [(epoch.step, epoch.epoch, epoch.of) for epoch in curve] == [
        ("training", number, 10) for number in range(1, 11)
    ]
    assert curve[-1].loss < curve[0].loss
    assert stat.S_IMODE((tmp_path / "results" / "training.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "results").stat().st_mode) == 0o700


def test_the_terms_of_a_distillation_add_up(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    labels = random.dirichlet((1, 1), 16).astype(np.float32)
    model = build_model("small", task="classification", classes=2, seed=0)
    distil(
        model,
        OWN,
        task="classification",
        group="small",
        proxy_images=resize_images([example.image for example in PROXIES.examples]),
        teacher=labels,
        own_teacher=labels,
        foundation_embeddings=random.normal(size=(16, 5)).astype(np.float32),
        seed=0,
        plan=DistillationPlan(TrainingPlan(passes=64, learning_rate=1e-3), own=0.3),
        progress=silent,
        curve=Curve(tmp_path, "distillation"),
    )
    curve = read_curves(tmp_path)
    assert [epoch.epoch for epoch in curve] == [1, 2]
    for epoch in curve:
        assert set(epoch.terms) == {"own", "teacher", "public", "relation"}
        assert epoch.loss == pytest.approx(sum(epoch.terms.values()))
        assert min(epoch.terms.values()) > 0


def test_an_epoch_is_the_mean_of_its_batches(tmp_path: Path) -> None:
    curve = Curve(tmp_path, "training")
    curve.restart([])
    curve.add([{"own": 1.0, "teacher": 4.0}, {"own": 2.0, "teacher": 0.0}], 1, 3)
    curve.add([{"own": float("nan")}], 2, 3)
    first, second = read_curves(tmp_path)
    assert first == EpochLoss(
        step="training", epoch=1, of=3, loss=3.5, terms={"own": 1.5, "teacher": 2.0}
    )
    assert np.isnan(second.loss)


def test_no_loss_is_in_a_log_or_in_what_progress_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    progress = ProgressFile(tmp_path / "progress.jsonl", "small-1")
    _train(Curve(tmp_path / "results", "training"), progress)
    progress.close()
    told = (tmp_path / "progress.jsonl").read_text()
    assert told.count('"training"') == 10
    for epoch in read_curves(tmp_path / "results"):
        assert not re.search(rf"{epoch.loss:.2f}\d*", caplog.text)
        assert f"{epoch.loss:.4f}" not in told
    assert "loss" not in told + caplog.text


def test_a_damaged_curve_is_refused_and_one_that_is_being_written_is_read(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "nowhere") == []
    curve = Curve(tmp_path, "training")
    curve.restart([])
    curve.add([{"own": 1.0}], 1, 2)
    path = tmp_path / "training.jsonl"
    with path.open("a") as file:
        file.write('{"step": "tra')
    assert [epoch.epoch for epoch in read_curves(tmp_path)] == [1]
    path.write_text("nonsense\n")
    with pytest.raises(DataError, match=r"training\.jsonl is no curve"):
        read_curves(tmp_path)
