"""What a hospital sees of what it learnt: pictures, a page, and figures for machines."""

from __future__ import annotations

import base64
import io
import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.learning import discs, model_record, silent
from typer.testing import CliRunner

from fedhelp_client import pictures as pictures_module
from fedhelp_client.commands import app
from fedhelp_client.curve import Curve, curves_folder
from fedhelp_client.data.embedding_store import EmbeddingStore
from fedhelp_client.data.embeddings import resize_images, resize_masks, token_targets
from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.types import DataError, Dataset, Task
from fedhelp_client.learnt import ALONE, DISTILLED, KEPT, Figures, Learnt, figures, read_learnt
from fedhelp_client.models import build_model
from fedhelp_client.node.kept import fit_heads
from fedhelp_client.node.patients import own_features
from fedhelp_client.pictures import write_pictures
from fedhelp_secure.privacy.plots import NoPlot
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role

IMAGES = 12
TASKS: list[Task] = ["classification", "segmentation"]


def _fill(store: EmbeddingStore, public: Dataset, task: Task) -> None:
    """Made-up embeddings, in which what is to be found lies elsewhere than the rest."""
    random = np.random.default_rng(4)
    examples = public.examples
    images = resize_images([example.image for example in examples])
    if task == "classification":
        targets = np.array([[example.label] for example in examples])
    else:
        masks = resize_masks([example.mask for example in examples if example.mask is not None])
        targets = token_targets(masks)[:, :, 1]
    direction = random.normal(size=120)
    for image, found in zip(images, targets, strict=True):
        embedding = random.normal(size=(len(found), 120)) + np.outer(found, direction)
        store.keep(image, embedding.astype(np.float32))


class Site:
    """A hospital's state after its run, but for the run itself."""

    def __init__(self, root: Path, task: Task) -> None:
        self.task: Task = task
        self.public = discs(IMAGES, seed=1, task=task)
        self.embeddings = root / "public"
        self.store = EmbeddingStore(self.embeddings, task)
        _fill(self.store, self.public, task)
        self.state = StateDirectory.create(
            root / "state", Identity("example", Role.HOSPITAL, "small-1")
        )
        self.record = model_record(task)
        self.record.save(self.state)
        self._networks()
        self._heads()
        self._curves()

    def _networks(self) -> None:
        classes = len(self.public.classes)
        models = self.state.role_directory() / "models"
        for seed, name in enumerate(("alone", "distilled")):
            model = build_model("small", task=self.task, classes=classes, seed=seed)
            torch.save(model.state_dict(), models / f"{name}.pt")

    def _heads(self) -> None:
        images = resize_images([example.image for example in self.public.examples])
        embeddings = self.store.embed_images(images)
        projection = fit_projection(embeddings, 4)
        public_set = PublicSet(images, projection.apply(embeddings), projection)
        heads = fit_heads(
            self.public,
            own_features(self.public, public_set, self.store, progress=silent),
            public_set,
            np.zeros((4, 2)),
            task=self.task,
            public=self.store,
        )
        heads.save(self.state)

    def _curves(self) -> None:
        for step, epochs in (("training", 3), ("distillation", 2)):
            curve = Curve(curves_folder(self.state), step)
            curve.restart([])
            for number in range(1, epochs + 1):
                curve.add([{"own": 3.0 / number, "teacher": 0.5}], number, epochs)

    def learnt(self) -> Learnt:
        return read_learnt(self.state, self.record, self.public, self.store)


@pytest.fixture(scope="module", params=TASKS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"), request.param)


def test_a_picture_shows_the_answers_and_is_its_owner_s(site: Site, tmp_path: Path) -> None:
    path, again = tmp_path / "first.png", tmp_path / "second.png"
    learnt = site.learnt()
    write_pictures(learnt, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    # Other labels or masks are another picture.
    changed = [
        replace(
            example,
            label=0,
            mask=None if example.mask is None else np.flipud(example.mask).copy(),
        )
        for example in learnt.public.examples
    ]
    public = replace(learnt.public, examples=tuple(changed))
    write_pictures(replace(learnt, public=public), again)
    assert path.read_bytes() != again.read_bytes()


def test_a_page_holds_everything_and_is_its_owner_s(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "page" / "index.html"
    write_pictures(site.learnt(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    page = path.read_text()
    embedded = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+">', page)
    assert page.count("<img") == len(embedded) == 2
    for encoded in embedded:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert picture.width > 300
    for text in ("For this hospital only", ALONE, DISTILLED, KEPT, "small-1", "0.688 on 40"):
        assert text in page
    assert "<script" not in page
    # Base64 may hold any four letters.
    assert "http" not in re.sub(r"base64,[^\"]+", "", page)


def test_a_page_without_curves_says_so(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    write_pictures(replace(site.learnt(), curves=()), path)
    assert path.read_text().count("<img") == 1
    assert "left no curve" in path.read_text()


def test_figures_are_those_of_the_models(site: Site) -> None:
    shown = figures(site.learnt())
    assert list(shown.models) == [ALONE, DISTILLED, KEPT]
    assert [(epoch.step, epoch.loss) for epoch in shown.curves][:2] == [
        ("training", 3.5),
        ("training", 2.0),
    ]
    for model in shown.models.values():
        assert model.images == IMAGES
        if site.task == "segmentation":
            assert model.confusion is None
            continue
        counts = np.array(model.confusion)
        labels = [example.label for example in site.public.examples]
        assert counts.sum(axis=1).tolist() == np.bincount(labels).tolist()
        assert np.trace(counts) / IMAGES == pytest.approx(model.value)
    # The head saw these very images.
    assert shown.models[KEPT].value > max(0.6, shown.models[ALONE].value)


def test_the_command_prints_figures_and_writes_the_page(site: Site, tmp_path: Path) -> None:
    write_folder(site.public, tmp_path / "test")
    arguments = ["pictures", "--state", str(site.state.root), "--test", str(tmp_path / "test")]
    arguments += ["--public-embeddings", str(site.embeddings)]
    out = tmp_path / "index.html"
    shown = CliRunner().invoke(app, [*arguments, "--json", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert Figures.model_validate_json(shown.output) == figures(site.learnt())
    assert json.loads(shown.output)["curves"][0]["terms"] == {"own": 3.0, "teacher": 0.5}
    assert out.exists()
    plain = CliRunner().invoke(app, arguments)
    assert f"{KEPT}: {site.record.metric} " in plain.output
    refused = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a.gif")])
    assert isinstance(refused.exception, NoPlot)


def test_without_its_networks_there_is_nothing_to_show(tmp_path: Path) -> None:
    site = Site(tmp_path, "classification")
    (site.state.role_directory() / "models" / "alone.pt").unlink()
    with pytest.raises(DataError, match=r"alone\.pt"):
        site.learnt()


def test_another_ending_or_a_missing_library_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = site.learnt()
    with pytest.raises(NoPlot, match="must end in"):
        write_pictures(learnt, tmp_path / "a.gif")
    monkeypatch.setattr(pictures_module, "find_spec", lambda name: None)
    with pytest.raises(NoPlot, match="install"):
        write_pictures(learnt, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
