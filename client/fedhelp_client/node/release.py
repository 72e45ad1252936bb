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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.node.coordinator import Coordinator
from fedhelp_client.node.files import ReleaseFiles
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.ledger import AlreadyReserved, Ledger
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Releaser:
    """Everything one hospital needs to take part in the rounds of one charter."""

    coordinator: Coordinator
    public_set: PublicSet
    keys: ContributionKeys
    ledger: Ledger
    files: ReleaseFiles
    progress: ProgressCallback

    @property
    def charter(self) -> Charter:
        """The charter under which this releases."""
        return self.coordinator.charter

    def run(self, patients: Sequence[probe.PatientExamples]) -> NDArray[np.float64]:
        """All rounds of the charter; returns the last public model, shape [D, C].

        Raises RehearsalOnly or BudgetExhausted before anything leaves, RoundFailed if a round ends
        without a sum, and SumForged if a sum was altered: its values are then used for nothing.
        """
        model = probe.initial_model(self.charter)
        rounds = self.charter.rounds.count
        self.keys.context.prepare(rounds * self.charter.secure_sum.frames)
        for round_number in range(1, rounds + 1):
            self.coordinator.wait_until_open(round_number, self._say)
            contribution = self._contribution(round_number, model, patients)
            if contribution is not None:
                self._send(round_number, contribution)
            self.coordinator.wait_until_opened(round_number, self._say)
            opened = self.coordinator.fetch_sum(round_number)
            if contribution is not None:
                self._record(round_number, contribution, "opened")
            model = probe.apply_step(
                self.charter, self.public_set, model, opened.values, round_number=round_number
            )
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
        hospital = self.coordinator.state.identity.name
        group = self.charter.hospital(hospital).group
        release = query + draw_share(len(query), self.charter.share_units(group))
        return self.files.store(
            round_number,
            lambda ciphertext: make_contribution(
                self.charter,
                round_number,
                hospital=hospital,
                release=release,
                ledger_entry_digest=entry.digest,
                keys=self.keys,
                out=ciphertext,
            ),
        )

    def _send(self, round_number: int, contribution: Contribution) -> None:
        receipt = self.coordinator.contribute(round_number, contribution)
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
