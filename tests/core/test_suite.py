"""The suite itself: what tests/conftest.py asks of pytest-xdist is done."""

from __future__ import annotations

import pytest


def test_the_tests_of_one_file_stay_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Otherwise every worker starts the demo, and whatever else takes long to start, for itself."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("there is one process only")
    file, _, name = request.node.nodeid.partition("::")
    assert name == f"{request.node.name}@{file}"
