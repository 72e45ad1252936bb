"""The epochs of a training or a distillation, and going on with them after a crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedhelp_client.checkpoint import Checkpoint
from fedhelp_client.curve import Curve
from fedhelp_client.models import HospitalModel
from fedhelp_client.progress import ProgressCallback

if TYPE_CHECKING:
    from fedhelp_client.training import TrainingPlan

_WARM_UP = 0.15

Terms = Mapping[str, Tensor]
"""A batch's loss: terms that add up to it, by their names."""


class Optimiser:
    """AdamW with warm-up and cosine decay over a number of steps that is known beforehand."""

    def __init__(self, model: HospitalModel, plan: TrainingPlan, *, steps: int) -> None:
        # The hospitals of a demo share a machine: with a thread each they do not fight over it.
        torch.set_num_threads(1)
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, plan.learning_rate, total_steps=steps, pct_start=_WARM_UP
        )

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss``."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was asked for."""
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])


@dataclass(frozen=True, slots=True, eq=False)
class Epochs:
    """Runs the epochs of a training or distillation, from the last one that was kept."""

    model: HospitalModel
    optimiser: Optimiser
    generator: torch.Generator
    step: str
    """What progress calls it."""
    run: str
    """See `run_digest`."""
    checkpoint: Checkpoint | None
    curve: Curve | None

    def go(
        self, count: int, epoch: Callable[[int], Iterable[Terms]], progress: ProgressCallback
    ) -> None:
        """Learn from what ``epoch`` gives for 0 to ``count`` - 1; ``progress`` after each.

        It gives the loss of one batch after the other, each when the last has been learnt from.
        What a network draws itself, as for dropout, comes from the generator's seed too. Leaves the
        model in evaluation mode.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())
            done = self._restored()
            self.model.train()
            for number in range(done, count):
                losses = []
                for terms in epoch(number):
                    self.optimiser.step(reduce(torch.add, terms.values()))
                    losses.append({name: float(term.detach()) for name, term in terms.items()})
                if self.curve is not None:
                    self.curve.add(losses, number + 1, count)
                self._keep(number + 1, last=number + 1 == count)
                progress(self.step, number + 1, count)
        self.model.eval()

    def _restored(self) -> int:
        """How many epochs a checkpoint holds; everything is then as it was after them."""
        kept = self.checkpoint.load(self.run) if self.checkpoint else None
        if self.curve is not None:
            self.curve.restart(kept["curve"] if kept else [])
        if kept is None:
            return 0
        self.model.load_state_dict(kept["model"])
        self.optimiser.restore(kept["state"])
        self.generator.set_state(kept["generator"])
        torch.set_rng_state(kept["process"])
        return int(kept["epochs"])

    def _keep(self, epochs: int, *, last: bool) -> None:
        if self.checkpoint is None or not self.checkpoint.due(last=last):
            return
        self.checkpoint.save(
            {
                "run": self.run,
                "epochs": epochs,
                "curve": self.curve.lines() if self.curve else [],
                "model": self.model.state_dict(),
                "state": self.optimiser.state(),
                "generator": self.generator.get_state(),
                "process": torch.get_rng_state(),
            }
        )
