"""The foundation model's answer about the proxy set, fetched while other work goes on.

What the broker gives is not taken on its word: its record of the call must be in the aggregator's
log, the only one there, so that every hospital and every auditor sees the same answer.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.node.coordinator import Coordinator, retried
from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError, InternalError, PolicyError
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.foundation_model import KIND, fetch_answer
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import GetCheckpointRequest, ListEntriesRequest
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

_PATIENCE_SECONDS = 180.0
"""The broker submits its record in its own time, and again if the aggregator was away."""
_PAUSE_SECONDS = 1.0
_CALL_SECONDS = 60.0


class AnswerNotLogged(PolicyError):
    """The broker's record of the answer is not, or not alone, in the evidence log."""

    code = "foundation-model-not-logged"


class Guidance:
    """Asks for the answer at once; it is there when `embeddings` returns."""

    def __init__(
        self,
        coordinator: Coordinator,
        address: str,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """``address``: host:port of the broker."""
        self._coordinator = coordinator
        self._patience_seconds = patience_seconds
        self._answer: tuple[NDArray[np.float32], bytes] | None = None
        self._error: FedHelpError | None = None
        charter = coordinator.charter
        broker = Identity(charter.federation, Role.BROKER, charter.broker.name)

        def fetch() -> None:
            try:
                self._answer = retried(
                    lambda: fetch_answer(coordinator.state, address, charter, broker)
                )
            except FedHelpError as error:
                self._error = error

        # A daemon: a node that fails for another reason must not wait for the broker.
        self._thread = threading.Thread(target=fetch, name="guidance", daemon=True)
        self._thread.start()

    def embeddings(self) -> NDArray[np.float32]:
        """The embeddings [N, 768] once they are there and logged.

        Raises AnswerNotLogged, and what fetching them raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise InternalError("fetching the foundation model's answer failed; see the log.")
        embeddings, record = self._answer
        self._wait_until_logged(digest(record))
        return embeddings

    def _wait_until_logged(self, record_digest: str) -> None:
        deadline = time.monotonic() + self._patience_seconds
        while True:
            logged = logged_calls(self._coordinator)
            if logged == [record_digest]:
                return
            if logged:
                raise AnswerNotLogged(
                    "the evidence log holds another call to the foundation model than the broker's "
                    "answer to this hospital; do not use it, and tell an auditor."
                )
            if time.monotonic() > deadline:
                raise AnswerNotLogged(
                    "the broker's record of its call is not in the evidence log; ask its operator "
                    "whether it runs with --aggregator, and start the node again."
                )
            time.sleep(_PAUSE_SECONDS)


def logged_calls(coordinator: Coordinator) -> list[str]:
    """Digests of the broker's records in the log, as the aggregator's signed checkpoint has it.

    Raises SignatureRefused or MalformedMessage, and AnswerNotLogged if entries and checkpoint do
    not match.
    """
    charter = coordinator.charter

    def checkpoint() -> bytes:
        with coordinator.connection() as channel:
            stub = EvidenceStub(channel)
            return stub.GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_SECONDS).checkpoint

    head = open_checkpoint(
        retried(checkpoint), origin=log_origin(charter), key=charter.aggregator.verifying_key()
    )
    request = ListEntriesRequest(start=0, end=head.size)

    def entries() -> list[bytes]:
        with coordinator.connection() as channel:
            found = EvidenceStub(channel).ListEntries(request, timeout=_CALL_SECONDS)
            return [item.entry for item in found]

    listed = retried(entries)
    if len(listed) != head.size or MerkleTree(listed).root() != head.root:
        raise AnswerNotLogged(
            "the aggregator's entries are not those that its checkpoint signs; tell an auditor."
        )
    broker = Identity(charter.federation, Role.BROKER, charter.broker.name)
    statements = [parse_entry(entry).statement_submitted for entry in listed]
    return [
        statement.envelope_digest
        for statement in statements
        if statement.kind == KIND and statement.submitter == broker.uri
    ]
