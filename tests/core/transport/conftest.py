from __future__ import annotations

import pytest
from support.federation import Federation, make_federation


@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """One federation for all tests that leave its states as they are."""
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=1)
