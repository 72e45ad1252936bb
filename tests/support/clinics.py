"""Tiny images, some with lesions, and, in a bench's cache, embeddings made up for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedhelp_client.data.cohort import ImageCohort
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import GRID, resize_images, resize_masks, token_targets
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitPlan, split_patients
from fedhelp_client.data.types import Dataset, Example

CLASSES = ("benign", "malignant", "normal")
WIDTH = 60
TOKEN_WIDTH = 110


def tiny_source(patients: int, *, seed: int) -> Source:
    """``patients`` patients with one noise image each; the classes are equally common."""
    random = np.random.default_rng(1)
    examples = tuple(
        Example(random.integers(0, 256, (16, 16), dtype=np.uint8), number % 3, f"p{number:03d}")
        for number in range(patients)
    )
    cohort = ImageCohort(Dataset("tiny", CLASSES, examples), seed=seed)
    return Source("folder", "Data: tiny.", cohort)


def tiny_lesions(patients: int, *, seed: int) -> Source:
    """``patients`` patients with one noise image each, a quarter of which is lesion."""
    random = np.random.default_rng(3)
    examples = []
    for number in range(patients):
        mask = np.zeros((GRID, GRID), np.uint8)
        down, across = random.integers(0, GRID // 2, 2)
        mask[down : down + GRID // 2, across : across + GRID // 2] = 1
        image = random.integers(0, 256, (GRID, GRID), dtype=np.uint8)
        examples.append(Example(image, number % 2, f"p{number:03d}", mask))
    cohort = ImageCohort(Dataset("tiny", CLASSES[:2], tuple(examples)), seed=seed)
    return Source("folder", "Data: tiny lesions.", cohort)


def fill_token_store(folder: Path, source: Source, *, seed: int) -> None:
    """As `fill_store`, for `tiny_lesions`: tokens of a lesion lie elsewhere than others."""
    random = np.random.default_rng(4)
    direction = random.normal(size=TOKEN_WIDTH)
    store = EmbeddingStore(folder, "segmentation")
    examples = _all_examples(source, seed=seed)
    images = resize_images([example.image for example in examples])
    masks = resize_masks([example.mask for example in examples if example.mask is not None])
    for image, targets in zip(images, token_targets(masks), strict=True):
        tokens = 2.0 * random.normal(size=(GRID * GRID, TOKEN_WIDTH))
        tokens += np.outer(targets[:, 1], direction)
        store.keep(image, tokens.astype(np.float32))


def fill_store(folder: Path, source: Source, *, seed: int) -> None:
    """Embeddings that scatter about the centre of their class, for every image of a split.

    They stand where the store looks for what the backbone said before.
    """
    random = np.random.default_rng(2)
    centres = random.normal(size=(len(CLASSES), WIDTH))
    store = EmbeddingStore(folder, "classification")
    examples = _all_examples(source, seed=seed)
    images = resize_images([example.image for example in examples])
    for example, image in zip(examples, images, strict=True):
        embedding = centres[example.label] + 2.5 * random.normal(size=WIDTH)
        store.keep(image, embedding[np.newaxis].astype(np.float32))


def _all_examples(source: Source, *, seed: int) -> list[Example]:
    split = split_patients(source.cohort.patients(), SplitPlan(), seed=seed)
    examples = [*source.cohort.at_nobody(split.test + split.proxy)]
    for number, patients in enumerate(split.hospitals.values()):
        examples += source.cohort.at_hospital(patients, number)
    return examples
