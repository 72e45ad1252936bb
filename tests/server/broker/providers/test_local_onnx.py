"""The model in a file: only the pinned one, and only if it is a network of images to embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.broker import BrokerWorld

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import CharterRefused, parse_charter
from fedhelp_server.broker.egress import EgressRules
from fedhelp_server.broker.provider import AnswerRefused, CallLost
from fedhelp_server.broker.providers import make_provider
from fedhelp_server.broker.providers.local_onnx import LocalModelRefused, LocalOnnx


def network(width: int = 768, *, kind: int = TensorProto.FLOAT, inputs: int = 1) -> bytes:
    """The mean of each prepared image, ``width`` times."""
    names = [f"input{number}" for number in range(inputs)]
    shape: list[str | int | None] = ["N", 3, 224, 224]
    nodes = [
        helper.make_node("ReduceMean", ["input0"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean"], ["column"], axes=[1]),
        helper.make_node("Concat", ["column"] * width, ["row"], axis=1),
        helper.make_node("Cast", ["row"], ["embeddings"], to=kind),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info("embeddings", kind, ["N", width])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def local(world: BrokerWorld, directory: Path, data: bytes) -> LocalOnnx:
    path = directory / "model.onnx"
    path.write_bytes(data)
    charter = world.variant(
        provider="local-onnx", url=None, weights_digest=digest(data)
    ).federation.charter
    return LocalOnnx(charter, path)


def test_the_pinned_network_is_run(world: BrokerWorld, tmp_path: Path) -> None:
    provider = local(world, tmp_path, network())
    images = world.public_set.images
    reply = provider.connect().ask(provider.request(images), count=len(images), key="")
    assert reply.embeddings.shape == (len(images), 768)
    assert np.ptp(reply.embeddings, axis=1).max() == 0
    assert len(np.unique(reply.embeddings[:, 0])) == len(images)


def test_another_file_than_the_pinned_one_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    charter = world.variant(
        provider="local-onnx", url=None, weights_digest=digest(network())
    ).federation.charter
    other = tmp_path / "other.onnx"
    other.write_bytes(network(384))
    for path, match in [
        (other, "not the file"),
        (tmp_path / "absent", "cannot be read"),
        (tmp_path, "cannot be read"),
        (None, "--model-file"),
    ]:
        with pytest.raises(LocalModelRefused, match=match):
            make_provider(charter, EgressRules(), model_file=path)


@pytest.mark.parametrize("data", [b"", b"no network", network(inputs=2)])
def test_a_pinned_file_that_is_no_such_network_is_refused(
    world: BrokerWorld, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(LocalModelRefused):
        local(world, tmp_path, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(network(384), "answer-shape"), (network(kind=TensorProto.DOUBLE), "answer-form")],
)
def test_another_answer_than_embeddings_is_refused(
    world: BrokerWorld, tmp_path: Path, data: bytes, reason: str
) -> None:
    provider = local(world, tmp_path, data)
    with pytest.raises(AnswerRefused) as caught:
        provider.connect().ask(provider.request(world.public_set.images), count=6, key="")
    assert caught.value.reason == reason


def test_it_stops_between_its_parts(world: BrokerWorld, tmp_path: Path) -> None:
    provider = local(world, tmp_path, network())
    connection = provider.connect()
    provider.close()
    with pytest.raises(CallLost) as caught:
        connection.ask(provider.request(world.public_set.images), count=6, key="")
    assert caught.value.reason == "stopped"


@pytest.mark.parametrize(
    "entries",
    [
        {"provider": "local-onnx"},
        {"provider": "local-onnx", "url": None},
        {"weights_digest": "sha256:" + "0" * 64},
        {"url": None},
        {"provider": "another"},
        {"batch_images": 0},
    ],
)
def test_a_charter_names_a_url_or_a_file(world: BrokerWorld, entries: dict[str, object]) -> None:
    with pytest.raises(CharterRefused, match="foundation_model"):
        world.variant(**entries)


def test_a_charter_has_at_most_64_batches(world: BrokerWorld) -> None:
    document = world.federation.charter.document()
    document["proxy"]["count"] = 65
    document["foundation_model"]["batch_images"] = 1
    with pytest.raises(CharterRefused, match="batch_images"):
        parse_charter(document)
