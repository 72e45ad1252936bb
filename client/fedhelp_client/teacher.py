"""From the opened public model to the teacher's labels on the proxy images.

Post-processing of public values only: the proxy images, the foundation model's answer about them
and the differentially private model. It costs no privacy and every hospital gets the same teacher.

Classification: label spreading (Zhou, Bousquet, Lal, Weston, Schoelkopf 2004) over the graph of
nearest neighbours in the foundation model's embedding space. With Q [N, C] the soft labels, S the
symmetrically normalised graph and a the share that comes from neighbours:
Q* = (1 - a) (I - a S)^-1 Q, rows scaled to sum 1.

Segmentation: the 16 x 16 labels of the patch tokens are interpolated and refined by the guided
filter (He, Sun, Tang 2013), with the image as the guide, so that contours follow its edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter, zoom

from fedhelp_client.data.types import Task
from fedhelp_secure.errors import InternalError
from fedhelp_secure.privacy.probe import soft_labels
from fedhelp_secure.public_set import PublicSet

NEIGHBOURS = 10
"""Edges of a proxy image in the graph."""

SPREAD = 0.3
"""a: share of a label that comes from neighbours."""

GUIDE_RADIUS = 8
"""Half the guided filter's window, pixels: about half a patch of the backbone at 224 x 224."""

GUIDE_SMOOTHNESS = 0.001
"""The guided filter's regulariser: grey variance (0 to 1) below which it only smooths."""

_TINY = 1e-12


class TeacherMisused(InternalError):
    """Public set, model and embeddings do not fit one another."""

    code = "teacher"


def make_teacher(
    public_set: PublicSet,
    model: NDArray[np.float64],
    embeddings: NDArray[np.float32],
    *,
    task: Task,
) -> NDArray[np.float32]:
    """The teacher's soft labels on the proxy images.

    ``model`` [D, C]: the opened public model; ``embeddings`` [N, E]: the foundation model's answer.
    Returns [N, C] for classification, [N, H, W, C] for segmentation, H and W of the proxy images.
    Raises TeacherMisused if the shapes do not fit.
    """
    return refine_labels(public_set, soft_labels(model, public_set.features), embeddings, task=task)


def refine_labels(
    public_set: PublicSet,
    labels: NDArray[np.floating],
    embeddings: NDArray[np.float32],
    *,
    task: Task,
) -> NDArray[np.float32]:
    """The teacher from soft labels [N, T, C] on the proxies; otherwise as `make_teacher`."""
    if task == "segmentation":
        return refine_masks(public_set.images, labels)
    if labels.shape[1] != 1:
        raise TeacherMisused("a classification teacher needs one feature row an image.")
    return smooth_teacher(labels[:, 0], embeddings)


def smooth_teacher(
    labels: NDArray[np.floating], embeddings: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Soft labels [N, C] spread over the neighbour graph of ``embeddings`` [N, E].

    Rows sum to 1. Raises TeacherMisused unless both have one row an image and are finite.
    """
    if labels.ndim != 2 or embeddings.ndim != 2 or len(labels) != len(embeddings):
        raise TeacherMisused("labels and embeddings must have one row for each proxy image.")
    if not (np.isfinite(labels).all() and np.isfinite(embeddings).all()):
        raise TeacherMisused("labels and embeddings must be finite.")
    graph = _neighbour_graph(embeddings.astype(np.float64))
    system = np.eye(len(graph)) - SPREAD * graph
    spread = np.linalg.solve(system, (1 - SPREAD) * labels.astype(np.float64))
    smoothed: NDArray[np.float32] = (spread / spread.sum(axis=1, keepdims=True)).astype(np.float32)
    return smoothed


def _neighbour_graph(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetrically normalised cosine graph of the nearest neighbours, [N, N], no loops."""
    standard = (embeddings - embeddings.mean(axis=0)) / (embeddings.std(axis=0) + _TINY)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True) + _TINY
    likeness = standard @ standard.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(NEIGHBOURS, len(likeness) - 1)
    nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
    edges = np.zeros_like(likeness)
    values = np.take_along_axis(likeness, nearest, axis=1)
    np.put_along_axis(edges, nearest, np.maximum(values, 0.0), axis=1)
    edges = (edges + edges.T) / 2
    degrees = np.sqrt(edges.sum(axis=1) + _TINY)
    graph: NDArray[np.float64] = edges / degrees[:, np.newaxis] / degrees[np.newaxis]
    return graph


def refine_masks(images: NDArray[np.uint8], labels: NDArray[np.floating]) -> NDArray[np.float32]:
    """Soft masks [N, H, W, C] from token labels [N, T, C] and ``images`` uint8 [N, H, W].

    T is a square: tokens row by row. Rows of classes sum to 1. Raises TeacherMisused if the shapes
    do not fit.
    """
    count, tokens, classes = labels.shape
    grid = round(tokens**0.5)
    if grid * grid != tokens or images.shape[:1] != (count,) or images.ndim != 3:
        raise TeacherMisused("token labels must form a square grid for each proxy image.")
    refined = np.empty((*images.shape, classes), dtype=np.float32)
    for index, image in enumerate(images):
        maps = labels[index].reshape(grid, grid, classes)
        refined[index] = _refine(image.astype(np.float64) / 255.0, maps)
    return refined


def _refine(guide: NDArray[np.float64], maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Soft masks [H, W, C] of one image from ``maps`` [g, g, C]."""
    scale = (guide.shape[0] / maps.shape[0], guide.shape[1] / maps.shape[1])
    channels = []
    for channel in range(maps.shape[2]):
        coarse = zoom(maps[..., channel], scale, order=1, mode="nearest", grid_mode=True)
        channels.append(_guided_filter(guide, coarse))
    stacked = np.clip(np.stack(channels, axis=-1), 0.0, 1.0) + _TINY
    normalised: NDArray[np.float64] = stacked / stacked.sum(axis=-1, keepdims=True)
    return normalised


def _guided_filter(guide: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """``target`` as a locally affine function of ``guide``; both [H, W]."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        averaged: NDArray[np.float64] = uniform_filter(
            values, size=2 * GUIDE_RADIUS + 1, mode="nearest"
        )
        return averaged

    guide_mean, target_mean = mean(guide), mean(target)
    variance = mean(guide * guide) - guide_mean**2
    covariance = mean(guide * target) - guide_mean * target_mean
    slope = covariance / (variance + GUIDE_SMOOTHNESS)
    offset = target_mean - slope * guide_mean
    filtered: NDArray[np.float64] = mean(slope) * guide + mean(offset)
    return filtered
