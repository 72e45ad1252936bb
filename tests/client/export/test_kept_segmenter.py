"""The kept segmenter's export says what the kept segmenter says, backbone and filter included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support.learning import discs, model_record, silent
from torch.nn import functional

from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import embed, resize_images
from fedhelp_client.export import kept_segmenter
from fedhelp_client.export.card import markdown, open_card
from fedhelp_client.export.check import TOLERANCE, ExportDiffers, run_graph
from fedhelp_client.export.student import CARD, MODEL, export_kept
from fedhelp_client.node.kept import Heads, fit_heads
from fedhelp_client.node.patients import own_features
from fedhelp_client.teacher import refine_masks
from fedhelp_client.token_head import KeptSegmenter
from fedhelp_secure.backbone import Backbone, load_backbone
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role

OWN, PUBLIC, SEEN = (discs(count, seed=count, task="segmentation") for count in (5, 4, 3))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


@pytest.fixture(scope="module")
def public_set(backbone: Backbone) -> PublicSet:
    images = resize_images([example.image for example in PUBLIC.examples])
    tokens = embed(backbone, images, "segmentation")
    projection = fit_projection(tokens, 8)
    return PublicSet(images, projection.apply(tokens), projection)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, public_set: PublicSet) -> Heads:
    store = EmbeddingStore(tmp_path_factory.mktemp("store"), "segmentation")
    features = own_features(OWN, public_set, store, progress=silent)
    model = np.random.default_rng(0).normal(size=(8, 2))
    return fit_heads(OWN, features, public_set, model, task="segmentation", public=store)


@pytest.fixture
def state(tmp_path: Path, heads: Heads) -> StateDirectory:
    made = StateDirectory.create(tmp_path / "s", Identity("example", Role.HOSPITAL, "small-1"))
    heads.save(made)
    model_record("segmentation").save(made)
    return made


def said_by(
    kept: KeptSegmenter, backbone: Backbone, image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The lesion's probability in the image's own size."""
    small = resize_images([image])
    soft = refine_masks(small, kept.soft_labels(embed(backbone, small, "segmentation")))
    lesion = torch.from_numpy(soft[..., 1])[None]
    full = functional.interpolate(lesion, size=image.shape, mode="bilinear", align_corners=False)
    return full.numpy()


def test_the_file_says_what_the_kept_segmenter_says(
    state: StateDirectory,
    public_set: PublicSet,
    heads: Heads,
    backbone: Backbone,
    tmp_path: Path,
) -> None:
    assert isinstance(heads.kept, KeptSegmenter)
    exported = export_kept(state, public_set, tmp_path / "out")
    model, envelope = ((exported.folder / name).read_bytes() for name in (MODEL, CARD))
    card = open_card(envelope, state.signing_key().public, model)
    assert card.measured == (0.75, 0.6875)
    assert "lesion: float32" in markdown(card)
    for example, (height, width) in zip(
        SEEN.examples, ((224, 224), (150, 310), (96, 64)), strict=True
    ):
        image = np.asarray(Image.fromarray(example.image).resize((width, height)))
        said = run_graph(model, image[np.newaxis])
        assert said.shape == (1, 1, height, width)
        apart = np.abs(said - said_by(heads.kept, backbone, image))
        # Pillow rounds to bytes after each direction of scaling, the graph once.
        assert apart.mean() < (1e-5 if height == 224 else 2 * TOLERANCE)
        assert np.ptp(said) > 0.2


def test_a_file_that_says_something_else_is_not_written(
    state: StateDirectory,
    public_set: PublicSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of the graph alone: the segmenter itself is as it was.
    monkeypatch.setattr(kept_segmenter, "GUIDE_SMOOTHNESS", 0.1)
    with pytest.raises(ExportDiffers):
        export_kept(state, public_set, tmp_path / "out")
    assert not (tmp_path / "out").exists()
