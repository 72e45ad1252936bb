"""The private release, round after round: debit, noise, encrypt, send, and open the sum.

The order inside a round never changes (see `Step`): the ledger's debit is durable before noise is
drawn, the encrypted contribution is durable before it is sent, and whatever happens in between,
noise for one round is drawn once. A node that crashed after the debit and before the contribution
was stored sits that round out: its budget is spent, and the round goes on without it.

Before any of it, the ledger is compared with everything that this hospital has signed before: see
`fedhelp_client.node.witness`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedhelp_client.node.coordinator import Coordinator, RoundFailed
from fedhelp_client.node.files import ReleaseFiles
from fedhelp_client.node.gate import HoursGate
from fedhelp_client.node.rehearsal import digest_of_integers
from fedhelp_client.node.witness import Witness
from fedhelp_client.progress import ProgressCallback
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.privacy.events import check_patients_allowed
from fedhelp_secure.privacy.ledger import AlreadyReserved, Ledger
from fedhelp_secure.privacy.mechanisms import (
    Mechanism,
    MechanismMisused,
    PreparedRelease,
    PublicLabels,
)
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
)
from fedhelp_secure.secure_sum.opening import OpenedSum
from fedhelp_secure.wire.v1.coordinator_pb2 import ROUND_STATE_OPEN

_log = logging.getLogger(__name__)

CONTRIBUTION_LOST = "contribution-lost"
"""Code of a round that was debited and whose contribution a crash took."""

NOT_IN_SUM = "not-in-sum"
"""Code of a round that was opened without the contribution that this hospital sent."""


class Step(StrEnum):
    """The steps of a round, in order; a crash right after any of them leaves the round spent."""

    RESERVED = "debited"
    NOISE_DRAWN = "noise drawn"
    ENCRYPTED = "encrypted"
    STORED = "contribution stored"
    SENT = "contribution sent"
    RECEIPT_STORED = "receipt stored"
    SENT_RECORDED = "recorded as sent"
    OPENED = "sum opened"
    OPENED_RECORDED = "recorded as opened"


StepListener = Callable[[Step, int], None]
"""Called with a step and the round's number, right after the step is done."""


def log_step(step: Step, round_number: int) -> None:
    """Say in the log how far a round is."""
    _log.info("round %d: %s", round_number, step.value)


_Inputs = TypeVar("_Inputs")


@dataclass(frozen=True, slots=True)
class Releaser:
    """Everything one hospital needs to take part in the rounds of one charter."""

    coordinator: Coordinator
    keys: ContributionKeys
    ledger: Ledger
    files: ReleaseFiles
    progress: ProgressCallback
    listener: StepListener = log_step
    gate: HoursGate = field(default_factory=HoursGate)
    """Whatever leaves, leaves within the site's hours."""

    @property
    def charter(self) -> Charter:
        """The charter under which this releases."""
        return self.coordinator.charter

    def run(self, mechanism: Mechanism[_Inputs], inputs: _Inputs) -> PublicLabels:
        """All rounds of the charter with ``inputs`` of this hospital's patients.

        Raises LedgerOutdated, CharterRefused, RehearsalOnly, PatientsRefused or BudgetExhausted
        before anything leaves, RoundFailed if a round ends without a sum, and SumForged if a sum
        was altered: its values are then used for nothing.
        """
        check_patients_allowed(self.charter)
        self.charter.check_shares()
        if mechanism.name != self.charter.privacy.mechanism:
            raise MechanismMisused("the charter names another mechanism than the node prepared.")
        self.witness.check()
        state = mechanism.initial_state()
        rounds = self.charter.rounds.count
        self.keys.context.prepare(rounds * self.charter.secure_sum.frames)
        previous: str | None = None
        for round_number in range(1, rounds + 1):
            with self._aborted_if_failed(round_number):
                opened = self._round(
                    round_number, partial(mechanism.prepare, state, inputs), previous
                )
            previous = digest_of_integers(opened.values)
            state = mechanism.postprocess(state, opened, round_number=round_number)
            self.progress("rounds", round_number, rounds)
        return mechanism.labels(state)

    @property
    def witness(self) -> Witness:
        """What this hospital has signed before, against its ledger."""
        return Witness(self.coordinator, self.ledger)

    def _round(
        self, round_number: int, prepare: Callable[[], PreparedRelease], previous: str | None
    ) -> OpenedSum:
        state = self.coordinator.wait_until_open(round_number, self._say)
        if self.gate.wait(self._say):
            # The round may have closed in the meantime.
            state = self.coordinator.wait_until_open(round_number, self._say)
        missed = state != ROUND_STATE_OPEN and self._is_untouched(round_number)
        contribution = None if missed else self._contribution(round_number, prepare, previous)
        if missed:
            _log.warning("round %d closed without this hospital: nothing was debited", round_number)
        if contribution is not None:
            self._send(round_number, contribution)
            # While it waits, for the case that the round brought a new context.
            left = self.charter.rounds.count - round_number
            self.keys.context.prepare(left * self.charter.secure_sum.frames)
        self.coordinator.wait_until_opened(round_number, self._say)
        opened = self.coordinator.fetch_sum(round_number)
        self.listener(Step.OPENED, round_number)
        if contribution is not None:
            self._record_opened(round_number, contribution, opened)
        self.coordinator.cosign_log()
        return opened

    def _is_untouched(self, round_number: int) -> bool:
        """Whether this hospital has neither debited the round nor made a contribution to it."""
        progress = self.ledger.account().progress(self.charter.digest, round_number)
        return progress is None and self.files.stored(round_number) is None

    @contextmanager
    def _aborted_if_failed(self, round_number: int) -> Iterator[None]:
        """Record a debited round that the aggregator gives up as aborted; it stays spent."""
        try:
            yield
        except RoundFailed as failed:
            self.ledger.abort(self.charter, round_number, failed.code)
            raise

    def _say(self, reason: str) -> None:
        self.progress(reason, 0, 0)

    def _contribution(
        self, round_number: int, prepare: Callable[[], PreparedRelease], previous: str | None
    ) -> Contribution | None:
        stored = self.files.stored(round_number)
        if stored is not None:
            return stored
        # Before the debit: patients that may not be released must not cost budget, nor must keys
        # that do not hold.
        noised = prepare()
        round_keys = self.coordinator.round_keys(round_number, self.keys)
        entry_digest = self._reserve(round_number, previous)
        if entry_digest is None:
            return None
        hospital = self.coordinator.state.identity.name
        release = noised(draw_share)
        self.listener(Step.NOISE_DRAWN, round_number)

        def make(ciphertext: Path) -> Contribution:
            made = make_contribution(
                self.charter,
                round_keys,
                hospital=hospital,
                release=release,
                ledger_entry_digest=entry_digest,
                keys=self.keys,
                out=ciphertext,
            )
            self.listener(Step.ENCRYPTED, round_number)
            return made

        contribution = self.files.store(round_number, make)
        self.listener(Step.STORED, round_number)
        return contribution

    def _reserve(self, round_number: int, previous: str | None) -> str | None:
        """The digest of the round's debit, None if it was debited before and so may not be drawn.

        Only ever called when no contribution to the round is stored.
        """
        self.witness.check_round(round_number)
        try:
            entry = self.ledger.reserve(self.charter, round_number, previous_aggregate=previous)
        except AlreadyReserved:
            _log.warning(
                "round %d was debited but its contribution was lost: sitting it out", round_number
            )
            progress = self.ledger.account().progress(self.charter.digest, round_number)
            if progress is not None and progress.status == "reserved":
                self.ledger.abort(self.charter, round_number, CONTRIBUTION_LOST)
            return None
        self.listener(Step.RESERVED, round_number)
        return entry.digest

    def _send(self, round_number: int, contribution: Contribution) -> None:
        receipt = self.coordinator.contribute(round_number, contribution)
        self.listener(Step.SENT, round_number)
        self.files.store_receipt(round_number, receipt.SerializeToString(deterministic=True))
        self.listener(Step.RECEIPT_STORED, round_number)
        self.ledger.record(
            self.charter,
            round_number,
            "sent",
            contribution_digest=digest(contribution.manifest),
        )
        self.listener(Step.SENT_RECORDED, round_number)

    def _record_opened(
        self, round_number: int, contribution: Contribution, opened: OpenedSum
    ) -> None:
        if self.coordinator.state.identity.name not in opened.hospitals:
            self.ledger.abort(self.charter, round_number, NOT_IN_SUM)
            return
        self.ledger.record(
            self.charter,
            round_number,
            "opened",
            contribution_digest=digest(contribution.manifest),
            contributors=opened.hospitals,
            sum_digest=digest_of_integers(opened.values),
        )
        self.listener(Step.OPENED_RECORDED, round_number)
