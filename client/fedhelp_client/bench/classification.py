"""Accuracy of every way of learning to classify, in one world."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise
from fedhelp_client.bench.networks import network_alone
from fedhelp_client.bench.setting import (
    CENTRAL,
    EVERYBODY,
    HEAD,
    NETWORK,
    STRONGER,
    Figures,
    OfHospitals,
    UtilityBench,
    Way,
    mean_of,
    opened_models,
    pooled,
    public_set_of,
)
from fedhelp_client.bench.world import Place, World
from fedhelp_client.head import keep_classifier, train_head
from fedhelp_client.metrics import accuracy, one_vs_rest_auc
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.backbone import EMBEDDING_WIDTH, TOKEN_WIDTH
from fedhelp_secure.public_set import fit_projection

LAST_LAYER = "head alone, last layer only"
"""For comparison: a head on what `Backbone.embed` gives. Not among those that are the stronger."""


def measure_classification(
    bench: UtilityBench, world: World, progress: ProgressCallback
) -> OfHospitals:
    """Accuracy, balanced accuracy and AUC on ``world``'s withheld images."""
    figures = _alone(bench, world)
    progress("alone", world.seed, bench.seeds)
    central = train_head(
        pooled(world),
        np.concatenate([place.embeddings[:, 0] for place in world.hospitals.values()]),
        public_set_of(world, 2).projection,
    )
    scored = _figures(central.soft_labels(world.test.embeddings[:, 0]), world.test)
    figures[Way(CENTRAL), EVERYBODY] = scored
    for epsilon, noise, draws in bench.conditions():
        figures |= _kept(bench, world, epsilon, noise, draws)
        progress(f"epsilon {epsilon}, {noise}", world.seed, bench.seeds)
    return figures


def _alone(bench: UtilityBench, world: World) -> OfHospitals:
    figures: OfHospitals = {}
    projection = public_set_of(world, 2).projection
    last = fit_projection(_last_layer(world.proxy.embeddings), 2)
    for name, place in world.hospitals.items():
        head = train_head(place.dataset, place.embeddings[:, 0], projection)
        of_head = _figures(head.soft_labels(world.test.embeddings[:, 0]), world.test)
        figures[Way(HEAD), name] = of_head
        measured = [of_head]
        of_last = train_head(place.dataset, _last_layer(place.embeddings)[:, 0], last)
        figures[Way(LAST_LAYER), name] = _figures(
            of_last.soft_labels(_last_layer(world.test.embeddings)[:, 0]), world.test
        )
        if bench.networks:
            network = network_alone(
                bench.cache, place.dataset, world.test.dataset, bench.groups()[name], world.seed
            )
            measured.append(_figures(network, world.test))
            figures[Way(NETWORK), name] = measured[-1]
        # By the withheld images themselves: kind to what the federation is compared with.
        figures[Way(STRONGER), name] = max(measured)
    return figures


def _last_layer(summaries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class token and mean patch token of the final layer norm, [N, T, 768]."""
    return summaries[..., -4 * TOKEN_WIDTH :][..., :EMBEDDING_WIDTH]


def _kept(bench: UtilityBench, world: World, epsilon: str, noise: Noise, draws: int) -> OfHospitals:
    public_set = public_set_of(world, bench.probe_of(epsilon).dimension)
    drawn: dict[str, list[Figures]] = defaultdict(list)
    opened = opened_models(bench, world, public_set, epsilon=epsilon, noise=noise, draws=draws)
    for model in opened:
        for name, place in world.hospitals.items():
            kept = keep_classifier(place.dataset, place.embeddings[:, 0], public_set, model)
            drawn[name].append(_figures(kept.soft_labels(world.test.embeddings[:, 0]), world.test))
    way = Way.together("kept", epsilon, noise)
    return {(way, name): mean_of(figures) for name, figures in drawn.items()}


def _figures(probabilities: NDArray[np.floating], test: Place) -> Figures:
    labels = np.array([example.label for example in test.dataset.examples])
    measured = accuracy(probabilities.argmax(axis=1), labels)
    return measured.value, measured.balanced, one_vs_rest_auc(probabilities, labels)
