"""An exported network says what the network says, without PyTorch, and its card is signed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.learning import discs, model_record, silent
from typer.testing import CliRunner

from fedhelp_client.architecture import Architecture
from fedhelp_client.commands import app
from fedhelp_client.data.embeddings import resize_images
from fedhelp_client.data.types import DataError, Task
from fedhelp_client.export.card import ModelCard, open_card
from fedhelp_client.export.check import (
    TOLERANCE,
    ExportDiffers,
    agreement,
    check_same,
    probabilities,
    run_graph,
)
from fedhelp_client.export.graph import student_graph
from fedhelp_client.export.student import CARD, CARD_TEXT, MODEL, Exported, export_student
from fedhelp_client.models import HospitalModel, build_model, build_network
from fedhelp_client.training import TrainingPlan, train_alone
from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.public_set import PublicSet, fit_projection
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

TASKS: tuple[Task, ...] = ("classification", "segmentation")


def trained(task: Task) -> HospitalModel:
    """A small network after a few steps: its batch statistics are not those of a new one."""
    dataset = discs(8, seed=1, task=task)
    model = build_model("small", task=task, classes=len(dataset.classes), seed=0)
    plan = TrainingPlan(passes=32, learning_rate=1e-3)
    train_alone(model, dataset, task=task, seed=0, progress=silent, plan=plan)
    return model


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    chosen: Task = request.param
    return chosen


@pytest.fixture(scope="module")
def network(task: Task) -> HospitalModel:
    return trained(task)


@pytest.fixture(scope="module")
def public_set(task: Task) -> PublicSet:
    images = resize_images([example.image for example in discs(12, seed=5, task=task).examples])
    features = np.random.default_rng(0).normal(size=(12, 1, 8)).astype(np.float32)
    projection = fit_projection(features, 4)
    return PublicSet(images, projection.apply(features), projection)


@pytest.fixture(scope="module")
def graph(task: Task, network: HospitalModel) -> onnx.ModelProto:
    return student_graph(network, task=task)


@pytest.fixture(scope="module")
def state(
    tmp_path_factory: pytest.TempPathFactory, task: Task, network: HospitalModel
) -> StateDirectory:
    identity = Identity("example", Role.HOSPITAL, "small-1")
    made = StateDirectory.create(tmp_path_factory.mktemp("hospital") / "state", identity)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    write_atomically(made.role_directory() / "models" / "distilled.pt", buffer.getvalue())
    model_record(task, head=None).save(made)
    return made


@pytest.fixture(scope="module")
def exact(
    tmp_path_factory: pytest.TempPathFactory, state: StateDirectory, public_set: PublicSet
) -> Exported:
    return export_student(state, public_set, tmp_path_factory.mktemp("exact") / "out")


def test_the_graph_says_what_the_network_says_at_any_size(
    task: Task, network: HospitalModel, graph: onnx.ModelProto
) -> None:
    smooth = discs(3, seed=9, task=task).examples
    for height, width in ((64, 64), (224, 224), (130, 301), (16, 40)):
        images = np.stack(
            [np.resize(example.image, (height, width)).astype(np.uint8) for example in smooth]
        )
        expected = probabilities(network, images, task=task)
        said = run_graph(graph.SerializeToString(), images)
        assert said.shape == expected.shape
        assert np.abs(said - expected).mean() < TOLERANCE / 4


def test_a_graph_of_another_network_is_found_out(
    task: Task, network: HospitalModel, public_set: PublicSet, graph: onnx.ModelProto
) -> None:
    expected = probabilities(network, public_set.images, task=task)
    check_same(graph, public_set.images, expected)
    altered = onnx.ModelProto.FromString(graph.SerializeToString())
    for tensor in altered.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1.05)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportDiffers):
        check_same(altered, public_set.images, expected)


def test_an_export_is_signed_and_complete(
    state: StateDirectory, public_set: PublicSet, exact: Exported
) -> None:
    model, envelope = ((exact.folder / name).read_bytes() for name in (MODEL, CARD))
    card = open_card(envelope, state.signing_key().public, model)
    assert card == exact.card
    assert (card.number_format, card.agreement) == ("float32", 1.0)
    text = (exact.folder / CARD_TEXT).read_text()
    assert "WITHOUT noise" in text
    assert "3.000000" in text
    assert "6.100000" in text
    with pytest.raises(SignatureRefused):
        open_card(envelope, SigningKey.generate().public, model)
    with pytest.raises(DataError, match="another file"):
        open_card(envelope, state.signing_key().public, model + b"\0")
    with pytest.raises(DataError, match="already"):
        export_student(state, public_set, exact.folder)


def test_the_commands_export_eight_bits_and_show_the_card(
    state: StateDirectory, public_set: PublicSet, tmp_path: Path, task: Task, exact: Exported
) -> None:
    public_set.save(tmp_path / "public.npz")
    run, out = CliRunner(), tmp_path / "small"
    arguments = ["--public-set", str(tmp_path / "public.npz"), "--out", str(out), "--int8"]
    shown = run.invoke(app, ["export", "--onnx", "--state", str(state.root), *arguments])
    assert shown.exit_code == 0, shown.output
    assert "0.625 (0.500 before)" in shown.output
    printed = run.invoke(app, ["card", str(out), "--state", str(state.root)])
    assert printed.exit_code == 0, printed.output
    assert "epsilon (collusion)" in printed.output
    envelope, model = ((out / name).read_bytes() for name in (CARD, MODEL))
    card = open_card(envelope, state.signing_key().public, model)
    assert card.number_format == "int8"
    # Normalisation stays as it is.
    assert card.model_bytes < 0.55 * exact.card.model_bytes
    assert card.agreement > 0.9
    first, second = (onnx.load(folder / MODEL) for folder in (exact.folder, out))
    assert agreement(first, second, public_set.images, task=task) == card.agreement


def test_the_file_runs_where_there_is_no_pytorch(
    public_set: PublicSet, tmp_path: Path, exact: Exported
) -> None:
    np.save(tmp_path / "image.npy", public_set.images[0])
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['fedhelp_client'] = None\n"
        "import json, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(exact.folder / MODEL)!r})\n"
        f"image = numpy.load({str(tmp_path / 'image.npy')!r})[None, None]\n"
        "print(json.dumps(session.run(None, {'image': image})[0].tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = np.array(json.loads(done.stdout))
    graph = (exact.folder / MODEL).read_bytes()
    np.testing.assert_allclose(said, run_graph(graph, public_set.images[:1]), atol=1e-5)


def test_nothing_learnt_is_nothing_exported(
    public_set: PublicSet, tmp_path: Path, task: Task
) -> None:
    identity = Identity("example", Role.HOSPITAL, "small-1")
    state = StateDirectory.create(tmp_path / "state", identity)
    models = state.role_directory() / "models"
    model_record(task, head=None).save(state)
    (models / "distilled.pt").write_bytes(b"no network")
    with pytest.raises(DataError, match="not the network"):
        export_student(state, public_set, tmp_path / "out")
    (models / "record.json").unlink()
    with pytest.raises(DataError, match="holds no learnt model"):
        export_student(state, public_set, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"surplus": 1}, {"number_format": "int4"}, {"version": 2}])
def test_what_is_no_card_is_refused(change: dict[str, object], task: Task) -> None:
    card = ModelCard(
        model_digest="sha256:" + "0" * 64,
        model_bytes=1,
        number_format="int8",
        agreement=1.0,
        input="",
        output="",
        record=model_record(task, head=None),
    )
    document = json.loads(card.model_dump_json())
    ModelCard.model_validate_json(json.dumps(document))
    with pytest.raises(ValueError, match=next(iter(change))):
        ModelCard.model_validate_json(json.dumps(document | change))


@pytest.mark.parametrize("task", ["classification"], indirect=True)
def test_another_network_is_built_again_from_the_record(
    tmp_path: Path, public_set: PublicSet, task: Task
) -> None:
    architecture = Architecture(
        network="monai.networks.nets.DenseNet",
        parameters={
            "spatial_dims": 2,
            "in_channels": 1,
            "init_features": 8,
            "growth_rate": 4,
            "block_config": [2, 2],
        },
        classes="out_channels",
        side=32,
    )
    model = build_network(architecture, task=task, classes=2, seed=0)
    made = StateDirectory.create(tmp_path / "state", Identity("example", Role.HOSPITAL, "small-1"))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_atomically(made.role_directory() / "models" / "distilled.pt", buffer.getvalue())
    model_record(task, head=None).save(made)
    # The group's default is another network.
    with pytest.raises(DataError, match="not the network"):
        export_student(made, public_set, tmp_path / "wrong")
    model_record(task, head=None).model_copy(update={"architecture": architecture}).save(made)
    exported = export_student(made, public_set, tmp_path / "out")
    assert exported.card.record.network() == architecture
    assert "monai.networks.nets.DenseNet" in (tmp_path / "out" / CARD_TEXT).read_text()
