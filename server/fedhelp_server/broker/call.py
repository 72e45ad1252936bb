"""The one call: intent, requests, outcome, in this order, and no request twice."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, PolicyError, UnavailablePeer
from fedhelp_secure.foundation_model import (
    MAXIMUM_IMAGES,
    batch_key,
    batch_sizes,
    idempotency_key,
)
from fedhelp_secure.public_set import proxy_digest
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.identity import Identity
from fedhelp_server.broker.ceiling import Ceiling
from fedhelp_server.broker.journal import Journal, JournalDamaged
from fedhelp_server.broker.provider import (
    AnswerRefused,
    CallLost,
    CallNotSent,
    Connection,
    Contact,
    EgressRefused,
    Provider,
    Stopping,
)
from fedhelp_server.broker.recorder import Recorder, moment
from fedhelp_server.broker.states import CallState
from fedhelp_server.broker.steps import Intent, Received, Sent

_LOGGER = logging.getLogger(__name__)

ATTEMPTS = 3
"""Of one batch, where the provider guarantees that a repeated request is harmless."""
_PAUSE_SECONDS = 1.0
_PATIENCE_SECONDS = 600.0
"""That a request waits for a call that is running."""


class ProxySetRefused(ConfigurationError):
    """The images at hand are not those that the charter lets out."""

    code = "proxy-set"


class CallRunning(UnavailablePeer):
    """The call takes longer than a request may wait."""


class CallIndeterminate(PolicyError):
    """Nobody knows whether the foundation model was called."""

    code = "foundation-model-indeterminate"


class CallSpent(PolicyError):
    """The one call was made, or given up, and there is no answer."""

    code = "foundation-model-spent"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What hospitals get."""

    record: bytes
    """DSSE envelope."""
    body: bytes
    """``.npy``, float32 [N, 768]."""


class OneCall:
    """At most one call for one charter, and its stored answer; safe for many threads."""

    def __init__(
        self,
        charter: Charter,
        images: NDArray[np.uint8],
        *,
        journal: Journal,
        key: SigningKey,
        provider: Provider,
        ceiling: Ceiling,
        concluded: Callable[[], None],
    ) -> None:
        """``concluded`` is called after a final outcome. Raises ProxySetRefused, CeilingReached."""
        self._charter = charter
        self._images = images
        self._journal = journal
        self._provider = provider
        self._ceiling = ceiling
        self._concluded = concluded
        self._recorder = Recorder(charter, journal, key)
        self._lock = threading.Lock()
        self._check_images()
        goes_on = provider.repeatable and journal.state is CallState.SENT
        if goes_on or journal.state in (CallState.READY, CallState.OPEN):
            ceiling.check(images=len(images), request_bytes=self._request_bytes())
        self._settle_interrupted()

    def _request_bytes(self) -> int:
        """Of all batches; 0 if no ceiling asks, as that takes encoding every image."""
        if self._ceiling.request_bytes is None:
            return 0
        return sum(len(self._provider.request(part)) for part in self._parts())

    def answer(self, requested_by: Identity) -> StoredAnswer:
        """The stored answer, calling the foundation model first if nobody has.

        Who comes during a call waits for its outcome. Raises CallIndeterminate, CallSpent,
        CeilingReached, EgressRefused, or (try again) CallNotSent or CallRunning.
        """
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            raise CallRunning("the foundation model is still being asked; ask the broker again.")
        try:
            # A thread that failed between sending and outcome leaves its call like a dead process.
            self._settle_interrupted()
            if self._journal.state is CallState.READY:
                self._check_images()
                intent = Intent(requested_by=requested_by.uri, called_at=moment())
                self._journal.intend(intent)
            if self._journal.state in (CallState.OPEN, CallState.SENT):
                self._call()
            return self._stored()
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Return when no call is running."""
        with self._lock:
            return

    def _stored(self) -> StoredAnswer:
        state = self._journal.state
        record = self._journal.final_record
        if state is CallState.ANSWERED and record is not None:
            body = self._journal.answer()
            if digest(body) != self._journal.last_record().answer_digest:
                raise JournalDamaged(
                    "the stored answer is not the recorded one; restore the state from a backup."
                )
            return StoredAnswer(record, body)
        if state is CallState.INDETERMINATE:
            raise CallIndeterminate(
                "nobody knows whether the foundation model was called; the broker's operator must "
                "find out and run: fedhelp broker resolve"
            )
        raise CallSpent(
            f"the charter's one call to the foundation model is {state.value} "
            f"({self._journal.last_record().reason}); ask the registrar for a new charter."
        )

    def _call(self) -> None:
        """Go through the batches that have no answer yet; ends in an outcome or raises."""
        self._check_images()
        parts = self._parts()
        try:
            for number in range(self._journal.next_batch, len(parts) + 1):
                self._ask(number, parts[number - 1])
        except CallLost as lost:
            self._recorder.conclude("indeterminate", reason=lost.reason)
            _LOGGER.warning("the call was lost (%s): see fedhelp broker resolve", lost.reason)
            return
        except AnswerRefused as refused:
            self._recorder.conclude("refused", reason=refused.reason)
            _LOGGER.warning("%s", refused)
        else:
            self._recorder.conclude("answered")
        self._concluded()

    def _ask(self, number: int, images: NDArray[np.uint8]) -> None:
        """One batch, to its stored answer; again only if the provider allows that."""
        body = self._provider.request(images)
        if self._journal.state is CallState.OPEN:
            reported = [Decimal(done.cost) for done in self._journal.batches if done.cost]
            self._ceiling.check_next(reported)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._try(number, len(images), body)
            except (CallLost, CallNotSent, EgressRefused) as error:
                if self._journal.state is not CallState.SENT:
                    raise  # nothing of this batch has left
                lost = error if isinstance(error, CallLost) else CallLost("unreachable")
                if not self._provider.repeatable:
                    raise lost from error
                if isinstance(error, Stopping) or lost.reason == "stopped":
                    raise Stopping from error  # it goes on when the broker is back
                if attempt == ATTEMPTS:
                    raise lost from error
            _LOGGER.warning("a batch was lost; its provider allows that it is sent again")
            time.sleep(_PAUSE_SECONDS * attempt)
        return None

    def _try(self, number: int, count: int, body: bytes) -> None:
        connection = self._provider.connect()
        try:
            after = self._journal.latest
            self._journal.send(_sent(number, count, body, connection.contact, after=after))
            begun = time.monotonic()
            self._receive(connection, number, count, body, begun)
        finally:
            connection.close()

    def _receive(
        self, connection: Connection, number: int, count: int, body: bytes, begun: float
    ) -> None:
        key = batch_key(idempotency_key(self._charter), number)
        reply = connection.ask(body, count=count, key=key)
        received = Received(
            answer_digest=reply.digest,
            seconds=round(time.monotonic() - begun, 3),
            cost=None if reply.cost is None else format(reply.cost, "f"),
        )
        self._journal.receive(received, reply.embeddings)

    def _settle_interrupted(self) -> None:
        self._recorder.settle_interrupted(repeatable=self._provider.repeatable)

    def _parts(self) -> list[NDArray[np.uint8]]:
        ends = np.cumsum(batch_sizes(self._charter))
        return np.split(self._images, ends[:-1])

    def _check_images(self) -> None:
        """Only the charter's proxy images may leave: their digest is computed here and now."""
        if proxy_digest(self._images) != self._charter.proxy.digest:
            raise ProxySetRefused(
                "the public set's images are not the charter's; give the file it was made with."
            )
        if len(self._images) > MAXIMUM_IMAGES:
            raise ProxySetRefused(
                f"a call carries at most {MAXIMUM_IMAGES} images; make a smaller public set."
            )


def _sent(number: int, count: int, body: bytes, contact: Contact | None, *, after: str) -> Sent:
    return Sent(
        batch=number,
        images=count,
        request_digest=digest(body),
        request_bytes=len(body),
        sent_at=moment(after=after),
        address=None if contact is None else contact.address,
        tls_key=None if contact is None else contact.tls_key,
    )
