"""Part of step 10: what was tuned on patients was paid for.

A charter's maker declares how dimension, rounds, ridge and clip were chosen. *On patients* names
the charter under which it was debited; some ledger at hand must have that debit, and before
anything under the charter that profits.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_chain import Account


def check_tuning(accounts: Mapping[str, Account]) -> None:
    """Raises BundleRefused, naming the parameter, if no ledger has the debit that it names."""
    for account in accounts.values():
        for charter, record in account.last.items():
            if record.tuning is None:
                continue
            for parameter, paid in record.tuning.of_patients().items():
                if not any(_paid_before(other, paid, charter) for other in accounts.values()):
                    raise BundleRefused(
                        f"{parameter} was tuned on patients, and no ledger here debited {paid} for "
                        f"it before {charter}."
                    )


def _paid_before(account: Account, paid: str, charter: str) -> bool:
    """Whether the ledger's first debit under ``paid`` stands before its first under ``charter``."""
    # Charters stand in the order in which they were first debited.
    order = list(account.last)
    return paid in order and (charter not in order or order.index(paid) < order.index(charter))
