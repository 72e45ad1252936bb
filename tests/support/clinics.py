"""A folder of tiny images and, in a bench's cache, embeddings made up for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedhelp_client.data.cohort import ImageCohort
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitPlan, split_patients
from fedhelp_client.data.types import Dataset, Example

CLASSES = ("benign", "malignant", "normal")
WIDTH = 60


def tiny_source(patients: int, *, seed: int) -> Source:
    """``patients`` patients with one noise image each; the classes are equally common."""
    random = np.random.default_rng(1)
    examples = tuple(
        Example(random.integers(0, 256, (16, 16), dtype=np.uint8), number % 3, f"p{number:03d}")
        for number in range(patients)
    )
    cohort = ImageCohort(Dataset("tiny", CLASSES, examples), seed=seed)
    return Source("folder", "Data: tiny.", cohort)


def fill_store(folder: Path, source: Source, *, seed: int) -> None:
    """Embeddings that scatter about the centre of their class, for every image of a split.

    They stand where the store looks for what the backbone said before.
    """
    random = np.random.default_rng(2)
    centres = random.normal(size=(len(CLASSES), WIDTH))
    store = EmbeddingStore(folder, "classification")
    split = split_patients(source.cohort.patients(), SplitPlan(), seed=seed)
    examples = [*source.cohort.at_nobody(split.test + split.proxy)]
    for number, patients in enumerate(split.hospitals.values()):
        examples += source.cohort.at_hospital(patients, number)
    images = resize_images([example.image for example in examples])
    for example, image in zip(examples, images, strict=True):
        embedding = centres[example.label] + 2.5 * random.normal(size=WIDTH)
        store.keep(image, embedding[np.newaxis].astype(np.float32))
