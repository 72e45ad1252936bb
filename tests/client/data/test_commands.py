from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fedhelp_client.data.cohort import PhantomCohort
from fedhelp_client.data.commands import build_public_set, check, simulate
from fedhelp_client.data.folder import load_images, write_folder, write_images
from fedhelp_client.data.types import Dataset
from fedhelp_secure.public_set import PublicSet


@pytest.fixture(scope="module")
def application() -> typer.Typer:
    app = typer.Typer()
    app.command("simulate")(simulate)
    app.command("public-set")(build_public_set)
    app.command("check")(check)
    return app


def test_check_shows_what_stands_under_two_identifiers(
    application: typer.Typer, tmp_path: Path
) -> None:
    cohort = PhantomCohort(6, seed=0, task="classification")
    everyone = [patient.identifier for patient in cohort.patients()]
    examples = cohort.at_nobody(everyone)
    data = tmp_path / "data"
    write_folder(Dataset("phantom", cohort.classes, examples), data)
    good = CliRunner().invoke(application, ["check", str(data)])
    assert good.exit_code == 0, good.output
    assert f"{len(examples)} images of 6 patients" in good.output
    assert "No image looks like one of another patient." in good.output
    capped = CliRunner().invoke(application, ["check", str(data), "--maximum-images", "1"])
    assert f"{len(examples) - 6} images are beyond 1 of one patient" in capped.output

    again = replace(examples[0], patient="somebody-else")
    bad = tmp_path / "bad"
    write_folder(Dataset("phantom", cohort.classes, (*examples, again)), bad)
    refused = CliRunner().invoke(application, ["check", str(bad)])
    assert refused.exit_code == 1
    last = f"image-{len(examples) + 1:05d}.png"
    assert f"image-00001.png and {last} are the same picture." in refused.output
    assert "give both lines the same patient_id" in refused.output
    assert not any(name in refused.output for name in (*everyone, "somebody-else"))


def test_simulate_on_the_command_line(application: typer.Typer, tmp_path: Path) -> None:
    cohort = PhantomCohort(40, seed=0, task="classification")
    everyone = [patient.identifier for patient in cohort.patients()]
    data = tmp_path / "data"
    write_folder(Dataset("phantom", cohort.classes, cohort.at_nobody(everyone)), data)
    options = ["--data", str(data), "--large", "1", "--small", "1", "--seed", "3"]
    out = tmp_path / "out"
    result = CliRunner().invoke(application, ["simulate", *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "Data: data," in result.output
    assert "1 large and 1 small" in result.output
    assert sorted(path.name for path in (out / "hospitals").iterdir()) == ["large-1", "small-1"]


@pytest.mark.parametrize(("task", "tokens"), [("classification", 1), ("segmentation", 256)])
def test_public_set_on_the_command_line(
    application: typer.Typer, tmp_path: Path, phantom: Dataset, task: str, tokens: int
) -> None:
    write_images([example.image for example in phantom.examples[:6]], tmp_path / "proxy")
    options = ["--images", str(tmp_path / "proxy"), "--task", task, "--dimension", "4"]
    out = tmp_path / "public.npz"
    result = CliRunner().invoke(application, ["public-set", *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    public_set = PublicSet.load(out)
    assert public_set.images.shape == (6, 224, 224)
    assert public_set.features.shape == (6, tokens, 4)
    assert len(load_images(tmp_path / "proxy")) == 6
    assert np.isfinite(public_set.features).all()


def test_the_commands_import_nothing_heavy() -> None:
    code = (
        "import sys, fedhelp_client.data.commands as _;"
        "heavy = {'torch', 'monai', 'scipy', 'PIL', 'onnx', 'onnxruntime', 'numpy'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
