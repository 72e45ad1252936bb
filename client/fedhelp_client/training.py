"""Training on a hospital's own patients, and asking a network.

Everything random in training (order, augmentation) comes from one seed through a
`torch.Generator`; nothing here reaches noise or keys. Optimiser: AdamW (Loshchilov and Hutter 2019)
with a linear warm-up and a cosine decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedhelp_client.checkpoint import Checkpoint, run_digest
from fedhelp_client.curve import Curve
from fedhelp_client.data.types import DataError, Dataset, Task
from fedhelp_client.epochs import Epochs, Optimiser, Terms
from fedhelp_client.models import HospitalModel
from fedhelp_client.progress import ProgressCallback

_MINIMUM_EPOCHS = 4
_EVALUATION_BATCH = 32


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long and how fast to train."""

    passes: int
    """Images shown in all, so that time does not grow with a small hospital's epochs."""
    learning_rate: float
    batch: int = 16
    weight_decay: float = 0.01
    label_smoothing: float = 0.1

    def epochs(self, images: int) -> int:
        """Epochs over ``images`` images: at least a few, however many there are."""
        return max(_MINIMUM_EPOCHS, math.ceil(self.passes / images))


_LARGE_PARAMETERS = 1_000_000

_PLANS: dict[tuple[Task, bool], TrainingPlan] = {
    ("classification", True): TrainingPlan(passes=1500, learning_rate=1e-3),
    ("classification", False): TrainingPlan(passes=2500, learning_rate=2e-3),
    ("segmentation", True): TrainingPlan(passes=3000, learning_rate=2e-3),
    ("segmentation", False): TrainingPlan(passes=1500, learning_rate=4e-3, batch=8),
}


def training_plan(model: HospitalModel, task: Task) -> TrainingPlan:
    """The plan for a network of this size, chosen on public data."""
    return _PLANS[task, model.parameters_in_all >= _LARGE_PARAMETERS]


def images_tensor(images: Sequence[NDArray[np.uint8]], side: int) -> Tensor:
    """Grey images of any sizes as float [N, 1, side, side] from 0 to 1.

    Raises DataError if there is none.
    """
    if len(images) == 0:
        raise DataError("There is no image to learn from; give a folder with images.")
    return torch.cat([_resized(image, side) / 255.0 for image in images])


def masks_tensor(dataset: Dataset, side: int) -> Tensor:
    """Masks as float [N, 1, side, side]: the share of each pixel that is lesion.

    Raises DataError if an image has none.
    """
    parts = []
    for example in dataset.examples:
        if example.mask is None:
            raise DataError(f"An image of {dataset.name} has no mask; segmentation needs them all.")
        parts.append(_resized(example.mask, side))
    return torch.cat(parts)


def labels_tensor(dataset: Dataset) -> Tensor:
    """Labels as int64 [N]."""
    return torch.tensor([example.label for example in dataset.examples], dtype=torch.int64)


def targets_tensor(dataset: Dataset, *, task: Task, side: int) -> Tensor:
    """What the own loss compares with: one-hot labels [N, C], or masks [N, 2, side, side]."""
    if task == "segmentation":
        lesion = masks_tensor(dataset, side)
        return torch.cat([1.0 - lesion, lesion], dim=1)
    return functional.one_hot(labels_tensor(dataset), len(dataset.classes)).float()


def augment(
    images: Tensor, maps: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Randomly moved images, and ``maps`` moved alike; grey values of the images vary too.

    ``images`` [B, 1, S, S] from 0 to 1, ``maps`` [B, K, S, S] or None. Mirrored left and right,
    turned by up to 9 degrees, scaled by 0.85 to 1.1, shifted by up to a twentieth; gamma and gain
    vary as between scanners. Never upside down: ultrasound has a top.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, scale = uniform(-0.15, 0.15), uniform(0.85, 1.1)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = (
        torch.stack([cosine * mirror, -sine, uniform(-0.1, 0.1)], dim=1),
        torch.stack([sine * mirror, cosine, uniform(-0.1, 0.1)], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gamma = torch.exp(uniform(-0.3, 0.3)).view(-1, 1, 1, 1)
    gain = uniform(0.85, 1.15).view(-1, 1, 1, 1)
    grey = (moved.clamp(1e-4, 1.0) ** gamma * gain).clamp(0.0, 1.0)
    if maps is None:
        return grey, None
    return grey, functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """[C]: the inverse root of each class's frequency, 1 for a class that does not occur."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = (counts > 0).sum()
    return torch.where(counts > 0, (counts.sum() / present / counts.clamp(min=1)).sqrt(), 1.0)


OwnLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits and targets of own patients to a number."""


def own_loss(dataset: Dataset, *, task: Task, label_smoothing: float) -> OwnLoss:
    """The supervised loss on own patients.

    Classification: cross-entropy, balanced by class, with smoothed labels. Segmentation: pixels'
    cross-entropy plus the lesion's soft Dice loss (Milletari et al. 2016).
    """
    if task == "segmentation":
        overlap = DiceLoss(include_background=False, softmax=True, squared_pred=True)

        def dense(logits: Tensor, targets: Tensor) -> Tensor:
            total: Tensor = functional.cross_entropy(logits, targets) + overlap(logits, targets)
            return total

        return dense
    weights = class_weights(labels_tensor(dataset), len(dataset.classes))

    def balanced(logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits, targets, weight=weights, label_smoothing=label_smoothing
        )

    return balanced


def batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """A random order of ``count`` indices in batches; a last batch of one is joined to another.

    Batch normalisation cannot learn from one image.
    """
    parts = list(torch.split(torch.randperm(count, generator=generator), size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def train_alone(  # noqa: PLR0913 - what is learnt from, how, and what is left of it
    model: HospitalModel,
    dataset: Dataset,
    *,
    task: Task,
    seed: int,
    progress: ProgressCallback,
    plan: TrainingPlan | None = None,
    checkpoint: Checkpoint | None = None,
    curve: Curve | None = None,
) -> None:
    """Train ``model`` on a hospital's own patients and nothing else.

    ``progress`` is called after each epoch with "training"; with a ``checkpoint`` the epochs that
    it holds are not run again; ``curve`` gets the loss of each. Raises DataError if there is no
    image, or, for segmentation, an image without a mask.
    """
    plan = plan or training_plan(model, task)
    images = images_tensor([example.image for example in dataset.examples], model.side)
    targets = targets_tensor(dataset, task=task, side=model.side)
    loss_of = own_loss(dataset, task=task, label_smoothing=plan.label_smoothing)
    generator = torch.Generator().manual_seed(seed)
    epochs = plan.epochs(len(images))
    order = [batches(len(images), plan.batch, generator) for _ in range(epochs)]
    optimiser = Optimiser(model, plan, steps=sum(map(len, order)))
    run = run_digest(model, seed, plan, images, targets) if checkpoint else ""

    def epoch(number: int) -> Iterator[Terms]:
        for part in order[number]:
            shown, wanted = augment_with(images[part], targets[part], generator)
            yield {"own": loss_of(model(shown), wanted)}

    made = Epochs(model, optimiser, generator, "training", run, checkpoint, curve)
    made.go(epochs, epoch, progress)


def augment_with(
    images: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`augment`, where targets that are maps move with the images and labels stay as they are."""
    if targets.ndim == 2:
        return augment(images, None, generator)[0], targets
    shown, moved = augment(images, targets, generator)
    return shown, targets if moved is None else moved


@torch.no_grad()
def predict(model: HospitalModel, images: Tensor) -> Tensor:
    """Logits of ``images`` [N, 1, side, side]; leaves the model in evaluation mode."""
    torch.set_num_threads(1)
    model.eval()
    return torch.cat([model(part) for part in torch.split(images, _EVALUATION_BATCH)])


def mask_of(logits: Tensor, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The lesion at the image's own size, [H, W] of 0 and 1, from logits [2, S, S]."""
    lesion = (logits[1] - logits[0])[None, None]
    full = functional.interpolate(lesion, size=tuple(shape), mode="bilinear", align_corners=False)
    mask: NDArray[np.uint8] = (full[0, 0] > 0).numpy().astype(np.uint8)
    return mask


def _resized(image: NDArray[np.uint8], side: int) -> Tensor:
    grey = torch.from_numpy(np.array(image, dtype=np.float32))[None, None]
    return functional.interpolate(
        grey, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )
