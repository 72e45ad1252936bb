"""The offline verifier finds every forged budget that the ledger itself refuses, on its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction

import pytest
from support.budgets import CHARTERS, FORGERIES, HOSPITAL, Documents, documents_with_consent, signed

from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_ledgers import check_ledgers
from fedhelp_secure.evidence.verify_rounds import Rounds
from fedhelp_secure.privacy.records import fewer_honest


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_with_consent(tmp_path_factory.mktemp("ledger"))


def check(documents: Documents) -> Fraction:
    """Epsilon (aggregate) under the first charter, as the verifier works it out."""
    data = b"".join(envelope + b"\n" for envelope in signed(documents))
    files = {layout.ledger_path(HOSPITAL): data}
    losses = check_ledgers(files, CHARTERS[0], (), rounds=Rounds((), (), 0))
    return losses[HOSPITAL].epsilon_aggregate


def test_a_ledger_with_limits_and_a_consent_passes(documents: Documents) -> None:
    assert check(copy.deepcopy(documents)) == Fraction(documents[1]["totals"]["epsilon_aggregate"])


@pytest.mark.parametrize("forge", [forge for _, forge in FORGERIES])
def test_a_forged_budget_is_found_out(
    documents: Documents, forge: Callable[[Documents], None]
) -> None:
    forged = copy.deepcopy(documents)
    forge(forged)
    with pytest.raises(BundleRefused):
        check(forged)


def test_the_stated_numbers_of_honest_shares_are_few() -> None:
    assert all(len(fewer_honest(honest)) <= 8 for honest in range(1, 50))
