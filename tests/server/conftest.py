"""One real foundation model for all tests of the server package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.foundation_model import FoundationModel, start


@pytest.fixture(scope="session")
def foundation_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FoundationModel]:
    running = start(tmp_path_factory.mktemp("foundation-model"), "--grpc-port", "0")
    yield running
    running.process.terminate()
    running.process.wait(timeout=20)
