"""The teacher: spread over neighbours, and masks that follow edges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import zoom

from fedhelp_client.teacher import TeacherMisused, make_teacher, refine_masks, smooth_teacher
from fedhelp_secure.public_set import PublicSet, fit_projection


def _clusters(random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings of two well separated clusters and which cluster each row is of."""
    labels = np.repeat([0, 1], 30)
    centres = random.normal(size=(2, 16)) * 3
    embeddings = centres[labels] + random.normal(size=(60, 16))
    return embeddings.astype(np.float32), labels


def test_smoothing_brings_labels_closer_to_those_of_their_neighbours() -> None:
    random = np.random.default_rng(3)
    embeddings, labels = _clusters(random)
    clean = np.where(labels[:, None] == np.arange(2), 0.8, 0.2)
    noisy = np.clip(clean + random.normal(scale=0.4, size=(60, 1)) * [1, -1], 0.01, 0.99)
    noisy /= noisy.sum(axis=1, keepdims=True)
    smoothed = smooth_teacher(noisy, embeddings)
    assert smoothed.dtype == np.float32
    np.testing.assert_allclose(smoothed.sum(axis=1), 1, atol=1e-6)
    assert np.abs(smoothed - clean).mean() < 0.9 * np.abs(noisy - clean).mean()


def test_labels_that_agree_everywhere_stay() -> None:
    embeddings, _ = _clusters(np.random.default_rng(4))
    labels = np.tile([0.7, 0.2, 0.1], (60, 1))
    # Rows are scaled to sum 1 after spreading, so that agreement survives an uneven graph.
    np.testing.assert_allclose(smooth_teacher(labels, embeddings), labels, atol=1e-6)


def test_two_images_are_enough() -> None:
    labels = np.array([[0.9, 0.1], [0.2, 0.8]])
    smoothed = smooth_teacher(labels, np.array([[0.0, 1.0], [1.0, 0.0]], np.float32))
    np.testing.assert_allclose(smoothed, labels, atol=0.3)


@pytest.mark.parametrize(
    ("labels", "embeddings"),
    [
        (np.ones((3, 2)), np.ones((4, 5))),
        (np.ones(3), np.ones((3, 5))),
        (np.full((3, 2), np.nan), np.ones((3, 5))),
        (np.ones((3, 2)), np.full((3, 5), np.inf)),
    ],
)
def test_what_does_not_fit_is_refused(
    labels: NDArray[np.float64], embeddings: NDArray[np.float64]
) -> None:
    with pytest.raises(TeacherMisused):
        smooth_teacher(labels, embeddings)


def _disc(side: int, row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[0:side, 0:side] + 0.5
    inside: NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return inside


def test_refined_masks_follow_the_images_edges() -> None:
    side, grid = 224, 16
    lesion = _disc(side, 105, 120, 40)
    image = np.where(lesion, 60, 160).astype(np.uint8)
    coarse = lesion.reshape(grid, 14, grid, 14).mean(axis=(1, 3))
    noise = np.random.default_rng(1).normal(scale=0.08, size=coarse.shape)
    unsure = 0.35 + 0.3 * coarse + noise
    labels = np.stack([1 - unsure, unsure], axis=-1).reshape(1, grid * grid, 2)
    refined = refine_masks(image[None], labels)
    assert refined.shape == (1, side, side, 2)
    np.testing.assert_allclose(refined.sum(axis=-1), 1, atol=1e-5)
    interpolated = zoom(unsure, 14, order=1, mode="nearest", grid_mode=True)
    without_edges = refine_masks(np.full_like(image, 100)[None], labels)[0, ..., 1]
    wrong, wrong_interpolated, wrong_without_edges = (
        int(((mask > 0.5) != lesion).sum())
        for mask in (refined[0, ..., 1], interpolated, without_edges)
    )
    assert wrong < 0.5 * wrong_interpolated
    assert wrong < 0.5 * wrong_without_edges


def test_token_labels_must_be_square_and_one_an_image() -> None:
    images = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(TeacherMisused):
        refine_masks(images, np.ones((2, 15, 2)))
    with pytest.raises(TeacherMisused):
        refine_masks(images, np.ones((1, 16, 2)))


def test_make_teacher_goes_from_the_public_model_to_labels() -> None:
    random = np.random.default_rng(5)
    embeddings = random.normal(size=(12, 1, 20)).astype(np.float32)
    projection = fit_projection(embeddings, 6)
    images = random.integers(0, 255, size=(12, 32, 48), dtype=np.uint8)
    public_set = PublicSet(images, projection.apply(embeddings), projection)
    model = random.normal(size=(6, 3))
    teacher = make_teacher(public_set, model, embeddings[:, 0], task="classification")
    assert teacher.shape == (12, 3)
    tokens = random.normal(size=(12, 16, 20)).astype(np.float32)
    dense = PublicSet(images, projection.apply(tokens), projection)
    masks = make_teacher(dense, model[:, :2], embeddings[:, 0], task="segmentation")
    assert masks.shape == (12, 32, 48, 2)
    with pytest.raises(TeacherMisused):
        make_teacher(dense, model, embeddings[:, 0], task="classification")
