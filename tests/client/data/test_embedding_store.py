"""What the backbone says is computed once an image, and what the disk changed is computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.learning import discs

from fedhelp_client.data import embedding_store
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.types import Task
from fedhelp_secure.backbone import SUMMARY_WIDTH, TOKEN_WIDTH


class CountingBackbone:
    """A backbone that says something else of every image, and counts how often it is asked."""

    asked = 0

    def tokens(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Backbone.tokens`."""
        return self._drawn(images, (257, TOKEN_WIDTH))

    def summaries(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Backbone.summaries`."""
        return self._drawn(images, (SUMMARY_WIDTH,))

    def _drawn(self, images: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
        CountingBackbone.asked += len(images)
        drawn = [np.random.default_rng(int(image.sum())).normal(size=shape) for image in images]
        return np.stack(drawn).astype(np.float32)


@pytest.fixture(autouse=True)
def _backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_store, "load_backbone", CountingBackbone)
    monkeypatch.setattr(CountingBackbone, "asked", 0)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_second_run_asks_nothing_and_gets_the_same_in_the_same_order(
    task: Task, tmp_path: Path
) -> None:
    examples = discs(5, seed=1, task=task).examples
    first = EmbeddingStore(tmp_path, task).embed(examples)
    assert CountingBackbone.asked == 5
    again = EmbeddingStore(tmp_path, task).embed(examples[::-1])
    assert CountingBackbone.asked == 5
    assert again[::-1].tobytes() == first.tobytes()


@pytest.mark.parametrize("position", [0, 40, -1])
def test_an_altered_file_is_not_believed(tmp_path: Path, position: int) -> None:
    examples = discs(2, seed=1, task="classification").examples
    first = EmbeddingStore(tmp_path, "classification").embed(examples)
    path = next(tmp_path.rglob("*.f32"))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    again = EmbeddingStore(tmp_path, "classification").embed(examples)
    assert CountingBackbone.asked == 3
    assert again.tobytes() == first.tobytes()


def test_a_truncated_file_is_not_believed(tmp_path: Path) -> None:
    examples = discs(2, seed=1, task="classification").examples
    EmbeddingStore(tmp_path, "classification").embed(examples)
    next(tmp_path.rglob("*.f32")).write_bytes(b"")
    EmbeddingStore(tmp_path, "classification").embed(examples)
    assert CountingBackbone.asked == 3


def test_only_the_owner_can_read_what_is_kept(tmp_path: Path) -> None:
    examples = discs(1, seed=1, task="classification").examples
    EmbeddingStore(tmp_path / "kept", "classification").embed(examples)
    for path in (tmp_path / "kept").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
