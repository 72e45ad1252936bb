"""Every method of the learning bench, in one seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise, make_charter
from fedhelp_client.bench.learning_baselines import (
    federated_average,
    fedmd_teaching,
    images_bytes,
    logits_bytes,
    noised_fedmd_teaching,
    plain_plan,
    weights_bytes,
)
from fedhelp_client.bench.learning_ground import (
    Ground,
    Teaching,
    figures_of_labels,
    figures_of_masks,
)
from fedhelp_client.bench.segmentation import train_token_head
from fedhelp_client.bench.setting import (
    HEAD,
    NETWORK,
    STRONGER,
    WITHOUT_NOISE,
    Figures,
    Way,
    pooled,
    projected,
    public_set_of,
)
from fedhelp_client.bench.world import Place
from fedhelp_client.data.embeddings import resize_images, resize_masks
from fedhelp_client.distillation import DistillationPlan
from fedhelp_client.head import keep_classifier, train_head
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.own_correction import correct
from fedhelp_client.teacher import refine_labels, refine_masks
from fedhelp_client.token_head import DIMENSIONS, KeptSegmenter, TokenHead, own_share
from fedhelp_client.training import train_alone
from fedhelp_secure.charter import Group
from fedhelp_secure.privacy.mechanisms import PublicLabels
from fedhelp_secure.privacy.probe import soft_labels
from fedhelp_secure.public_set import PublicSet

FULL = "our method, whole"
"""In the ablation: with what the others are compared."""
FAULTLESS = "with the proxies' true labels"
"""In the ablation: what no teacher can give, to tell its mistakes from what a network can learn."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One method at one hospital."""

    way: Way
    hospital: str
    figures: Figures
    sent: int
    """Bytes that a hospital sends in all."""


def compare(ground: Ground, local: tuple[str, ...]) -> Iterator[Measured]:
    """All methods at the measured hospitals; ``local``: budgets of each hospital's own noise."""
    yield from _alone(ground)
    yield from _fedmd(ground, local)
    yield from _everybody(ground)
    yield from _ours(ground, WITHOUT_NOISE, "none")
    for epsilon in ground.bench.epsilons:
        yield from _ours(ground, epsilon, "shared")
    for epsilon in local:
        yield from _ours(ground, epsilon, "local")


def _alone(ground: Ground) -> Iterator[Measured]:
    for name in ground.measured:
        head = _head_figures(ground, [name])
        network = ground.figures_of(ground.alone(name))
        longer = ground.alone(name, ground.passes(ground.group(name)))
        yield Measured(Way(HEAD), name, head, 0)
        yield Measured(Way(NETWORK), name, network, 0)
        yield Measured(Way("network alone, all passes"), name, ground.figures_of(longer), 0)
        # By the withheld images themselves: kind to what the federation is compared with.
        yield Measured(Way(STRONGER), name, max(head, network), 0)


def _fedmd(ground: Ground, local: tuple[str, ...]) -> Iterator[Measured]:
    teachings = [(Way("FedMD, no privacy"), fedmd_teaching(ground), logits_bytes(ground))]
    for epsilon in local:
        teaching, sent = noised_fedmd_teaching(ground, epsilon)
        teachings.append((Way("FedMD, local noise", epsilon), teaching, sent))
    for way, teaching, sent in teachings:
        for name in ground.measured:
            plan = plain_plan(ground, ground.group(name))
            yield Measured(way, name, ground.distilled(name, teaching, plan), sent)


def _everybody(ground: Ground) -> Iterator[Measured]:
    """One network or head for all: FedAvg, and what one hospital with all patients would have."""
    average = ground.kept_network("average", lambda: federated_average(ground))
    central = ground.kept_network("central", lambda: _central_network(ground))
    head = _head_figures(ground, list(ground.world.hospitals))
    pool = images_bytes(ground)
    for name in ground.measured:
        way = Way("FedAvg, small networks, no privacy")
        yield Measured(way, name, ground.figures_of(average), weights_bytes(average))
        yield Measured(Way("central network"), name, ground.figures_of(central), pool)
        yield Measured(Way("central head"), name, head, pool)


def _ours(ground: Ground, epsilon: str, noise: Noise) -> Iterator[Measured]:
    public_set = ground.public_set(epsilon)
    model = ground.opened(epsilon, noise)
    terms = ground.bench.terms(epsilon, ground.world.test.dataset.classes)
    charter = make_charter(terms, public_set)
    sent = charter.rounds.count * charter.secure_sum.ciphertext_bytes
    teach = teacher_of(ground, public_set, model)
    test = ground.world.test
    for name in ground.measured:
        way = Way.together("distilled", epsilon, noise)
        yield Measured(way, name, ground.distilled(name, teach(name)), sent)
        if ground.task == "segmentation":
            masks = _mask_figures(soft_labels(model, projected(public_set, test)), test)
            yield Measured(Way.together("public model", epsilon, noise), name, masks, sent)
        kept = _kept_figures(ground, name, public_set, model)
        yield Measured(Way.together("kept", epsilon, noise), name, kept, sent)


def teacher_of(
    ground: Ground,
    public_set: PublicSet,
    model: NDArray[np.float64],
    *,
    refined: bool = True,
    corrected: bool = True,
) -> Callable[[str], Teaching]:
    """What each hospital is taught under the opened ``model``, as a node does it.

    Without ``refined`` labels on the proxies stay as they are, without ``corrected`` the hospital's
    own patients do not change them.
    """
    labels = PublicLabels(proxies=soft_labels(model, public_set.features), model=model)

    def teaching(name: str) -> Teaching:
        place, plan = ground.world.hospitals[name], ground.plan(ground.group(name))
        taught = correct(
            labels,
            place.dataset,
            projected(public_set, place),
            public_set,
            task=ground.task,
            plan=plan if corrected else dataclasses.replace(plan, own_share=0.0),
        )
        if refined:
            teacher = refine_labels(public_set, taught.proxies, ground.guidance, task=ground.task)
        elif ground.task == "classification":
            teacher = taught.proxies[:, 0].astype(np.float32)
        else:
            grid = round(taught.proxies.shape[1] ** 0.5)
            teacher = taught.proxies.reshape(len(taught.proxies), grid, grid, -1).astype(np.float32)
        return Teaching(teacher, taught.own)

    return teaching


def ablate(ground: Ground, epsilon: str) -> Iterator[Measured]:
    """The whole method, and it without each of its terms, from one and the same opened model.

    Last, as a bound, the whole method with a teacher that makes no mistake about the proxies.
    """
    public_set = ground.public_set(epsilon)
    model = ground.opened(epsilon, "shared")
    refined = teacher_of(ground, public_set, model)
    coarse = teacher_of(ground, public_set, model, refined=False)
    for name in ground.measured:
        plan = ground.plan(ground.group(name))
        whole, unrefined = refined(name), coarse(name)
        yield Measured(Way(FULL, epsilon), name, ground.distilled(name, whole), 0)
        for term, changed in _without(plan).items():
            figures = ground.distilled(name, whole, changed)
            yield Measured(Way(f"without {term}", epsilon), name, figures, 0)
        smoothing = "label spreading" if ground.task == "classification" else "mask refinement"
        figures = ground.distilled(name, unrefined)
        yield Measured(Way(f"without {smoothing}", epsilon), name, figures, 0)
        if ground.task == "segmentation" and plan.own_share > 0:
            uncorrected = teacher_of(ground, public_set, model, corrected=False)
            figures = ground.distilled(name, uncorrected(name))
            yield Measured(Way("without own correction", epsilon), name, figures, 0)
        if plan.relation > 0:
            unguided = dataclasses.replace(plan, relation=0.0)
            figures = ground.distilled(name, unrefined, unguided)
            yield Measured(Way("without foundation model", epsilon), name, figures, 0)
        faultless = dataclasses.replace(whole, teacher=_true_labels(ground))
        yield Measured(Way(FAULTLESS, epsilon), name, ground.distilled(name, faultless), 0)


def _true_labels(ground: Ground) -> NDArray[np.float32]:
    """[N, C], or [N, 224, 224, 2]: the proxies' own, which a federation does not have."""
    proxies = ground.world.proxy.dataset
    if ground.task == "classification":
        labels = [example.label for example in proxies.examples]
        return np.eye(len(proxies.classes), dtype=np.float32)[labels]
    lesion = resize_masks(
        [example.mask for example in proxies.examples if example.mask is not None]
    )
    return np.stack([1 - lesion, lesion], axis=3).astype(np.float32)


def _without(plan: DistillationPlan) -> dict[str, DistillationPlan]:
    """The plan with one term off, by the term's name; only of terms that are on."""
    off = {
        "own term": dataclasses.replace(plan, own=0.0),
        "teacher term": dataclasses.replace(plan, teacher=0.0),
        "public term": dataclasses.replace(plan, public=0.0),
        "relation term": dataclasses.replace(plan, relation=0.0),
        "gates": dataclasses.replace(plan, gated=False),
    }
    return {term: changed for term, changed in off.items() if changed != plan}


def _central_network(ground: Ground) -> HospitalModel:
    group: Group = "large"
    everybody = pooled(ground.world)
    classes = len(everybody.classes)
    model = build_model(group, task=ground.task, classes=classes, seed=ground.seed)
    train_alone(
        model,
        everybody,
        task=ground.task,
        seed=ground.seed,
        progress=lambda step, done, total: None,
        plan=ground.passes(group),
    )
    return model


def _head_figures(ground: Ground, names: Sequence[str]) -> Figures:
    """A linear head on the public backbone, fitted to the patients of the hospitals ``names``."""
    test = ground.world.test
    if ground.task == "segmentation":
        return _mask_figures(_token_head(ground, names).soft_labels(test.embeddings), test)
    places = [ground.world.hospitals[name] for name in names]
    examples = tuple(example for place in places for example in place.dataset.examples)
    head = train_head(
        dataclasses.replace(test.dataset, examples=examples),
        np.concatenate([place.embeddings[:, 0] for place in places]),
        public_set_of(ground.world, 2).projection,
    )
    return figures_of_labels(head.soft_labels(test.embeddings[:, 0]), test)


def _token_head(ground: Ground, names: Sequence[str]) -> TokenHead:
    """A head on the patch tokens of the patients of the hospitals ``names``."""
    fine = public_set_of(ground.world, DIMENSIONS, ground.task)
    weights = ground.kept_numbers(
        f"token head {' '.join(names)} {fine.digest}",
        lambda: train_token_head([ground.world.hospitals[name] for name in names], fine),
    )
    return TokenHead(fine.projection, weights)


def _kept_figures(
    ground: Ground, name: str, public_set: PublicSet, model: NDArray[np.float64]
) -> Figures:
    """The public model and the hospital's own head together: what a node keeps."""
    test, place = ground.world.test, ground.world.hospitals[name]
    if ground.task == "segmentation":
        public = TokenHead(public_set.projection, model)
        share = own_share(len(place.dataset.patients()))
        segmenter = KeptSegmenter(public, _token_head(ground, [name]), share=share)
        return _mask_figures(segmenter.soft_labels(test.embeddings), test)
    kept = keep_classifier(place.dataset, place.embeddings[:, 0], public_set, model)
    return figures_of_labels(kept.soft_labels(test.embeddings[:, 0]), test)


def _mask_figures(labels: NDArray[np.float64], test: Place) -> Figures:
    """Of token labels [N, T, 2], refined as the teacher's are."""
    images = resize_images([example.image for example in test.dataset.examples])
    return figures_of_masks(refine_masks(images, labels).argmax(axis=3).astype(np.uint8), test)
