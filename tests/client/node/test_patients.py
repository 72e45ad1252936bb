"""What a hospital computes of its images: one patient's numbers never depend on another's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.learning import discs, silent

from fedhelp_client.data import embedding_store
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import embed, resize_images
from fedhelp_client.data.types import Task
from fedhelp_client.node.patients import own_features, patient_examples
from fedhelp_secure.backbone import SUMMARY_WIDTH, TOKEN_WIDTH
from fedhelp_secure.public_set import PublicSet, fit_projection


class CompanionedBackbone:
    """A backbone that rounds an image's numbers after how many images share the call."""

    def tokens(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Backbone.tokens`."""
        return self._drawn(images, (257, TOKEN_WIDTH))

    def summaries(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Backbone.summaries`."""
        return self._drawn(images, (SUMMARY_WIDTH,))

    def _drawn(self, images: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
        drawn = [
            np.random.default_rng(int(image.sum())).normal(size=shape) + 1e-3 * len(images)
            for image in images
        ]
        return np.stack(drawn).astype(np.float32)


@pytest.fixture(autouse=True)
def _backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_store, "load_backbone", CompanionedBackbone)


def public_set(task: Task) -> PublicSet:
    images = resize_images([example.image for example in discs(6, seed=1, task=task).examples])
    embeddings = embed(CompanionedBackbone(), images, task)  # type: ignore[arg-type]
    projection = fit_projection(embeddings, 4)
    return PublicSet(images, projection.apply(embeddings), projection)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_patient_who_leaves_changes_no_bit_of_the_others(task: Task, tmp_path: Path) -> None:
    public, whole = public_set(task), discs(9, seed=2, task=task)
    before_leaving, after = (EmbeddingStore(tmp_path / name, task) for name in ("before", "after"))
    features = own_features(whole, public, before_leaving, progress=silent).projected
    without = replace(whole, examples=whole.examples[1:])
    fewer = own_features(without, public, after, progress=silent).projected
    assert fewer.tobytes() == features[1:].tobytes()
    remaining = patient_examples(without, fewer, task=task)
    before = patient_examples(whole, features, task=task)
    assert len(before) == len(remaining) + 1 == 9
    for one, other in zip(before[1:], remaining, strict=True):
        assert one.features.tobytes() == other.features.tobytes()


@pytest.mark.parametrize(
    ("task", "shape"),
    [("classification", (1, SUMMARY_WIDTH)), ("segmentation", (256, TOKEN_WIDTH + 4))],
)
def test_embeddings_are_kept_for_the_own_head(
    tmp_path: Path, task: Task, shape: tuple[int, int]
) -> None:
    own = own_features(
        discs(2, seed=3, task=task),
        public_set(task),
        EmbeddingStore(tmp_path, task),
        progress=silent,
    )
    assert own.embeddings.shape == (2, *shape)
    assert own.projected.shape == (2, shape[0], 4)
    assert np.linalg.norm(own.projected, axis=2).max() <= 1 + 1e-5
