"""Before anything is released: the ledger against everything that this hospital has signed.

Two witnesses: the contributions and receipts that the node itself keeps, of every charter, and what
the aggregator can show of this hospital's contributions to any round of the present one. Neither is
trusted: what counts is a manifest under this hospital's own signature.

What this cannot find: the whole state directory restored together with an aggregator that withholds
what it holds. Then a round can be drawn and sent a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.evidence.receipts import parse_receipt
from fedhelp_secure.privacy.account import Account
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.witness import (
    check_manifest_known,
    check_receipt_known,
    rehearsal_entry_digest,
)
from fedhelp_secure.secure_sum.contribution import KIND, ManifestRefused, open_manifest
from fedhelp_secure.signing import VerifyingKey, open_document, signer_of
from fedhelp_secure.state import StateDirectory


@dataclass(frozen=True, slots=True)
class Witness:
    """Compares one hospital's ledger with what it has signed; changes nothing."""

    coordinator: Coordinator
    ledger: Ledger

    def check(self) -> None:
        """Raises LedgerOutdated if any contribution's debit is not in the ledger.

        Looks at everything that the node keeps, and asks the aggregator about every round.
        """
        account = self.ledger.account()
        check_own_files(self.coordinator.state, account)
        for round_number in range(1, self.coordinator.charter.rounds.count + 1):
            self._check_aggregator(account, round_number)

    def check_round(self, round_number: int) -> None:
        """The same for what the aggregator can show of one round, as it is about to be debited."""
        self._check_aggregator(self.ledger.account(), round_number)

    def _check_aggregator(self, account: Account, round_number: int) -> None:
        charter, own = self.coordinator.charter, self.coordinator.state.identity.name
        envelope = self.coordinator.own_manifest(round_number)
        if envelope is None:
            return
        manifest = open_manifest(charter, envelope)
        if (manifest.hospital, manifest.round) != (own, round_number):
            raise ManifestRefused(
                "the aggregator shows another manifest than was asked for; ask its operator."
            )
        check_manifest_known(
            account,
            charter=manifest.charter,
            round_number=manifest.round,
            ledger_entry_digest=manifest.ledger_entry_digest,
        )


def check_own_files(state: StateDirectory, account: Account) -> None:
    """The contributions and receipts in ``state``, of every charter, against ``account``.

    Raises LedgerOutdated, or SignatureRefused or MalformedMessage for what is not this hospital's.
    """
    keys = state.verifying_keys()
    for folder in sorted((state.role_directory() / "charters").glob("*")):
        charter = f"sha256:{folder.name}"
        for manifest in sorted(folder.glob("round-*/manifest")):
            _check_manifest_file(manifest, charter, keys, account)
        for receipt in sorted((folder / "receipts").glob("*.bin")):
            _check_receipt_file(receipt, charter, keys, account)


def _check_manifest_file(
    path: Path, charter: str, keys: Sequence[VerifyingKey], account: Account
) -> None:
    document = _own_manifest(path, keys)
    named = document.get("ledger_entry_digest")
    if named == rehearsal_entry_digest(charter):
        return
    if document.get("charter") != charter or path.parent.name != f"round-{document.get('round')}":
        raise MalformedMessage(f"{path} belongs elsewhere; put it back where the node wrote it.")
    check_manifest_known(
        account, charter=charter, round_number=document["round"], ledger_entry_digest=str(named)
    )


def _check_receipt_file(
    path: Path, charter: str, keys: Sequence[VerifyingKey], account: Account
) -> None:
    accepted = parse_entry(parse_receipt(path.read_bytes()).entry).contribution_accepted
    manifest = path.parents[1] / f"round-{accepted.round}" / "manifest"
    if manifest.exists() and _own_manifest(manifest, keys).get(
        "ledger_entry_digest"
    ) == rehearsal_entry_digest(charter):
        return
    check_receipt_known(
        account,
        charter=charter,
        round_number=accepted.round,
        manifest_digest=accepted.manifest_digest,
    )


def _own_manifest(path: Path, keys: Sequence[VerifyingKey]) -> dict[str, Any]:
    """What is in ``path``, which one of this hospital's present or former keys has signed."""
    envelope = path.read_bytes()
    return open_document(KIND, envelope, signer_of(KIND, envelope, keys))
