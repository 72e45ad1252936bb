"""What every method of the learning bench stands on in one seed: data, networks, measures."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedhelp_client.bench.federation import Noise
from fedhelp_client.bench.networks import masks_of, probabilities, trained_network
from fedhelp_client.bench.setting import Figures, UtilityBench, opened_models, public_set_of
from fedhelp_client.bench.world import Place, World
from fedhelp_client.data.embeddings import resize_images, resize_masks
from fedhelp_client.data.types import Task
from fedhelp_client.distillation import DistillationPlan, distil, distillation_plan
from fedhelp_client.metrics import accuracy, dice, hausdorff, one_vs_rest_auc
from fedhelp_client.models import HospitalModel, build_model
from fedhelp_client.training import TrainingPlan, training_plan
from fedhelp_secure.backbone import EMBEDDING_WIDTH, TOKEN_WIDTH
from fedhelp_secure.charter import Group
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.state import write_atomically


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """What a hospital learns from besides its own patients."""

    teacher: NDArray[np.float32]
    """[N, C], or [N, H, W, C]: labels on the proxies."""
    own: NDArray[np.floating] | None = None
    """[n, C], or [n, H, W, C]: what a hospital is taught of its own images; computed at home."""


@dataclass(frozen=True, eq=False)
class Ground:
    """One seed. Everything that takes long is kept in the bench's cache."""

    bench: UtilityBench
    world: World
    measured: tuple[str, ...]
    """The hospitals whose networks are trained on and measured."""

    @property
    def task(self) -> Task:
        """What the hospitals learn."""
        return self.bench.task

    @property
    def seed(self) -> int:
        """Of split, networks and orders."""
        return self.world.seed

    @property
    def folder(self) -> Path:
        """The cache."""
        return self.bench.cache

    def group(self, name: str) -> Group:
        """Of a hospital."""
        return self.bench.groups()[name]

    @cached_property
    def proxy_images(self) -> NDArray[np.uint8]:
        """[N, 224, 224], as in the public set."""
        return resize_images([example.image for example in self.world.proxy.dataset.examples])

    @cached_property
    def guidance(self) -> NDArray[np.float32]:
        """[N, E]: what the foundation model answers about the proxies."""
        embeddings = self.world.proxy.embeddings
        if self.task == "segmentation":
            mean: NDArray[np.float32] = embeddings.mean(axis=1)
            return mean
        return embeddings[:, 0, -4 * TOKEN_WIDTH :][:, :EMBEDDING_WIDTH]

    def public_set(self, epsilon: str) -> PublicSet:
        """The public set with the projection that suits a budget."""
        return public_set_of(self.world, self.bench.probe_of(epsilon).dimension, self.task)

    def opened(self, epsilon: str, noise: Noise) -> NDArray[np.float64]:
        """The public model [D, C] after all rounds: drawn once, then the same in every run."""
        public_set = self.public_set(epsilon)
        terms = self.bench.terms(epsilon, self.world.test.dataset.classes)

        def draw() -> NDArray[np.float64]:
            models = opened_models(
                self.bench, self.world, public_set, epsilon=epsilon, noise=noise, draws=1
            )
            return next(iter(models))

        return self.kept_numbers(f"{terms!r} {noise} {public_set.digest}", draw)

    def kept_numbers(
        self, what: str, draw: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """What ``draw`` gave, [..., C], as [R, C]: drawn once, and kept under the name ``what``."""
        path = self._path("opened", what, "f64")
        if not path.is_file():
            write_atomically(path, draw().astype("<f8").tobytes(), mode=0o644)
        classes = len(self.world.test.dataset.classes)
        return np.frombuffer(path.read_bytes(), dtype="<f8").reshape(-1, classes).copy()

    def alone(self, name: str, plan: TrainingPlan | None = None) -> HospitalModel:
        """A hospital's own network, trained alone; a fresh copy."""
        own = self.world.hospitals[name].dataset
        return trained_network(self.folder, own, self.group(name), self.seed, self.task, plan)

    def kept_network(self, what: str, train: Callable[[], HospitalModel]) -> HospitalModel:
        """The network that ``train`` makes, kept under the name ``what``."""
        passes = f"{self.passes('small')!r} {self.passes('large')!r}"
        path = self._path("networks", f"{what} {passes}", "pt")
        if not path.is_file():
            model = train().eval()
            buffer = io.BytesIO()
            torch.save({"large": model.parameters_in_all, "state": model.state_dict()}, buffer)
            write_atomically(path, buffer.getvalue(), mode=0o644)
            return model
        kept = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        classes = len(self.world.test.dataset.classes)
        groups: tuple[Group, ...] = ("small", "large")
        for group in groups:
            model = build_model(group, task=self.task, classes=classes, seed=self.seed)
            if model.parameters_in_all == kept["large"]:
                break
        model.load_state_dict(kept["state"])
        return model.eval()

    def plan(self, group: Group) -> DistillationPlan:
        """What a node of ``group`` does."""
        return distillation_plan(self.task, group)

    def passes(self, group: Group) -> TrainingPlan:
        """Training on own patients with as many passes as training and distillation together."""
        classes = len(self.world.test.dataset.classes)
        alone = training_plan(
            build_model(group, task=self.task, classes=classes, seed=0), self.task
        )
        return dataclasses.replace(alone, passes=alone.passes + self.plan(group).training.passes)

    def distilled(
        self, name: str, teaching: Teaching, plan: DistillationPlan | None = None
    ) -> Figures:
        """Figures of a hospital's network after the distillation of ``teaching``."""
        plan = plan or self.plan(self.group(name))
        own = self.world.hospitals[name].dataset
        sha = hashlib.sha256(teaching.teacher.tobytes())
        sha.update(b"" if teaching.own is None else teaching.own.tobytes())
        path = self._path("distilled", f"{name} {plan!r} {sha.hexdigest()}", "json")
        if not path.is_file():
            model = self.alone(name)
            distil(
                model,
                own,
                task=self.task,
                group=self.group(name),
                proxy_images=self.proxy_images,
                teacher=teaching.teacher,
                own_teacher=teaching.own,
                foundation_embeddings=self.guidance,
                seed=self.seed,
                progress=lambda step, done, total: None,
                plan=plan,
            )
            figures = list(self.figures_of(model))
            write_atomically(path, json.dumps(figures).encode(), mode=0o644)
        return tuple(json.loads(path.read_bytes()))

    def figures_of(self, model: HospitalModel) -> Figures:
        """Figures of a network on the withheld images."""
        test = self.world.test
        if self.task == "segmentation":
            return figures_of_masks(masks_of(model, test.dataset), test)
        return figures_of_labels(probabilities(model, test.dataset).double().numpy(), test)

    def _path(self, kind: str, what: str, ending: str) -> Path:
        """A file of the cache that stands for ``what`` in this seed and with this data."""
        sha = hashlib.sha256(
            f"{self.seed} {self.bench.setting} {self.bench.styles} {what}".encode()
        )
        for place in (*self.world.hospitals.values(), self.world.test):
            for example in place.dataset.examples:
                sha.update(example.image.tobytes())
        path = self.folder / kind / f"{sha.hexdigest()}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def figures_of_labels(probabilities: NDArray[np.floating], test: Place) -> Figures:
    """Accuracy, balanced accuracy and AUC of ``probabilities`` [N, C]."""
    labels = np.array([example.label for example in test.dataset.examples])
    measured = accuracy(probabilities.argmax(axis=1), labels)
    return measured.value, measured.balanced, one_vs_rest_auc(probabilities, labels)


def figures_of_masks(masks: NDArray[np.uint8], test: Place) -> Figures:
    """Mean Dice, and mean Hausdorff 95 in pixels, of ``masks`` [N, 224, 224]."""
    true = resize_masks(
        [example.mask for example in test.dataset.examples if example.mask is not None]
    )
    pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = list(
        zip(masks, true, strict=True)
    )
    return dice(pairs).value, hausdorff(pairs)
