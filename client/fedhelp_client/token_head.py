"""The segmenter that a hospital keeps: the public model, corrected by its own patients.

Symbols: t, a patch token of the backbone with its position; z(t), its public projection; F, the
opened public model; y(t), a finer projection, fitted on the proxies too; V, a linear head.

    alone:  softmax(V y(t)), V fitted to the hospital's patients alone
    kept:   softmax(F z(t) + s log softmax(V y(t))), s = 1 + n / 100 with n own patients

What either says of an image's tokens becomes a mask as the teacher's labels do
(`fedhelp_client.teacher`). V stays at home and needs no noise, so that it can afford more
directions than F; everything else in ``kept`` is public. `fedhelp_client.head` is the same for
classification.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.types import DataError, Dataset
from fedhelp_client.head import joined
from fedhelp_client.teacher import refine_masks
from fedhelp_secure.privacy.defaults import PROJECTIONS
from fedhelp_secure.privacy.probe import PatientExamples, fit_moments, soft_labels
from fedhelp_secure.public_set import Projection, PublicSetRefused, fit_projection
from fedhelp_secure.state import write_atomically

DIMENSIONS = 100
"""Of the finer projection: a token has 388 entries."""
RIDGE = 0.001

_PATIENTS_FOR_ONE_MORE = 100
"""Own patients that let the own head count for one more: chosen on development seeds
(docs/adr/0026)."""


def fine_projection(tokens: NDArray[np.float32]) -> Projection:
    """y, fitted on the proxies' ``tokens`` [N, T, E]."""
    chosen = PROJECTIONS["segmentation"]
    return fit_projection(tokens, DIMENSIONS, whitening=chosen.whitening, constant=chosen.constant)


def fit_token_head(patients: Sequence[PatientExamples]) -> NDArray[np.float64]:
    """V, [D, 2]: logistic regression on every token of ``patients``.

    Tokens weigh as in the probe's vectors: each patient counts once, and in a patient the lesion as
    much as what is not. Raises DataError without patients.
    """
    if not patients:
        raise DataError("A head needs images with masks; give a folder with some.")
    rows = np.concatenate([patient.features for patient in patients])
    targets = np.concatenate([patient.targets for patient in patients])
    weights = np.concatenate([patient.weights / patient.weights.sum() for patient in patients])
    weights /= len(patients)
    moments = (weights[:, np.newaxis] * rows).T @ targets
    start = np.zeros_like(moments)
    return fit_moments(rows, moments, ridge=RIDGE, start=start, weights=weights)


def own_share(patients: int) -> float:
    """s, of a head that so many patients made: who has more of them needs the others less."""
    return 1 + patients / _PATIENTS_FOR_ONE_MORE


@dataclass(frozen=True, slots=True, eq=False)
class TokenHead:
    """A linear model on the projected tokens: the own head alone, or the public model alone."""

    projection: Projection
    weights: NDArray[np.float64]
    """[D, 2]."""

    def soft_labels(self, tokens: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [N, T, 2] of ``tokens`` [N, T, E], image by image."""
        said = [soft_labels(self.weights, self.projection.apply(image)) for image in tokens]
        return np.stack(said)


@dataclass(frozen=True, slots=True, eq=False)
class KeptSegmenter:
    """The public model and the own head; see the module's formula."""

    public: TokenHead
    """F on z."""
    own: TokenHead
    """V on y."""
    share: float
    """s: how much the own head counts beside the public model; see `own_share`."""

    def soft_labels(self, tokens: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [N, T, 2] of ``tokens`` [N, T, E]."""
        return joined(self.public.soft_labels(tokens), self.own.soft_labels(tokens), self.share)

    def save(self, path: Path) -> None:
        """Write all of it to ``path`` (.npz), readable by its owner only: V saw patients."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            share=np.array(self.share),
            public_weights=self.public.weights,
            **self.public.projection.arrays("public_"),
            own_weights=self.own.weights,
            **self.own.projection.arrays("own_"),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> KeptSegmenter:
        """What `save` wrote to ``path``; raises DataError for anything else."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                public, own = (
                    TokenHead(
                        Projection.from_arrays(arrays, f"{name}_"),
                        arrays[f"{name}_weights"],
                    )
                    for name in ("public", "own")
                )
                return cls(public, own, share=float(arrays["share"]))
        except (OSError, EOFError, ValueError, KeyError, BadZipFile, PublicSetRefused) as error:
            raise DataError(f"{path} holds no segmenter that a node kept.") from error


def soft_masks(dataset: Dataset, labels: NDArray[np.floating]) -> NDArray[np.float32]:
    """Soft masks [N, 224, 224, 2] of ``dataset``'s images from token labels [N, T, 2]."""
    return refine_masks(resize_images([example.image for example in dataset.examples]), labels)
