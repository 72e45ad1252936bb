"""A network trained alone is trained once for the same images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.learning import discs

from fedhelp_client.bench import networks
from fedhelp_client.bench.networks import masks_alone, network_alone


def test_a_network_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(networks, "train_alone", lambda *_, seed, **__: trained.append(seed))
    own = discs(4, seed=1, task="classification")
    test = discs(3, seed=2, task="classification")
    first = network_alone(tmp_path, own, test, "small", 5)
    assert first.shape == (3, 2)
    assert np.allclose(first.sum(axis=1), 1)
    assert np.array_equal(network_alone(tmp_path, own, test, "small", 5), first)
    network_alone(tmp_path, own, test, "small", 6)
    network_alone(tmp_path, discs(4, seed=3, task="classification"), test, "small", 5)
    assert trained == [5, 6, 5]


def test_masks_of_a_network_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(networks, "train_alone", lambda *_, seed, **__: trained.append(seed))
    own = discs(4, seed=1, task="segmentation")
    test = discs(3, seed=2, task="segmentation")
    first = masks_alone(tmp_path, own, test, "small", 5)
    assert first.shape == (3, 224, 224)
    assert set(np.unique(first)) <= {0, 1}
    assert np.array_equal(masks_alone(tmp_path, own, test, "small", 5), first)
    # Other images to outline need no other network.
    masks_alone(tmp_path, own, discs(3, seed=4, task="segmentation"), "small", 5)
    assert trained == [5]
    masks_alone(tmp_path, discs(4, seed=4, task="segmentation"), test, "small", 5)
    assert trained == [5, 5]
