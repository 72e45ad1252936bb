from __future__ import annotations

import numpy as np
import pytest

from fedhelp_client.data.embeddings import embed, resize_images, resize_masks, token_targets
from fedhelp_client.data.types import DataError, Dataset
from fedhelp_secure.backbone import SUMMARY_WIDTH, Backbone, load_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


def test_one_summary_for_classification(backbone: Backbone, phantom: Dataset) -> None:
    images = resize_images([example.image for example in phantom.examples[:2]])
    embeddings = embed(backbone, images, "classification")
    assert embeddings.shape == (2, 1, SUMMARY_WIDTH)
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings[:, 0], backbone.summaries(images))


def test_patch_tokens_and_positions_for_segmentation(backbone: Backbone, phantom: Dataset) -> None:
    images = resize_images([example.image for example in phantom.examples[:2]])
    embeddings = embed(backbone, images, "segmentation")
    assert embeddings.shape == (2, 256, 388)
    assert embeddings.dtype == np.float32
    assert np.array_equal(embeddings[:, :, :384], backbone.tokens(images)[:, 1:])
    positions = embeddings[0, :, 384:]
    assert np.array_equal(positions, embeddings[1, :, 384:])
    assert np.allclose(positions.mean(axis=0), 0.0, atol=1e-6)
    # Row by row: the first 16 tokens are the top row, from left to right.
    assert (np.diff(positions[:16, 0]) > 0).all()
    assert np.ptp(positions[:16, 1]) == 0.0


def test_token_targets_are_parts_of_each_patch() -> None:
    mask = np.zeros((1, 224, 224), np.uint8)
    mask[0, :14, 14:28] = 1
    mask[0, 14:21, :14] = 1
    targets = token_targets(mask)
    assert targets.shape == (1, 256, 2)
    assert np.array_equal(targets[0, 1], [0.0, 1.0])
    assert np.array_equal(targets[0, 16], [0.5, 0.5])
    assert np.allclose(targets.sum(axis=2), 1.0)
    assert targets[0, :, 1].sum() == 1.5


def test_masks_stay_binary_when_scaled(phantom: Dataset) -> None:
    masks = [example.mask for example in phantom.examples if example.mask is not None]
    scaled = resize_masks(masks)
    assert scaled.shape == (len(masks), 224, 224)
    assert set(np.unique(scaled)) == {0, 1}
    for before, after in zip(masks, scaled, strict=True):
        assert after.mean() == pytest.approx(before.mean(), abs=0.01)


def test_images_of_different_sizes(phantom: Dataset) -> None:
    image = phantom.examples[0].image
    assert resize_images([image, image[:100, :50]]).shape == (2, 224, 224)


def test_no_image_is_a_failure() -> None:
    with pytest.raises(DataError, match="no image"):
        resize_images([])
