"""What one image costs: the student, the large network and the foundation model, side by side.

Time depends on a network's shape and not on what it learnt: fresh networks are measured. All run on
one thread of onnxruntime, one image at a time, in turns, so that whatever else the machine does
meets all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fedhelp_client.data.types import Task
from fedhelp_client.export.graph import student_graph
from fedhelp_client.export.parts import IMAGE
from fedhelp_client.export.quantise import quantised
from fedhelp_client.models import Preset, build_model
from fedhelp_secure.backbone import load_backbone

LARGE, SMALL, SMALL_INT8, FOUNDATION = "large", "small", "small, int8", "foundation model"
_PRESETS: tuple[Preset, Preset] = ("large", "small")
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """One network's cost."""

    network: str
    milliseconds: tuple[float, ...]
    """Of one image, a figure for each turn."""
    size_bytes: int
    """Of the file."""

    @property
    def median(self) -> float:
        """Of the turns, in milliseconds."""
        return statistics.median(self.milliseconds)


def measure(task: Task, *, turns: int, images: NDArray[np.uint8]) -> tuple[Latency, ...]:
    """Latency of each network on public ``images`` (uint8 [N, 224, 224]), which also calibrate."""
    classes = 3 if task == "classification" else 2
    large, small = (
        student_graph(build_model(preset, task=task, classes=classes, seed=0), task=task)
        for preset in _PRESETS
    )
    graphs = {LARGE: large, SMALL: small}
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files[SMALL_INT8] = quantised(small, images).SerializeToString()
    runs: dict[str, Callable[[NDArray[np.uint8]], object]] = {
        name: _runner(file) for name, file in files.items()
    }
    backbone = load_backbone()
    runs[FOUNDATION] = backbone.embed
    sizes = {name: len(file) for name, file in files.items()} | {FOUNDATION: backbone.size_bytes}
    return _in_turns(runs, sizes, turns=turns, images=images)


def _in_turns(
    runs: Mapping[str, Callable[[NDArray[np.uint8]], object]],
    sizes: Mapping[str, int],
    *,
    turns: int,
    images: NDArray[np.uint8],
) -> tuple[Latency, ...]:
    for run in runs.values():
        for _ in range(_WARM_UP):
            run(images[:1])
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        image = images[turn % len(images)][np.newaxis]
        for name, run in runs.items():
            started = time.perf_counter()
            run(image)
            taken[name].append(1000 * (time.perf_counter() - started))
    return tuple(Latency(name, tuple(figures), sizes[name]) for name, figures in taken.items())


def _runner(graph: bytes) -> Callable[[NDArray[np.uint8]], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {IMAGE: images[:, np.newaxis]})
