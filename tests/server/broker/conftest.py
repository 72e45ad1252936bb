"""One recording server and one federation for all tests of the broker; states are per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.broker import BrokerWorld, RecordingServer, make_world


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerWorld]:
    root = tmp_path_factory.mktemp("broker")
    with RecordingServer(root / "server") as server:
        yield make_world(root, server)


@pytest.fixture
def world(shared_world: BrokerWorld) -> BrokerWorld:
    shared_world.server.reset()
    return shared_world
