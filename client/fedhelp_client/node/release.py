"""The private release, round after round: debit, noise, encrypt, send, and open the sum.

The order inside a round never changes: the ledger's debit is durable before noise is drawn, the
encrypted contribution is durable before it is sent, and whatever happens in between, noise for one
round is drawn once. A node that crashed after the debit and before the contribution was stored
sits that round out: its budget is spent, and the round goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.ledger import AlreadyReserved, Ledger
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import Contribution, make_contribution
from fedhelp_secure.state import write_atomically

_log = logging.getLogger(__name__)

_PARTS = ("manifest", "sealed_seed", "ciphertext")


@dataclass(frozen=True, slots=True)
class ReleaseFiles:
    """What a node keeps of its rounds, under its state directory."""

    directory: Path

    def stored(self, round_number: int) -> Contribution | None:
        """The contribution made for ``round_number``, or None if there is none."""
        folder = self.directory / f"round-{round_number}"
        if not (folder / _PARTS[-1]).exists():
            return None
        manifest, sealed_seed, ciphertext = ((folder / part).read_bytes() for part in _PARTS)
        return Contribution(manifest=manifest, sealed_seed=sealed_seed, ciphertext=ciphertext)

    def store(self, round_number: int, contribution: Contribution) -> None:
        """Make ``contribution`` durable; the ciphertext comes last and completes it."""
        folder = self.directory / f"round-{round_number}"
        for part in _PARTS:
            write_atomically(folder / part, getattr(contribution, part))

    def store_receipt(self, round_number: int, serialised: bytes) -> None:
        """Keep the aggregator's receipt for ``round_number``."""
        write_atomically(self.directory / "receipts" / f"{round_number}.bin", serialised)

    def export_receipts(self, out: Path, hospital: str) -> None:
        """Copy every receipt to ``out`` as ``<hospital>-<round>.bin``, for an auditor."""
        for receipt in sorted((self.directory / "receipts").glob("*.bin")):
            write_atomically(out / f"{hospital}-{receipt.stem}.bin", receipt.read_bytes())


@dataclass(frozen=True, slots=True)
class Releaser:
    """Everything one hospital needs to take part in the rounds of one charter."""

    coordinator: Coordinator
    public_set: PublicSet
    context: PublicContext
    ledger: Ledger
    files: ReleaseFiles
    progress: ProgressCallback

    @property
    def charter(self) -> Charter:
        """The charter under which this releases."""
        return self.coordinator.charter

    def run(self, patients: Sequence[probe.PatientExamples]) -> NDArray[np.float64]:
        """All rounds of the charter; returns the last public model, shape [D, C].

        Raises BudgetExhausted before anything leaves, RoundFailed if a round ends without a sum.
        """
        model = probe.initial_model(self.charter)
        rounds = self.charter.rounds.count
        for round_number in range(1, rounds + 1):
            self.coordinator.wait_until_open(round_number, self._say)
            contribution = self._contribution(round_number, model, patients)
            if contribution is not None:
                self._send(round_number, contribution)
            self.coordinator.wait_until_opened(round_number, self._say)
            opened = self.coordinator.fetch_sum(round_number)
            if contribution is not None:
                self._record(round_number, contribution, "opened")
            model = probe.apply_step(self.charter, self.public_set, model, opened.values)
            self.progress("rounds", round_number, rounds)
        return model

    def _say(self, reason: str) -> None:
        self.progress(reason, 0, 0)

    def _contribution(
        self,
        round_number: int,
        model: NDArray[np.float64],
        patients: Sequence[probe.PatientExamples],
    ) -> Contribution | None:
        stored = self.files.stored(round_number)
        if stored is not None:
            return stored
        # Before the debit: patients that may not be released must not cost budget.
        query = probe.contribution(self.charter, model, patients)
        try:
            entry = self.ledger.reserve(self.charter, round_number)
        except AlreadyReserved:
            _log.warning(
                "round %d was debited but its contribution was lost: sitting it out", round_number
            )
            return None
        group = self.charter.hospital(self.coordinator.state.identity.name).group
        noise = draw_share(len(query), self.charter.share_units(group))
        contribution = make_contribution(
            self.charter,
            round_number,
            hospital=self.coordinator.state.identity.name,
            release=query + noise,
            ledger_entry_digest=entry.digest,
            signing_key=self.coordinator.state.signing_key(),
            context=self.context,
        )
        self.files.store(round_number, contribution)
        return contribution

    def _send(self, round_number: int, contribution: Contribution) -> None:
        receipt = self.coordinator.contribute(round_number, contribution)
        check_receipt(
            receipt,
            log_key=self.charter.aggregator.verifying_key(),
            origin=log_origin(self.charter),
        )
        self.files.store_receipt(round_number, receipt.SerializeToString(deterministic=True))
        self._record(round_number, contribution, "sent")

    def _record(
        self, round_number: int, contribution: Contribution, status: Literal["sent", "opened"]
    ) -> None:
        self.ledger.record(
            self.charter,
            round_number,
            status,
            contribution_digest=digest(contribution.manifest),
        )
