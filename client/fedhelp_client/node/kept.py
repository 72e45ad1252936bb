"""What a hospital keeps beside its network: the public model with a head of its own patients.

For classification a `KeptClassifier`, for segmentation a `KeptSegmenter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.types import Dataset, Task
from fedhelp_client.head import Head, KeptClassifier, keep_classifier, train_head
from fedhelp_client.judging import Judged, judge_classes, judge_masks
from fedhelp_client.node.patients import OwnFeatures, patient_examples
from fedhelp_client.token_head import (
    KeptSegmenter,
    TokenHead,
    fine_projection,
    fit_token_head,
    own_share,
    soft_masks,
)
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.state import StateDirectory

AnyHead = Head | KeptClassifier | TokenHead | KeptSegmenter


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Two answers of one hospital from the backbone's."""

    alone: Head | TokenHead
    """Of its own patients alone."""
    kept: KeptClassifier | KeptSegmenter
    """With the public model."""

    def save(self, state: StateDirectory) -> None:
        """Keep what is kept: it saw patients and stays in the state directory."""
        self.kept.save(kept_path(state))


def kept_path(state: StateDirectory) -> Path:
    """Where a hospital keeps it."""
    return state.role_directory() / "models" / "head.npz"


def load_kept(state: StateDirectory, task: Task) -> KeptClassifier | KeptSegmenter:
    """What a node kept in ``state``; raises DataError if there is nothing."""
    kind = KeptClassifier if task == "classification" else KeptSegmenter
    return kind.load(kept_path(state))


def fit_heads(
    own: Dataset,
    features: OwnFeatures,
    public_set: PublicSet,
    public_model: NDArray[np.float64],
    *,
    task: Task,
    public: EmbeddingStore,
) -> Heads:
    """Fit the hospital's heads; ``public`` is the store of what the backbone says of public images.

    For segmentation the proxies' tokens come from it: the public set has only their projections.
    """
    if task == "classification":
        embeddings = features.embeddings[:, 0]
        return Heads(
            train_head(own, embeddings, public_set.projection),
            keep_classifier(own, embeddings, public_set, public_model),
        )
    fine = fine_projection(public.embed_images(public_set.images))
    rows = np.stack([fine.apply(tokens) for tokens in features.embeddings]).astype(np.float64)
    patients = patient_examples(own, rows, task=task)
    head = TokenHead(fine, fit_token_head(patients))
    public_head = TokenHead(public_set.projection, public_model)
    return Heads(head, KeptSegmenter(public_head, head, share=own_share(len(patients))))


def judge_head(head: AnyHead, dataset: Dataset, embeddings: NDArray[np.float32]) -> Judged:
    """Answers of ``head`` about ``dataset``, of whose images the backbone says ``embeddings``."""
    if isinstance(head, Head | KeptClassifier):
        return judge_classes(head.soft_labels(embeddings[:, 0]), dataset)
    return judge_masks(soft_masks(dataset, head.soft_labels(embeddings)), dataset)
