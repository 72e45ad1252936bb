"""Dice of every way of learning to outline a lesion, in one world.

Together, a hospital's masks are those of the opened public model itself, refined as the teacher's
labels are. A node goes on to distil them into its own network, which is not measured here: it takes
minutes for each hospital, budget and draw of the noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.networks import masks_alone
from fedhelp_client.bench.setting import (
    CENTRAL,
    EVERYBODY,
    HEAD,
    NETWORK,
    STRONGER,
    OfHospitals,
    UtilityBench,
    Way,
    opened_models,
    projected,
    public_set_of,
)
from fedhelp_client.bench.world import Place, World
from fedhelp_client.data.embeddings import resize_images, resize_masks
from fedhelp_client.metrics import dice
from fedhelp_client.node.patients import patient_examples
from fedhelp_client.progress import ProgressCallback
from fedhelp_client.teacher import refine_masks
from fedhelp_client.token_head import DIMENSIONS, fit_token_head
from fedhelp_secure.privacy.probe import soft_labels
from fedhelp_secure.public_set import PublicSet


def measure_segmentation(
    bench: UtilityBench, world: World, progress: ProgressCallback
) -> OfHospitals:
    """Mean Dice on ``world``'s withheld images."""
    figures: OfHospitals = {}
    fine = public_set_of(world, DIMENSIONS, "segmentation")
    for name, place in world.hospitals.items():
        of_head = dice_of_model(train_token_head([place], fine), fine, world.test)
        figures[Way(HEAD), name] = (of_head,)
        measured = [figures[Way(HEAD), name]]
        if bench.networks:
            masks = masks_alone(
                bench.cache, place.dataset, world.test.dataset, bench.groups()[name], world.seed
            )
            measured.append((_dice_of_masks(masks, world.test),))
            figures[Way(NETWORK), name] = measured[-1]
        # By the withheld images themselves: kind to what the federation is compared with.
        figures[Way(STRONGER), name] = max(measured)
    progress("alone", world.seed, bench.seeds)
    central = train_token_head(list(world.hospitals.values()), fine)
    figures[Way(CENTRAL), EVERYBODY] = (dice_of_model(central, fine, world.test),)
    for epsilon, noise, draws in bench.conditions():
        public_set = public_set_of(world, bench.probe_of(epsilon).dimension, "segmentation")
        opened = opened_models(bench, world, public_set, epsilon=epsilon, noise=noise, draws=draws)
        drawn = [dice_of_model(model, public_set, world.test) for model in opened]
        figures[Way.together("public model", epsilon, noise), EVERYBODY] = (statistics.mean(drawn),)
        progress(f"epsilon {epsilon}, {noise}", world.seed, bench.seeds)
    return figures


def train_token_head(places: Sequence[Place], public_set: PublicSet) -> NDArray[np.float64]:
    """`fit_token_head` on the patients of ``places``, each place's in their order."""
    return fit_token_head(
        [
            patient
            for place in places
            for patient in patient_examples(
                place.dataset, projected(public_set, place), task="segmentation"
            )
        ]
    )


def dice_of_model(model: NDArray[np.float64], public_set: PublicSet, test: Place) -> float:
    """Mean Dice on ``test`` of the masks of a public ``model`` [D, 2], at 224 x 224 pixels."""
    labels = soft_labels(model, projected(public_set, test))
    images = resize_images([example.image for example in test.dataset.examples])
    return _dice_of_masks(refine_masks(images, labels).argmax(axis=3).astype(np.uint8), test)


def _dice_of_masks(masks: NDArray[np.uint8], test: Place) -> float:
    """``masks``: 0 and 1, [N, 224, 224]."""
    true = [example.mask for example in test.dataset.examples if example.mask is not None]
    return dice(zip(masks, resize_masks(true), strict=True)).value
