"""The classifier that stays at home: what each of its parts adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_client.data.types import DataError, Dataset, Example
from fedhelp_client.head import OWN_PATIENTS, KeptClassifier, keep_classifier, train_head
from fedhelp_secure.public_set import PublicSet, fit_projection

CLASSES, WIDTH, DIMENSION = 3, 30, 6


class Clinic:
    """Patients whose embeddings scatter about the centre of their class."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.centres = 1.2 * self._random.normal(size=(CLASSES, WIDTH))

    def embeddings(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        noise = 2 * self._random.normal(size=(len(labels), WIDTH))
        return (self.centres[labels] + noise).astype(np.float32)

    def public_set(self) -> PublicSet:
        embeddings = self.embeddings(self._random.integers(0, CLASSES, 60))[:, np.newaxis]
        projection = fit_projection(embeddings, DIMENSION)
        images = self._random.integers(0, 256, (60, 16, 16), dtype=np.uint8)
        return PublicSet(images, projection.apply(embeddings), projection)

    def public_model(self, public: PublicSet) -> NDArray[np.float64]:
        """What a federation with many patients would open."""
        return 8 * public.projection.apply(self.centres.astype(np.float32)).T.astype(np.float64)


def dataset(labels: NDArray[np.int64], patients: list[str] | None = None) -> Dataset:
    names = patients or [f"p{number}" for number in range(len(labels))]
    image = np.zeros((4, 4), np.uint8)
    examples = [Example(image, int(label), name) for label, name in zip(labels, names, strict=True)]
    return Dataset("clinic", ("a", "b", "c"), tuple(examples))


def share_right(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def test_public_model_and_own_head_together_beat_either() -> None:
    clinic = Clinic(1)
    public = clinic.public_set()
    model = clinic.public_model(public)
    own = np.arange(36) % CLASSES
    embeddings = clinic.embeddings(own)
    test = np.random.default_rng(2).integers(0, CLASSES, 3000)
    shown = clinic.embeddings(test)
    alone = train_head(dataset(own), embeddings, public.projection)
    kept = keep_classifier(dataset(own), embeddings, public, model)
    assert kept.share == pytest.approx(36 / (36 + OWN_PATIENTS))
    probabilities = kept.soft_labels(shown)
    assert np.allclose(probabilities.sum(axis=1), 1)
    of_alone = share_right(alone.soft_labels(shown), test)
    of_kept = share_right(probabilities, test)
    of_public = share_right(
        keep_classifier(dataset(own[:3]), embeddings[:3], public, model).soft_labels(shown), test
    )
    assert of_kept > of_alone + 0.02
    assert of_kept > of_public


def test_the_kept_head_of_more_patients_is_freer() -> None:
    clinic = Clinic(8)
    public = clinic.public_set()
    model = clinic.public_model(public)
    own = np.arange(12) % CLASSES
    embeddings = clinic.embeddings(own)
    few = keep_classifier(dataset(own), embeddings, public, model)
    many = keep_classifier(dataset(np.tile(own, 4)), np.tile(embeddings, (4, 1)), public, model)
    # The same images of four times the patients: the mean loss is the same, its ridge a quarter.
    assert np.linalg.norm(many.head.weights) > 1.2 * np.linalg.norm(few.head.weights)


def test_a_hospitals_own_mixture_does_not_sway_what_it_keeps() -> None:
    clinic = Clinic(3)
    public = clinic.public_set()
    model = np.zeros((DIMENSION, CLASSES))
    own = np.array([0] * 30 + [1] * 3 + [2] * 3)
    embeddings = clinic.embeddings(own)
    neutral = clinic.embeddings(np.arange(900) % CLASSES)
    alone = train_head(dataset(own), embeddings, public.projection, ridge=0.1)
    kept = keep_classifier(dataset(own), embeddings, public, model)
    common_alone = alone.soft_labels(neutral).mean(axis=0)[0]
    common_kept = kept.head.soft_labels(neutral).mean(axis=0)[0]
    assert common_alone - 1 / 3 > common_kept - 1 / 3 + 0.03 > 0.03


def test_a_patient_counts_once_however_many_images_there_are() -> None:
    clinic = Clinic(4)
    public = clinic.public_set()
    own = np.array([0, 1, 2, 0, 1, 2])
    embeddings = clinic.embeddings(own)
    once = train_head(dataset(own), embeddings, public.projection)
    again = train_head(
        dataset(np.r_[own, own[:1], own[:1]], [*(f"p{n}" for n in range(6)), "p0", "p0"]),
        np.concatenate([embeddings, embeddings[:1], embeddings[:1]]),
        public.projection,
    )
    assert np.allclose(once.weights, again.weights, atol=1e-6)


def test_the_head_minimises_the_penalised_loss() -> None:
    """The fit in the span of the images is the fit in all entries: its slope vanishes there."""
    clinic = Clinic(5)
    public = clinic.public_set()
    own = np.arange(12) % CLASSES
    embeddings = clinic.embeddings(own)
    head = train_head(dataset(own), embeddings, public.projection, ridge=0.05)
    rows = public.projection.standardise(embeddings) * 5 / np.sqrt(WIDTH)
    rows = np.concatenate([rows, np.ones((12, 1))], axis=1)
    residual = np.eye(CLASSES)[own] - head.soft_labels(embeddings)
    assert np.abs(rows.T @ residual / 12 - 0.05 * head.weights).max() < 1e-6


def test_a_kept_classifier_comes_back_from_its_file(tmp_path: Path) -> None:
    clinic = Clinic(7)
    public = clinic.public_set()
    own = np.arange(12) % CLASSES
    embeddings = clinic.embeddings(own)
    kept = keep_classifier(dataset(own), embeddings, public, clinic.public_model(public))
    kept.save(tmp_path / "head.npz")
    assert (tmp_path / "head.npz").stat().st_mode & 0o077 == 0
    loaded = KeptClassifier.load(tmp_path / "head.npz")
    assert np.array_equal(loaded.soft_labels(embeddings), kept.soft_labels(embeddings))
    for damaged in (b"", b"not an archive"):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(DataError, match="no classifier"):
            KeptClassifier.load(tmp_path / "damaged.npz")


def test_nothing_to_learn_from_is_refused() -> None:
    public = Clinic(6).public_set()
    with pytest.raises(DataError):
        train_head(dataset(np.array([], dtype=np.int64)), np.zeros((0, WIDTH)), public.projection)
    with pytest.raises(DataError):
        train_head(dataset(np.array([0, 1])), np.zeros((3, WIDTH)), public.projection)
