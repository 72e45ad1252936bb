from __future__ import annotations

import pytest
from support.federation import Federation, make_federation


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), unmaskers=2)
