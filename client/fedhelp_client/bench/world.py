"""The data of one seed of the bench, split as ``fedhelp client simulate`` does, and embedded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.sources import Source
from fedhelp_client.data.split import SplitPlan, split_patients
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.progress import ProgressCallback


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
