"""What every provider promises, run on each: against real servers and a real network in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.broker import COUNT, BrokerWorld, closed_port, key_digest
from support.foundation_model import FoundationModel

from fedhelp_secure.backbone import load_backbone
from fedhelp_secure.charter import ProviderName
from fedhelp_secure.evidence.verify_calls import check_call
from fedhelp_secure.foundation_model import open_answer
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.egress import EgressRules
from fedhelp_server.broker.provider import (
    AnswerRefused,
    CallLost,
    CallNotSent,
    EgressRefused,
    Provider,
)
from fedhelp_server.broker.providers import make_provider
from fedhelp_server.foundation_model.onnx_file import write_onnx

WHO = Identity("testfed", Role.HOSPITAL, "small-1")
KEY = "0" * 64 + "-0001"
REMOTE: dict[ProviderName, tuple[int, str]] = {
    "open-inference-http": (0, ""),
    "open-inference-grpc": (1, ""),
    "openai-embeddings": (0, "/v1"),
}
"""Which of the server's addresses, and the path."""


@dataclass(frozen=True)
class Case:
    """A charter that names a provider, and what makes it."""

    world: BrokerWorld
    model: FoundationModel
    make: Callable[[BrokerWorld, EgressRules], Provider]

    @property
    def remote(self) -> bool:
        return self.world.federation.charter.foundation_model.provider in REMOTE

    def rules(self, **changes: object) -> EgressRules:
        rules = dataclasses.replace(self.world.rules(), ca=self.model.certificate)
        return dataclasses.replace(rules, **changes)  # type: ignore[arg-type]

    def provider(self, **changes: object) -> Provider:
        return self.make(self.world, self.rules(**changes))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, write_onnx(path)


@pytest.fixture(scope="session")
def expected(shared_world: BrokerWorld) -> NDArray[np.float32]:
    return load_backbone().embed(shared_world.public_set.images)


def make_case(
    name: ProviderName,
    world: BrokerWorld,
    foundation_model: FoundationModel,
    onnx_file: tuple[Path, str],
) -> Case:
    if name == "local-onnx":
        world = world.variant(provider=name, url=None, weights_digest=onnx_file[1])
    else:
        number, path = REMOTE[name]
        url = f"https://{foundation_model.addresses[number]}{path}"
        world = world.variant(provider=name, url=url)
    return Case(
        world,
        foundation_model,
        lambda world, rules: make_provider(
            world.federation.charter, rules, model_file=onnx_file[0]
        ),
    )


@pytest.fixture(params=[*REMOTE, "local-onnx"])
def case(
    request: pytest.FixtureRequest,
    world: BrokerWorld,
    foundation_model: FoundationModel,
    onnx_file: tuple[Path, str],
) -> Case:
    return make_case(request.param, world, foundation_model, onnx_file)


@pytest.fixture(params=[*REMOTE])
def remote(
    request: pytest.FixtureRequest,
    world: BrokerWorld,
    foundation_model: FoundationModel,
    onnx_file: tuple[Path, str],
) -> Case:
    return make_case(request.param, world, foundation_model, onnx_file)


def test_it_gives_the_real_embeddings(case: Case, expected: NDArray[np.float32]) -> None:
    provider = case.provider()
    images = case.world.public_set.images[:3]
    body = provider.request(images)
    assert body == provider.request(images.copy())  # from the pixels, and nothing else
    connection = provider.connect()
    reply = connection.ask(body, count=3, key=KEY)
    connection.close()
    assert reply.embeddings.dtype == np.float32
    np.testing.assert_allclose(reply.embeddings, expected[:3], atol=1e-4)
    assert reply.digest.startswith("sha256:")
    assert reply.cost is None


def test_it_says_who_is_at_the_other_end(case: Case) -> None:
    connection = case.provider().connect()
    connection.close()
    if not case.remote:
        assert connection.contact is None
        return
    assert connection.contact is not None
    host = case.world.federation.charter.foundation_model.host
    assert connection.contact.address == host
    assert connection.contact.tls_key == key_digest(case.model.certificate)


def test_after_its_end_it_connects_no_more(case: Case) -> None:
    provider = case.provider()
    provider.close()
    with pytest.raises(CallNotSent):
        provider.connect()


def test_the_pinned_key_decides(remote: Case) -> None:
    remote.provider(pin=key_digest(remote.model.certificate)).connect().close()
    with pytest.raises(EgressRefused, match="--pin"):
        remote.provider(pin="sha256:" + "0" * 64).connect()


def test_without_leave_no_private_address_is_connected_to(remote: Case) -> None:
    with pytest.raises(EgressRefused, match="--allow-private-network"):
        remote.provider(private_networks=()).connect()


def test_a_certificate_that_is_not_trusted_is_refused(remote: Case) -> None:
    with pytest.raises(CallNotSent, match="certificate"):
        remote.provider(ca=remote.world.server.certificate).connect()


def test_nobody_there_is_not_a_call(remote: Case) -> None:
    nowhere = remote.world.variant(url=f"https://127.0.0.1:{closed_port()}")
    with pytest.raises(CallNotSent):
        remote.make(nowhere, remote.rules()).connect()


def test_an_answer_to_another_number_of_images_is_refused(case: Case) -> None:
    provider = case.provider()
    connection = provider.connect()
    body = provider.request(case.world.public_set.images[:2])
    with pytest.raises((AnswerRefused, ValueError)):
        connection.ask(body, count=3, key=KEY)
    connection.close()


def test_a_longer_answer_than_allowed_is_refused(remote: Case) -> None:
    provider = remote.provider(answer_bytes=2000)
    connection = provider.connect()
    with pytest.raises(AnswerRefused) as caught:
        connection.ask(provider.request(remote.world.public_set.images[:2]), count=2, key=KEY)
    assert caught.value.reason in {"answer-size", "status-resource-exhausted"}
    connection.close()


def test_one_that_takes_too_long_is_lost(remote: Case) -> None:
    provider = remote.provider(seconds=0.05)
    connection = provider.connect()
    with pytest.raises(CallLost) as caught:
        connection.ask(provider.request(remote.world.public_set.images), count=COUNT, key=KEY)
    assert caught.value.reason == "timeout"
    connection.close()


def test_the_whole_call_in_batches_gives_a_record_that_an_auditor_accepts(
    case: Case, tmp_path: Path, expected: NDArray[np.float32]
) -> None:
    divided = case.world.variant(batch_images=4)
    provider = case.make(divided, case.rules())
    stored = divided.one_call(tmp_path, provider=provider).answer(WHO)
    charter = divided.federation.charter
    embeddings, record = open_answer(charter, record=stored.record, body=stored.body)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)
    check_call(record, charter)
    assert [batch.images for batch in record.batches] == [4, 2]
    assert all((batch.address is not None) == case.remote for batch in record.batches)
    assert case.world.server.connections == []
