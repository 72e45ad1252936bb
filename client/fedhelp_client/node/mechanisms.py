"""From the charter's choice of mechanism to a hospital's releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.models import HospitalModel
from fedhelp_client.node.patients import patient_examples
from fedhelp_client.node.release import Releaser
from fedhelp_client.training import images_tensor, predict
from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.events import check_patients_allowed
from fedhelp_secure.privacy.mechanisms import LogitNoise, ProbeMechanism, PublicLabels, Setting
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.public_set import PublicSet


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A hospital's own side of a release. None of it leaves the site."""

    dataset: Dataset
    features: NDArray[np.float64]
    """[N, T, D], public features of every image."""
    model: HospitalModel
    """The hospital's own network, trained on its patients alone."""
    task: Task


def release_labels(releaser: Releaser, public_set: PublicSet, own: Own) -> PublicLabels:
    """All rounds of the charter with the mechanism that it chooses.

    Raises RehearsalOnly for a rehearsal, and what `Releaser.run` raises.
    """
    charter: Charter = releaser.charter
    check_patients_allowed(charter)
    setting = Setting(charter, public_set, releaser.coordinator.state.identity.name)
    return _RUNS[charter.privacy.mechanism](releaser, setting, own)


def proxy_logits(model: HospitalModel, public_set: PublicSet, task: Task) -> NDArray[np.float64]:
    """Logits [N, T, C] of the own network on the proxies; maps are averaged over each patch."""
    logits = predict(model, images_tensor(list(public_set.images), model.side)).double()
    if task == "classification":
        return logits[:, None, :].numpy()
    grid = round(public_set.features.shape[1] ** 0.5)
    cells = functional.adaptive_avg_pool2d(logits, grid)
    return cells.flatten(2).transpose(1, 2).contiguous().numpy()


def _run_probe(releaser: Releaser, setting: Setting, own: Own) -> PublicLabels:
    patients = patient_examples(own.dataset, own.features, task=own.task)
    return releaser.run(ProbeMechanism(setting), patients)


def _run_logit_noise(releaser: Releaser, setting: Setting, own: Own) -> PublicLabels:
    logits = proxy_logits(own.model, setting.public_set, own.task)
    return releaser.run(LogitNoise(setting), logits)


def _run_dp_sgd(releaser: Releaser, setting: Setting, own: Own) -> PublicLabels:
    # Here, because importing Opacus takes seconds that no other mechanism needs.
    from fedhelp_client.dp_sgd import DpSgdMechanism
    from fedhelp_client.dp_sgd_models import SIDE, head_patients, network_patients

    parameters = setting.charter.privacy.dp_sgd
    if parameters is not None and parameters.model == "group_norm_cnn":
        examples = own.dataset.examples
        labels = [example.label for example in examples]
        patients = network_patients(
            images_tensor([example.image for example in examples], SIDE),
            np.eye(len(own.dataset.classes))[labels],
            [example.patient for example in examples],
        )
    else:
        patients = head_patients(patient_examples(own.dataset, own.features, task=own.task))
    return releaser.run(DpSgdMechanism(setting, releaser.progress), patients)


_RUNS: Mapping[MechanismName, Callable[[Releaser, Setting, Own], PublicLabels]] = {
    "probe": _run_probe,
    "logit_noise": _run_logit_noise,
    "dp_sgd": _run_dp_sgd,
}
