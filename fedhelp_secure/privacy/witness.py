"""Whether a ledger knows everything that its hospital has signed.

A hash chain does not show that it was cut off at its end: a ledger that was restored from an older
copy, replaced or removed is whole in itself. But every contribution has a manifest, signed by the
hospital's own key, that names its debit by digest. Whoever holds a manifest whose debit the ledger
lacks therefore proves that the ledger is older than the manifest; that takes no trust in the
holder, who cannot make one.
"""

from __future__ import annotations

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.privacy.account import Account


class LedgerOutdated(PolicyError):
    """The hospital signed a contribution that its ledger does not know."""

    code = "ledger-outdated"


def rehearsal_entry_digest(charter_digest: str) -> str:
    """What a rehearsal's manifests name in the place of a debit: there is no ledger entry."""
    return digest(canonical_json({"rehearsal": charter_digest}))


def check_manifest_known(
    account: Account, *, charter: str, round_number: int, ledger_entry_digest: str
) -> None:
    """Raises LedgerOutdated unless the entry that a manifest names is that round's debit.

    The manifest's own signature is for the caller to check first.
    """
    known = {
        (entry.record.charter, entry.record.round): entry.digest
        for entry in account.entries
        if entry.record.status == "reserved"
    }
    if known.get((charter, round_number)) != ledger_entry_digest:
        raise LedgerOutdated(_outdated(round_number))


def check_receipt_known(
    account: Account, *, charter: str, round_number: int, manifest_digest: str
) -> None:
    """Raises LedgerOutdated unless the round of a receipt was debited, for that manifest."""
    progress = account.progress(charter, round_number)
    if progress is None or progress.contribution not in (None, manifest_digest):
        raise LedgerOutdated(_outdated(round_number))


def _outdated(round_number: int) -> str:
    return (
        f"this hospital has made a contribution to round {round_number} whose debit is not in its "
        "ledger: the ledger was restored from an older copy, replaced or removed. Nothing was "
        "debited or sent. Put the newest copy back; if there is none, ask the privacy officer: the "
        "budget is spent all the same."
    )
