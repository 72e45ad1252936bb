"""A hospital uses the foundation model's answer only if its record is in the log, and alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.aggregator import AggregatorServer
from support.broker import (
    BrokerProcess,
    BrokerWorld,
    RecordingServer,
    closed_port,
    embeddings_of_server,
    make_world,
)

from fedhelp_client.node.coordinator import Coordinator, connect
from fedhelp_client.node.guidance import AnswerNotLogged, Guidance, logged_calls
from fedhelp_secure.canonical import digest
from fedhelp_secure.foundation_model import KIND
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import SubmitRequest
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub
from fedhelp_server.aggregator.custodians import CustodianAddresses


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerWorld]:
    root = tmp_path_factory.mktemp("guidance")
    with RecordingServer(root / "server") as server:
        yield make_world(root, server)


@pytest.fixture
def aggregator(world: BrokerWorld, tmp_path: Path) -> Iterator[AggregatorServer]:
    nobody = f"127.0.0.1:{closed_port()}"
    charter = (world.federation.charter, world.federation.charter_envelope)
    with AggregatorServer(
        world.federation, tmp_path, charter, CustodianAddresses(nobody, (nobody,))
    ) as running:
        yield running


@pytest.fixture
def coordinator(world: BrokerWorld, aggregator: AggregatorServer) -> Iterator[Coordinator]:
    state = world.federation.state("small-1")
    connected = connect(state, aggregator.address, Role.AGGREGATOR.value)
    yield connected
    connected.close()


def test_a_logged_answer_is_used(
    world: BrokerWorld, aggregator: AggregatorServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    with BrokerProcess(world, tmp_path, aggregator=aggregator.address) as broker:
        guidance = Guidance(coordinator, broker.address, patience_seconds=30)
        np.testing.assert_array_equal(guidance.embeddings(), embeddings_of_server())
    record = world.journal(tmp_path).final_record
    assert record is not None
    assert logged_calls(coordinator) == [digest(record)]


def test_an_answer_that_is_not_logged_is_not_used(
    world: BrokerWorld, coordinator: Coordinator, tmp_path: Path
) -> None:
    with BrokerProcess(world, tmp_path) as broker:
        guidance = Guidance(coordinator, broker.address, patience_seconds=0)
        with pytest.raises(AnswerNotLogged, match="--aggregator"):
            guidance.embeddings()


def test_an_answer_beside_another_logged_call_is_not_used(
    world: BrokerWorld, aggregator: AggregatorServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    """A broker that asked twice, from two states, and shows hospitals different answers."""
    state = world.federation.state(Role.BROKER)
    other = state.signing_key().sign_document(KIND, {"another": "call"})
    expected = Identity("testfed", Role.AGGREGATOR, Role.AGGREGATOR.value)
    with open_channel(state, aggregator.address, expected=expected) as channel:
        EvidenceStub(channel).Submit(SubmitRequest(kind=KIND, envelope=other), timeout=20)
    with BrokerProcess(world, tmp_path, aggregator=aggregator.address) as broker:
        guidance = Guidance(coordinator, broker.address, patience_seconds=30)
        with pytest.raises(AnswerNotLogged, match="another call"):
            guidance.embeddings()
