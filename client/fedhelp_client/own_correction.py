"""What a hospital is taught: the opened public model, corrected patch by patch by its own patients.

Symbols: z, the public features of a patch; F, the opened public model; V, a logistic regression on
the patches of the hospital's own patients, in the same few public directions; a, its share.

    r(z) = softmax(F z + a log softmax(V z))

It is used for segmentation. V and r stay at home, so that they need no noise; with a = 0 the
teacher is the public model. What a node keeps has a finer V (`fedhelp_client.token_head`), which
would need the backbone on the proxies before distillation; a classifier is corrected after it only
(`fedhelp_client.head`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.distillation import DistillationPlan
from fedhelp_client.head import joined
from fedhelp_client.node.patients import patient_examples
from fedhelp_client.token_head import fit_token_head, soft_masks
from fedhelp_secure.privacy.mechanisms import PublicLabels
from fedhelp_secure.privacy.probe import soft_labels
from fedhelp_secure.public_set import PublicSet


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """Soft labels, before `fedhelp_client.teacher.refine_labels` for the proxies."""

    proxies: NDArray[np.float64]
    """[N, T, C]."""
    own: NDArray[np.floating] | None
    """On own images: [n, T, C], or masks [n, 224, 224, C], refined; None if no term needs it."""


def correct(
    labels: PublicLabels,
    own: Dataset,
    features: NDArray[np.float64],
    public_set: PublicSet,
    *,
    task: Task,
    plan: DistillationPlan,
) -> Taught:
    """r on proxies and own images; for classification, or with a = ``plan.own_share`` = 0, F alone.

    ``features`` [n, T, D]: public features of ``own``'s images. Raises DataError if a mask lacks.
    """
    proxies, mine = labels.proxies, soft_labels(labels.model, features)
    if task == "classification":
        return Taught(proxies, mine)
    if plan.own_share > 0:
        head = fit_token_head(patient_examples(own, features, task=task))
        proxies = joined(proxies, soft_labels(head, public_set.features), plan.own_share)
        mine = joined(mine, soft_labels(head, features), plan.own_share)
    if plan.public == 0:
        return Taught(proxies, None)
    return Taught(proxies, soft_masks(own, mine))
