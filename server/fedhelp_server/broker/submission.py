"""The final record goes to the evidence log, however often that must be tried."""

from __future__ import annotations

import logging
import threading

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError, PeerError
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.foundation_model import KIND
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import evidence_pb2 as wire
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub
from fedhelp_server.broker.journal import Journal

_LOGGER = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_CALL_SECONDS = 30.0
_STOP_SECONDS = 2.0


class ReceiptRefused(PeerError):
    """The aggregator's receipt is not for the record that was submitted."""

    code = "broker-receipt"


class Submitter:
    """A thread that submits the journal's final record until the log has taken it."""

    def __init__(
        self, state: StateDirectory, charter: Charter, journal: Journal, *, aggregator: str
    ) -> None:
        self._state = state
        self._charter = charter
        self._journal = journal
        self._aggregator = aggregator
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="submission", daemon=True)

    def start(self) -> None:
        """Begin; what an earlier process could not submit comes first."""
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """There may be a final record to submit."""
        self._work.set()

    def stop(self) -> None:
        """End; an attempt that is running is repeated by the next process."""
        self._stopping.set()
        self._work.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            self._work.wait()
            self._work.clear()
            record = self._journal.final_record
            if record is None or self._journal.receipt_path.exists():
                continue
            try:
                receipt = self._submit(record)
            except (FedHelpError, OSError) as error:
                _LOGGER.warning(
                    "the record is not in the evidence log yet (%s); trying again in %.0f s",
                    getattr(error, "code", type(error).__name__),
                    pause,
                )
                self._stopping.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                self._work.set()
            else:
                write_atomically(self._journal.receipt_path, receipt)

    def _submit(self, record: bytes) -> bytes:
        """The serialised receipt, after checking it."""
        charter = self._charter
        aggregator = Identity(charter.federation, Role.AGGREGATOR, charter.aggregator.name)
        request = wire.SubmitRequest(kind=KIND, envelope=record)
        with (
            open_channel(self._state, self._aggregator, expected=aggregator) as channel,
            translated_errors("the aggregator"),
        ):
            receipt = EvidenceStub(channel).Submit(request, timeout=_CALL_SECONDS).receipt
        entry = check_receipt(
            receipt, log_key=charter.aggregator.verifying_key(), origin=log_origin(charter)
        )
        submitted = wire.StatementSubmitted(
            submitter=self._state.identity.uri, kind=KIND, envelope_digest=digest(record)
        )
        if entry.statement_submitted != submitted:
            raise ReceiptRefused("the receipt is for another statement; ask the aggregator.")
        return receipt.SerializeToString(deterministic=True)
