"""Going on after a crash: what training and distillation leave after an epoch.

A checkpoint holds the network, the optimiser with its schedule, the epoch and the random states, so
that a run that was killed ends with the very numbers of one that was not. It saw patients: it lies
in the state directory, for its owner only, and goes when the node has finished.

A file is used only for the run that it belongs to: its first field is a digest of the network as it
was before, the plan, the seed and all tensors that are learnt from.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from fedhelp_client.models import HospitalModel
from fedhelp_secure.state import write_atomically

_log = logging.getLogger(__name__)

SECONDS_BETWEEN = 10.0
"""At least, between two checkpoints: one of a large network takes 0.3 s, a short epoch less."""


class Checkpoint:
    """One file, for one training or one distillation."""

    def __init__(self, path: Path, *, seconds_between: float = SECONDS_BETWEEN) -> None:
        self._path = path
        self._seconds_between = seconds_between
        self._saved = time.monotonic()

    def load(self, run: str) -> dict[str, Any] | None:
        """What `save` wrote for ``run``; None if there is nothing, or something else's."""
        try:
            # weights_only: the file is data, whoever wrote it.
            content = torch.load(io.BytesIO(self._path.read_bytes()), weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, UnpicklingError, ValueError, EOFError, KeyError):
            _log.warning("%s cannot be read; this step starts from its beginning.", self._path)
            return None
        if not isinstance(content, dict) or content.get("run") != run:
            _log.warning("%s is of another run; this step starts from its beginning.", self._path)
            return None
        return content

    def due(self, *, last: bool) -> bool:
        """Whether to save now: always after the ``last`` epoch."""
        return last or time.monotonic() - self._saved >= self._seconds_between

    def save(self, content: Mapping[str, Any]) -> None:
        """Write ``content``, in the place of what was there."""
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        write_atomically(self._path, buffer.getvalue())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The run is over."""
        self._path.unlink(missing_ok=True)


def run_digest(model: HospitalModel, seed: int, plan: object, *tensors: Tensor | None) -> str:
    """Stands for everything that a training's result depends on; ``plan`` by its repr."""
    sha = hashlib.sha256(f"{seed} {plan!r} {model.side}".encode())
    parts: list[tuple[str, Tensor | None]] = list(model.state_dict().items())
    parts += [(str(number), tensor) for number, tensor in enumerate(tensors)]
    for name, tensor in parts:
        sha.update(f"{name} {None if tensor is None else list(tensor.shape)}".encode())
        if tensor is not None:
            sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()
