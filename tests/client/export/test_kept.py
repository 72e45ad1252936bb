"""The kept classifier's export says what the kept classifier says, backbone included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.learning import discs, model_record
from typer.testing import CliRunner

from fedhelp_client.commands import app
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.types import DataError
from fedhelp_client.export.card import ModelCard, markdown, open_card
from fedhelp_client.export.check import TOLERANCE, ExportDiffers, run_graph
from fedhelp_client.export.kept import _entrance
from fedhelp_client.export.parts import finished
from fedhelp_client.export.student import CARD, MODEL, export_kept
from fedhelp_client.head import KeptClassifier, keep_classifier
from fedhelp_secure.backbone import Backbone, load_backbone
from fedhelp_secure.backbone.images import DEVIATION, MEAN
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role

OWN, PUBLIC, SEEN = (discs(count, seed=count, task="classification") for count in (9, 6, 3))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone()


@pytest.fixture(scope="module")
def public_set(backbone: Backbone) -> PublicSet:
    images = resize_images([example.image for example in PUBLIC.examples])
    embeddings = backbone.summaries(images)[:, None]
    projection = fit_projection(embeddings, 4)
    return PublicSet(images, projection.apply(embeddings), projection)


@pytest.fixture(scope="module")
def kept(backbone: Backbone, public_set: PublicSet) -> KeptClassifier:
    embeddings = backbone.summaries(resize_images([example.image for example in OWN.examples]))
    public_model = np.random.default_rng(0).normal(size=(4, len(OWN.classes)))
    made = keep_classifier(OWN, embeddings, public_set, public_model)
    # So that the own head is heard as well as the public model.
    return replace(made, share=0.5)


@pytest.fixture
def state(tmp_path: Path, kept: KeptClassifier) -> StateDirectory:
    made = StateDirectory.create(tmp_path / "s", Identity("example", Role.HOSPITAL, "small-1"))
    kept.save(made.role_directory() / "models" / "head.npz")
    model_record("classification").save(made)
    return made


def said_by(
    kept: KeptClassifier, backbone: Backbone, image: NDArray[np.uint8]
) -> NDArray[np.float64]:
    return kept.soft_labels(backbone.summaries(resize_images([image])))


def test_the_file_says_what_the_kept_classifier_says(
    state: StateDirectory,
    public_set: PublicSet,
    kept: KeptClassifier,
    backbone: Backbone,
    tmp_path: Path,
) -> None:
    exported = export_kept(state, public_set, tmp_path / "out")
    model, envelope = ((exported.folder / name).read_bytes() for name in (MODEL, CARD))
    card = open_card(envelope, state.signing_key().public, model)
    assert card == exported.card
    assert card.measured == (0.75, 0.6875)
    assert "DINOv2" in markdown(card)
    assert "0.750 on 40 public test images; 0.688 before" in markdown(card)
    for example, (height, width) in zip(
        SEEN.examples, ((224, 224), (150, 310), (96, 64)), strict=True
    ):
        image = np.resize(example.image, (height, width)).astype(np.uint8)
        said = run_graph(model, image[np.newaxis])
        assert said.shape == (1, len(OWN.classes))
        # Pillow rounds to bytes after each direction of scaling, the graph once.
        allowed = 1e-4 if height == 224 else 10 * TOLERANCE
        np.testing.assert_allclose(said, said_by(kept, backbone, image), atol=allowed)
    with pytest.raises(DataError, match="already"):
        export_kept(state, public_set, exported.folder)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (150, 310), (96, 64)])
def test_the_graph_prepares_an_image_as_the_backbone_does(height: int, width: int) -> None:
    image = np.resize(SEEN.examples[0].image, (height, width)).astype(np.uint8)
    said = run_graph(finished(_entrance()).SerializeToString(), image[np.newaxis])
    grey = (said * DEVIATION[:, np.newaxis, np.newaxis] + MEAN[:, np.newaxis, np.newaxis]) * 255
    # Whole grey values, each within two of Pillow's, which rounds after each direction.
    assert np.abs(grey - grey.round()).max() < 1e-3
    expected = resize_images([image])[0]
    assert np.abs(grey[0] - expected).max() < 2.5


def test_a_file_that_says_something_else_is_not_written(
    state: StateDirectory,
    public_set: PublicSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of the graph alone: the classifier itself is as it was.
    monkeypatch.setattr("fedhelp_client.export.kept.TINY", 0.2)
    with pytest.raises(ExportDiffers):
        export_kept(state, public_set, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_kept_classifier_nothing_is_exported(
    state: StateDirectory, public_set: PublicSet, tmp_path: Path
) -> None:
    (state.role_directory() / "models" / "head.npz").write_bytes(b"no classifier")
    with pytest.raises(DataError, match="no classifier that a node kept"):
        export_kept(state, public_set, tmp_path / "out")
    model_record("classification", head=None).save(state)
    with pytest.raises(DataError, match=r"no kept classifier or segmenter; .*without --kept"):
        export_kept(state, public_set, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_has_no_eight_bits_for_it(
    state: StateDirectory, public_set: PublicSet, tmp_path: Path
) -> None:
    public_set.save(tmp_path / "public.npz")
    arguments = ["--public-set", str(tmp_path / "public.npz"), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(
        app, ["export", "--kept", "--int8", "--state", str(state.root), *arguments]
    )
    assert isinstance(shown.exception, DataError)
    assert "no 8-bit form" in str(shown.exception)
    assert not (tmp_path / "out").exists()


def test_a_card_of_a_kept_classifier_without_its_figures_says_so() -> None:
    card = ModelCard(
        model_digest="sha256:" + "0" * 64,
        model_bytes=1,
        network="kept",
        number_format="float32",
        agreement=1.0,
        input="",
        output="",
        record=model_record("classification", head=None),
    )
    assert json.loads(card.model_dump_json())["network"] == "kept"
    with pytest.raises(DataError, match="kept nothing"):
        markdown(card)
