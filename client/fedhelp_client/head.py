"""The classifier that a hospital keeps: the public model, corrected by its own patients.

Symbols: e(x), the backbone's summary of an image, standardised by the proxies; z(x), its public
projection; F, the opened public model; V, a linear head; n, the hospital's patients.

    alone:  softmax(V e(x)), V fitted to the hospital's patients alone
    kept:   softmax(F z(x) + a log softmax(V e(x))),  a = n / (n + 200)

F knows many patients in the few directions that its budget paid for, V few patients in all of
them. A hospital's mixture of classes is its own: for ``kept`` its patients are weighted so that the
classes are as common as F finds them on the proxies (label shift; Saerens, Latinne, Decaestecker
2002). V stays at home and needs no noise; everything else in ``kept`` is public.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import DataError, Dataset
from fedhelp_secure.privacy.probe import fit_moments, soft_labels
from fedhelp_secure.public_set import Projection, PublicSet, PublicSetRefused
from fedhelp_secure.state import write_atomically

RIDGE_ALONE = 0.01
"""Of the head's fit; the features have norm 5 or so."""
RIDGE_KEPT = 3.0
"""Of the kept head's, over the hospital's patients: a small hospital's head says little by itself,
a large one's may contradict the public model."""

OWN_PATIENTS = 200
"""With so many patients the own head counts half as much as the public model."""

NORM = 5.0
"""About that of a standardised summary, as the own head sees it."""
TINY = 1e-12
"""Added to a probability before its logarithm."""


def joined(
    public: NDArray[np.float64], own: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """softmax(log public + a log own), a = ``share``; both [..., C], rows sum to 1."""
    product = public * (own + TINY) ** share
    normalised: NDArray[np.float64] = product / product.sum(axis=-1, keepdims=True)
    return normalised


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear head on standardised summaries."""

    projection: Projection
    weights: NDArray[np.float64]
    """[E + 1, C], the constant's last."""

    def soft_labels(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [N, C] of ``embeddings`` [N, E]."""
        return soft_labels(self.weights, _rows(self.projection, embeddings))


@dataclass(frozen=True, slots=True, eq=False)
class KeptClassifier:
    """The public model and the own head; see the module's formula."""

    public_model: NDArray[np.float64]
    """F, [D, C]."""
    head: Head
    share: float
    """a."""

    def soft_labels(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [N, C] of ``embeddings`` [N, E]."""
        public = soft_labels(self.public_model, self.head.projection.apply(embeddings))
        return joined(public, self.head.soft_labels(embeddings), self.share)

    def save(self, path: Path) -> None:
        """Write all of it to ``path`` (.npz), readable by its owner only: V saw patients."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            public_model=self.public_model,
            weights=self.head.weights,
            share=np.array(self.share),
            **self.head.projection.arrays(),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> KeptClassifier:
        """What `save` wrote to ``path``; raises DataError for anything else."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                head = Head(Projection.from_arrays(arrays), arrays["weights"])
                return cls(arrays["public_model"], head, share=float(arrays["share"]))
        except (OSError, EOFError, ValueError, KeyError, BadZipFile, PublicSetRefused) as error:
            raise DataError(f"{path} holds no classifier that a node kept.") from error


def train_head(
    own: Dataset,
    embeddings: NDArray[np.floating],
    projection: Projection,
    *,
    ridge: float = RIDGE_ALONE,
    shares: NDArray[np.float64] | None = None,
) -> Head:
    """Multinomial logistic regression on a hospital's patients, each of whom counts once.

    ``embeddings`` [n, E] of ``own``'s examples; ``shares`` [C]: how common the classes are to be
    taken to be, or None for as they are. Raises DataError without images.
    """
    if not own.examples or len(embeddings) != len(own.examples):
        raise DataError("A head needs images, each with its embedding; give a folder with images.")
    images = Counter(example.patient for example in own.examples)
    weights = np.array([1 / images[example.patient] for example in own.examples])
    weights /= weights.sum()
    targets = np.eye(len(own.classes))[[example.label for example in own.examples]]
    if shares is not None:
        found = weights @ targets
        weights *= targets @ np.divide(shares, found, out=np.zeros_like(found), where=found > 0)
        weights /= weights.sum()
    rows = _rows(projection, embeddings)
    # The fit lies in the span of the rows: as many coordinates as images, not as entries.
    squares, directions = np.linalg.eigh(rows @ rows.T)
    lengths = np.sqrt(np.maximum(squares, TINY * squares.max()))
    coordinates = directions * lengths
    moments = (weights[:, np.newaxis] * coordinates).T @ targets
    start = np.zeros_like(moments)
    fitted = fit_moments(coordinates, moments, ridge=ridge, start=start, weights=weights)
    return Head(projection, rows.T @ (directions / lengths) @ fitted)


def keep_classifier(
    own: Dataset,
    embeddings: NDArray[np.floating],
    public_set: PublicSet,
    public_model: NDArray[np.float64],
) -> KeptClassifier:
    """The classifier that a hospital keeps after the last round; see the module's formula."""
    shares = soft_labels(public_model, public_set.features).reshape(-1, len(own.classes))
    # Without patients there is nothing to divide by; `train_head` says so.
    patients = max(1, len(own.patients()))
    head = train_head(
        own,
        embeddings,
        public_set.projection,
        ridge=RIDGE_KEPT / patients,
        shares=shares.mean(axis=0),
    )
    return KeptClassifier(public_model, head, share=patients / (patients + OWN_PATIENTS))


def _rows(projection: Projection, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N, E + 1]: standardised, of norm `NORM` or so, with a constant."""
    standard = projection.standardise(embeddings) * (NORM / sqrt(embeddings.shape[-1]))
    return np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
