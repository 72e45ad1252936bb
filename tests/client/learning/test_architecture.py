"""Networks by preset, by import path, and what is refused before anything is trained."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from fedhelp_client.architecture import (
    PRESETS,
    Architecture,
    ModelRefused,
    choose_architecture,
    preset,
)
from fedhelp_client.data.types import Task
from fedhelp_client.models import build_network

_DENSENET = """
import: monai.networks.nets.DenseNet
parameters:
  spatial_dims: 2
  in_channels: 1
  init_features: 8
  growth_rate: 4
  block_config: [2, 2]
classes: out_channels
side: 32
"""


def _file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "model.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, presets in PRESETS.items() for name in presets]
)
def test_every_preset_gives_logits_and_learns(task: Task, name: str) -> None:
    classes = 3 if task == "classification" else 2
    model = build_network(preset(name, task), task=task, classes=classes, seed=0)
    logits = model(torch.rand(2, 1, model.side, model.side))
    assert logits.shape[:2] == (2, classes)
    logits.square().mean().backward()
    if task == "classification":
        assert isinstance(model.head, nn.Linear)


def test_the_small_presets_have_a_tenth_of_the_large_ones() -> None:
    sizes = {
        name: build_network(
            preset(name, "classification"), task="classification", classes=3, seed=0
        ).parameters_in_all
        for name in ("densenet121", "densenet-small", "resnet50", "small")
    }
    assert sizes["densenet-small"] * 10 < sizes["densenet121"]
    assert sizes["small"] * 10 < sizes["resnet50"]
    assert max(sizes["small"], sizes["densenet-small"]) < 500_000


def test_a_network_by_import_path_is_cut_before_its_head_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        chosen = choose_architecture(str(_file(tmp_path, _DENSENET)), "classification")
    assert "monai.networks.nets.DenseNet" in caplog.text
    model = build_network(chosen, task="classification", classes=4, seed=1)
    assert isinstance(model.head, nn.Linear)
    images = torch.rand(3, 1, 32, 32)
    assert model.features(images).shape == (3, model.head.in_features)
    assert model(images).shape == (3, 4)
    # What is written down builds the same network again.
    again = Architecture.model_validate_json(chosen.model_dump_json())
    assert again == chosen


class TwoLinear(nn.Module):
    """Its last linear layer does not end it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(32 * 32, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.first(images.flatten(1))
        return 2 * logits + 1


def test_a_network_that_no_linear_layer_ends_stays_whole() -> None:
    chosen = Architecture(network=f"{__name__}.TwoLinear", classes="classes", side=32)
    model = build_network(chosen, task="classification", classes=3, seed=0)
    assert isinstance(model.head, nn.Identity)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    assert isinstance(model.body.get_submodule("first"), nn.Linear)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_can_touch_is_not_followed(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ModelRefused, match="chmod 600"):
        choose_architecture(str(_file(tmp_path, _DENSENET, mode)), "classification")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("side: 32", "Field required"),
        (_DENSENET + "extra: 1", "extra"),
        ("import: densenet\nside: 32", "pattern"),
        ("import: a.b;c\nside: 32", "pattern"),
        ("import: monai.networks.nets.DenseNet\nside: 8", "greater than or equal"),
        ("import: monai.networks.nets.DenseNet\nside: '32'", "integer"),
        ("[", "not YAML"),
        ("import: !!python/object/apply:os.getcwd []\nside: 32", "not YAML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        choose_architecture(str(_file(tmp_path, text)), "classification")


@pytest.mark.parametrize("choice", ["medium", "no/such/file.yaml", "densenet121"])
def test_an_unknown_preset_is_refused(choice: str) -> None:
    with pytest.raises(ModelRefused, match="large, small"):
        choose_architecture(choice, "segmentation")


@pytest.mark.parametrize(
    ("network", "parameters", "sentence"),
    [
        ("no.such.Network", {}, "ModuleNotFoundError"),
        ("monai.networks.nets.NoNet", {}, "AttributeError"),
        ("monai.networks.nets.UNet", {"depth": 3}, "TypeError"),
        ("os.getcwd", {}, r"no torch\.nn\.Module"),
        ("torch.nn.Flatten", {}, "nothing to learn"),
        ("torch.nn.Linear", {"in_features": 7, "out_features": 3}, "does not run"),
        ("torch.nn.Linear", {"in_features": 32, "out_features": 3}, r"gives \[2, 1, 32, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(
    network: str, parameters: dict[str, int], sentence: str
) -> None:
    chosen = Architecture(network=network, parameters=dict(parameters), side=32)
    with pytest.raises(ModelRefused, match=sentence):
        build_network(chosen, task="classification", classes=3, seed=0)
