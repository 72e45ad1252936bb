"""The data of one seed of the bench, split as ``fedhelp client simulate`` splits it, and embedded.

The backbone takes most of the bench's time and depends on neither epsilon nor mechanism: what it
says of each image is kept in a folder, under the digest of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embeddings import embed, resize_images
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitPlan, split_patients
from fedhelp_client.data.types import Dataset, Example, Task
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.backbone import WEIGHTS_DIGEST, Backbone, load_backbone
from fedhelp_secure.canonical import digest
from fedhelp_secure.state import write_atomically


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """The images at one place, and what the backbone says of them."""

    dataset: Dataset
    embeddings: NDArray[np.float32]
    """[N, T, E], as `fedhelp_client.data.embeddings.embed` makes them."""


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """One seed's federation."""

    seed: int
    hospitals: dict[str, Place]
    proxy: Place
    test: Place


class EmbeddingStore:
    """Embeddings by image, kept in ``folder`` for the next run."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._folder = folder / WEIGHTS_DIGEST.removeprefix("sha256:")[:16] / task
        self._folder.mkdir(parents=True, exist_ok=True)
        self._task: Task = task
        self._backbone: Backbone | None = None

    def embed(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """[N, T, E] of the examples' images, each computed by itself."""
        return np.stack([self._one(image) for image in resize_images([e.image for e in examples])])

    def keep(self, image: NDArray[np.uint8], embedding: NDArray[np.float32]) -> None:
        """Store ``embedding`` [T, E] as what the backbone says of ``image`` [224, 224]."""
        shape = np.array(embedding.shape, dtype="<i8").tobytes()
        data = shape + embedding.astype("<f4").tobytes()
        write_atomically(self._path(image), data, mode=0o644)

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self._path(image).is_file():
            self._backbone = self._backbone or load_backbone()
            self.keep(image, embed(self._backbone, image[np.newaxis], self._task)[0])
        data = self._path(image).read_bytes()
        shape = tuple(np.frombuffer(data[:16], dtype="<i8"))
        return np.frombuffer(data[16:], dtype="<f4").reshape(shape).astype(np.float32)

    def _path(self, image: NDArray[np.uint8]) -> Path:
        return self._folder / f"{digest(image.tobytes()).removeprefix('sha256:')}.f32"


def make_world(
    source: Source,
    store: EmbeddingStore,
    plan: SplitPlan,
    *,
    task: Task,
    seed: int,
    progress: ProgressCallback,
    styles: bool = True,
) -> World:
    """The federation of ``seed``: the product's split, each hospital with its scanner's style.

    Without ``styles`` every hospital's images are as they were published. Raises SplitImpossible if
    there are too few patients.
    """
    split = split_patients(source.cohort.patients(), plan, seed=seed)
    examples = {
        name: (
            source.cohort.at_hospital(patients, number)
            if styles
            else source.cohort.at_nobody(patients)
        )
        for number, (name, patients) in enumerate(split.hospitals.items())
    }
    examples |= {
        "proxy": source.cohort.at_nobody(split.proxy),
        "test": source.cohort.at_nobody(split.test),
    }
    places = {}
    for done, (name, taken) in enumerate(examples.items(), start=1):
        dataset = Dataset(source.cohort.name, source.cohort.classes, taken)
        if task == "segmentation":
            dataset = dataset.for_segmentation()
        places[name] = Place(dataset, store.embed(taken))
        progress("embeddings", done, len(examples))
    return World(seed=seed, proxy=places.pop("proxy"), test=places.pop("test"), hospitals=places)
