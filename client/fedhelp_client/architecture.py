"""Which network a hospital trains: a preset by name, or any torch or MONAI network by import path.

    import: monai.networks.nets.DenseNet121
    parameters: {spatial_dims: 2, in_channels: 1}
    classes: out_channels
    side: 96

``classes`` names the parameter that takes the number of classes; leave it out if ``parameters``
gives it. An import path is code of the hospital's own choice, which runs with the node's rights:
only a file that nobody but its owner can read or write is followed, and the node logs that it was.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from stat import S_IMODE

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from fedhelp_client.data.types import Task
from fedhelp_secure.errors import ConfigurationError

_log = logging.getLogger(__name__)

_OTHERS = 0o077
_LARGEST_FILE = 65536


class ModelRefused(ConfigurationError):
    """There is no such network, or it does not fit the task."""

    code = "model"


class Architecture(BaseModel):
    """A network before it has learnt anything."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    network: str = Field(
        validation_alias=AliasChoices("import", "network"),
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        max_length=200,
    )
    """Import path of a `torch.nn.Module`, or of what makes one."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Passed by name."""
    classes: str | None = None
    """Name of the parameter for the number of classes, if ``parameters`` does not give it."""
    side: int = Field(ge=16, le=1024)
    """Pixels of a side of the images that it takes."""

    def arguments(self, classes: int) -> dict[str, JsonValue]:
        """Parameters for so many classes."""
        named: dict[str, JsonValue] = {} if self.classes is None else {self.classes: classes}
        return self.parameters | named


def _resnet(name: str, widths: tuple[int, ...], layers: tuple[int, ...]) -> Architecture:
    return Architecture(
        network="monai.networks.nets.resnet.ResNet",
        parameters={
            "block": name,
            "layers": list(layers),
            "block_inplanes": list(widths),
            "spatial_dims": 2,
            "n_input_channels": 1,
            "conv1_t_size": 7,
            "conv1_t_stride": 2,
        },
        classes="num_classes",
        side=96,
    )


def _densenet(initial: int, growth: int, blocks: tuple[int, ...]) -> Architecture:
    return Architecture(
        network="monai.networks.nets.densenet.DenseNet",
        parameters={
            "spatial_dims": 2,
            "in_channels": 1,
            "init_features": initial,
            "growth_rate": growth,
            "block_config": list(blocks),
        },
        classes="out_channels",
        side=96,
    )


def _unet(channels: tuple[int, ...], residual_units: int, *, side: int = 64) -> Architecture:
    return Architecture(
        network="monai.networks.nets.unet.UNet",
        parameters={
            "spatial_dims": 2,
            "in_channels": 1,
            "channels": list(channels),
            "strides": [2] * (len(channels) - 1),
            "num_res_units": residual_units,
            "norm": "batch",
        },
        classes="out_channels",
        side=side,
    )


def _segresnet(filters: int, depth: int, *, side: int = 64) -> Architecture:
    """One residual block at each of ``depth`` sizes but the first, where it costs most; one up."""
    return Architecture(
        network="monai.networks.nets.segresnet.SegResNet",
        parameters={
            "spatial_dims": 2,
            "in_channels": 1,
            "init_filters": filters,
            "blocks_down": [0, *[1] * (depth - 1)],
            "blocks_up": [1] * (depth - 1),
        },
        classes="out_channels",
        side=side,
    )


PRESETS: dict[Task, dict[str, Architecture]] = {
    "classification": {
        # ResNet-10, and the same with a quarter of the channels: the defaults.
        "large": _resnet("basic", (64, 128, 256, 512), (1, 1, 1, 1)),
        "small": _resnet("basic", (16, 32, 64, 128), (1, 1, 1, 1)),
        "densenet121": _densenet(64, 32, (6, 12, 24, 16)),
        "densenet-small": _densenet(24, 12, (3, 6, 12, 8)),
        "resnet50": _resnet("bottleneck", (64, 128, 256, 512), (3, 4, 6, 3)),
    },
    "segmentation": {
        "large": _unet((16, 32, 64, 128, 256), 2),
        "small": _segresnet(8, 4),
        "unet-small": _unet((12, 24, 48, 96), 1),
        "unet-96": _unet((16, 32, 64, 128, 256), 2, side=96),
    },
}
"""By task and name; ``large`` and ``small`` are what hospitals of those groups train by default."""


def preset(name: str, task: Task) -> Architecture:
    """The preset of that name; raises ModelRefused if ``task`` has none."""
    found = PRESETS.get(task, {}).get(name)
    if found is None:
        known = ", ".join(PRESETS.get(task, {})) or "none"
        raise ModelRefused(f"there is no such model; presets for this task: {known}.")
    return found


def choose_architecture(choice: str, task: Task) -> Architecture:
    """What the operator chose: the name of a preset, or a YAML file with an import path.

    Raises ModelRefused for an unknown name, a file that others can read or write, or bad content.
    """
    if choice in PRESETS[task] or not Path(choice).exists():
        return preset(choice, task)
    try:
        document = yaml.safe_load(_read_private(Path(choice)))
        architecture = Architecture.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ModelRefused(f"{choice} describes no model: {where}: {first['msg']}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelRefused(
            f"{choice} is not YAML; see docs/ml-engineer.md for its form."
        ) from error
    _log.warning(
        "code of this hospital's own choice builds its model: %s (from %s)",
        architecture.network,
        choice,
    )
    return architecture


def _read_private(path: Path) -> bytes:
    """The file's bytes, if only its owner, who runs this, may read or write it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_LARGEST_FILE)
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}.") from error
    if status.st_uid != os.geteuid() or S_IMODE(status.st_mode) & _OTHERS:
        raise ModelRefused(
            f"{path} names code to run, so only you may read or write it; make it yours and run "
            f"'chmod 600 {path}'."
        )
    return content
