"""Whether an exported graph says what the network says: a file that differs is not written."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from torch.nn import functional

from fedhelp_client.data.types import Task
from fedhelp_client.export.parts import IMAGE
from fedhelp_client.models import HospitalModel
from fedhelp_client.training import images_tensor, predict
from fedhelp_secure.errors import InternalError

TOLERANCE = 2e-3
"""In probability, on average over an image's pixels or classes: the two round differently. A test
measures how far below it images stay."""


class ExportDiffers(InternalError):
    """The exported graph does not say what the network says."""

    code = "export-differs"


def run_graph(graph: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ``graph`` says of grey ``images`` [N, H, W], one at a time on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    said = [session.run(None, {IMAGE: image[np.newaxis, np.newaxis]})[0] for image in images]
    return np.concatenate(said)


def probabilities(
    model: HospitalModel, images: NDArray[np.uint8], *, task: Task
) -> NDArray[np.float32]:
    """What ``model`` says of grey ``images`` [N, H, W], in the form of `graph.student_graph`."""
    logits = predict(model, images_tensor(list(images), model.side))
    if task == "classification":
        classes: NDArray[np.float32] = logits.softmax(dim=1).numpy()
        return classes
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    full = functional.interpolate(
        margin, size=images.shape[1:], mode="bilinear", align_corners=False
    )
    lesion: NDArray[np.float32] = full.sigmoid().numpy()
    return lesion


def check_same(
    graph: ModelProto, images: NDArray[np.uint8], expected: NDArray[np.floating]
) -> None:
    """Raises ExportDiffers unless ``graph`` says ``expected`` of every one of ``images``."""
    said = run_graph(graph.SerializeToString(), images)
    apart = np.abs(said - expected).reshape(len(images), -1).mean(axis=1)
    if not apart.max() <= TOLERANCE:
        raise ExportDiffers("the exported file would differ from the network; nothing is written.")


def agreement(
    graph: ModelProto, other: ModelProto, images: NDArray[np.uint8], *, task: Task
) -> float:
    """The share of images (segmentation: of pixels) of which both graphs say the same class."""
    first, second = (run_graph(one.SerializeToString(), images) for one in (graph, other))
    if task == "classification":
        return float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
    return float(((first > 0.5) == (second > 0.5)).mean())
