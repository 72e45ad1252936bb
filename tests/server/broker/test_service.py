"""Who gets the answer over mTLS, and what a hospital refuses to take for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import BrokerWorld
from support.federation import join

from fedhelp_secure.charter import Charter, parse_charter
from fedhelp_secure.foundation_model import AnswerNotPinned, fetch_answer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.client import PeerNotAuthenticated, PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.wire.v1.broker_pb2_grpc import add_BrokerServicer_to_server
from fedhelp_server.broker.service import Broker


@pytest.fixture
def server(world: BrokerWorld, tmp_path: Path) -> Iterator[RunningServer]:
    service = Broker(world.federation.charter, world.one_call(tmp_path))
    running = start_server(
        world.federation.state(Role.BROKER),
        "127.0.0.1:0",
        register=lambda server: add_BrokerServicer_to_server(service, server),
    )
    yield running
    running.stop(0)


def fetch(
    world: BrokerWorld, server: RunningServer, state: StateDirectory, charter: Charter | None = None
) -> None:
    fetch_answer(
        state,
        server.address,
        charter or world.federation.charter,
        world.identity,
        timeout_seconds=20,
    )


@pytest.mark.parametrize("party", ["large-1", "small-2", Role.AUDITOR])
def test_hospitals_and_auditors_get_the_answer(
    world: BrokerWorld, server: RunningServer, party: str | Role
) -> None:
    fetch(world, server, world.federation.state(party))
    assert len(world.server.requests) == 1


@pytest.mark.parametrize("role", [Role.AGGREGATOR, Role.DECRYPTOR, Role.UNMASKER, Role.BROKER])
def test_other_roles_do_not(world: BrokerWorld, server: RunningServer, role: Role) -> None:
    with pytest.raises(PeerRefused) as caught:
        fetch(world, server, world.federation.state(role))
    assert caught.value.code == "access"
    assert world.server.connections == []


def test_a_hospital_outside_the_charter_does_not(
    world: BrokerWorld, server: RunningServer, tmp_path: Path
) -> None:
    late = Identity("testfed", Role.HOSPITAL, f"late-{tmp_path.name[-1]}")
    stranger = join(world.federation.state("registrar"), tmp_path, late)
    with pytest.raises(PeerRefused) as caught:
        fetch(world, server, stranger)
    assert caught.value.code == "foundation-model-question"
    assert world.server.connections == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"foundation_model": {"purpose": "captions"}},
        {"proxy": {"digest": "sha256:" + "0" * 64}},
    ],
)
def test_a_question_about_another_charter_is_refused(
    world: BrokerWorld, server: RunningServer, change: dict[str, object]
) -> None:
    document = world.federation.charter.document()
    for key, value in change.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    with pytest.raises(PeerRefused) as caught:
        fetch(world, server, world.federation.state("small-1"), parse_charter(document))
    assert caught.value.code == "foundation-model-question"
    assert world.server.connections == []


def test_a_hospital_takes_no_answer_from_another_server(
    world: BrokerWorld, server: RunningServer
) -> None:
    other = Identity("testfed", Role.BROKER, "other")
    with pytest.raises(PeerNotAuthenticated):
        fetch_answer(
            world.federation.state("small-1"),
            server.address,
            world.federation.charter,
            other,
            timeout_seconds=20,
        )


def test_a_hospital_refuses_an_answer_for_another_host(
    world: BrokerWorld, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's record is compared with the hospital's own charter, field by field."""
    document = world.federation.charter.document()
    document["foundation_model"]["url"] = "https://elsewhere.example"
    other = parse_charter(document)
    # A broker with the hospital's charter digest, but the first charter's everything else.
    monkeypatch.setattr(Charter, "digest", "sha256:" + "1" * 64)
    with pytest.raises(AnswerNotPinned, match="host"):
        fetch(world, server, world.federation.state("small-1"), other)
