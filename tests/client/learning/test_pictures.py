"""Pictures of what a network makes of public images."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.clinics import CLASSES, tiny_lesions, tiny_source

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.pictures import write_pictures
from fedhelp_secure.privacy.plots import NoPlot


def _public(task: Task) -> Dataset:
    source = tiny_source(12, seed=0) if task == "classification" else tiny_lesions(12, seed=0)
    cohort = source.cohort
    identifiers = [patient.identifier for patient in cohort.patients()]
    dataset = Dataset("public", cohort.classes, cohort.at_nobody(identifiers))
    return dataset.for_segmentation() if task == "segmentation" else dataset


def _model(task: Task) -> HospitalModel:
    classes = len(CLASSES) if task == "classification" else 2
    return build_model("small", task=task, classes=classes, seed=0)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_picture_shows_the_answers_and_is_its_owner_s(tmp_path: Path, task: Task) -> None:
    path, again = tmp_path / "first.png", tmp_path / "second.png"
    model, public = _model(task), _public(task)
    write_pictures(model, public, path, task=task)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    # Other labels or masks are another picture.
    changed = [
        replace(
            example,
            label=0,
            mask=None if example.mask is None else np.flipud(example.mask).copy(),
        )
        for example in public.examples
    ]
    write_pictures(model, replace(public, examples=tuple(changed)), again, task=task)
    assert path.read_bytes() != again.read_bytes()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPlot):
        write_pictures(
            _model("classification"),
            _public("classification"),
            tmp_path / "a.gif",
            task="classification",
        )
    assert not list(tmp_path.iterdir())
