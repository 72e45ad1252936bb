"""The one call: intent, request, outcome, in this order, and never twice."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.foundation_model import (
    ANSWER_LIMIT_BYTES,
    EMBEDDING_WIDTH,
    CallRecord,
    Outcome,
    encode_answer,
    host_of,
    idempotency_key,
    sign_record,
)
from fedhelp_secure.public_set import proxy_digest
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity
from fedhelp_server.broker.endpoint import CallLost, CallNotSent, FoundationModelEndpoint
from fedhelp_server.broker.journal import Intent, Journal
from fedhelp_server.broker.protocol import AnswerRefused, build_request, parse_response
from fedhelp_server.broker.states import CallState

_LOGGER = logging.getLogger(__name__)

_BYTES_PER_NUMBER = 24
"""Of a float32 in JSON, with its comma, at most."""
MAXIMUM_IMAGES = ANSWER_LIMIT_BYTES // (_BYTES_PER_NUMBER * EMBEDDING_WIDTH)


class ProxySetRefused(ConfigurationError):
    """The images at hand are not those that the charter lets out."""

    code = "proxy-set"


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


def moment() -> str:
    """Now, in UTC, to the second."""
    return utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")


class Recorder:
    """Writes the outcomes of one charter's call into its journal, signed."""

    def __init__(self, charter: Charter, journal: Journal, key: SigningKey) -> None:
        self._charter = charter
        self._journal = journal
        self._key = key

    def conclude(
        self,
        outcome: Outcome,
        *,
        reason: str = "",
        seconds: float = 0.0,
        answer: bytes | None = None,
    ) -> None:
        """Record ``outcome`` of the newest intent; durable when it returns."""
        charter, intent = self._charter, self._journal.intent
        record = CallRecord(
            charter=charter.digest,
            purpose=charter.foundation_model.purpose,
            proxy_digest=charter.proxy.digest,
            host=host_of(charter),
            model=charter.foundation_model.model,
            requested_by=intent.requested_by,
            called_at=intent.called_at,
            recorded_at=moment(),
            seconds=round(seconds, 3),
            request_digest=intent.request_digest,
            answer_digest=None if answer is None else digest(answer),
            answer_shape=None if answer is None else (charter.proxy.count, EMBEDDING_WIDTH),
            outcome=outcome,
            reason=reason,
            idempotency_key=idempotency_key(charter),
            earlier=self._journal.earlier,
        )
        self._journal.conclude(sign_record(record, self._key), answer=answer)

    def settle_interrupted(self) -> None:
        """An intent without an outcome becomes indeterminate: only its operator can know."""
        if self._journal.state is CallState.CALLING:
            self.conclude("indeterminate", reason="interrupted")
            _LOGGER.warning("a call was interrupted; resolve it with: fedhelp broker resolve")


class OneCall:
    """At most one call for one charter, and its stored answer; safe for many threads."""

    def __init__(
        self,
        charter: Charter,
        images: NDArray[np.uint8],
        *,
        journal: Journal,
        key: SigningKey,
        endpoint: FoundationModelEndpoint,
        concluded: Callable[[], None],
    ) -> None:
        """``concluded`` is called after a final outcome. Raises ProxySetRefused."""
        self._charter = charter
        self._images = images
        self._journal = journal
        self._endpoint = endpoint
        self._concluded = concluded
        self._recorder = Recorder(charter, journal, key)
        self._lock = threading.Lock()
        self._check_images()
        self._recorder.settle_interrupted()

    def answer(self, requested_by: Identity) -> StoredAnswer:
        """The stored answer, calling the foundation model first if nobody has.

        Who comes during a call waits for its outcome. Raises CallIndeterminate, CallSpent, or
        CallNotSent (try again).
        """
        with self._lock:
            # A thread that failed between intent and outcome leaves its call like a dead process.
            self._recorder.settle_interrupted()
            if self._journal.state is CallState.READY:
                self._call(requested_by)
            return self._stored()

    def wait(self) -> None:
        """Return when no call is running."""
        with self._lock:
            return

    def _stored(self) -> StoredAnswer:
        state = self._journal.state
        record = self._journal.final_record
        if state is CallState.ANSWERED and record is not None:
            return StoredAnswer(record, self._journal.answer())
        if state is CallState.INDETERMINATE:
            raise CallIndeterminate(
                "nobody knows whether the foundation model was called; the broker's operator must "
                "find out and run: fedhelp broker resolve"
            )
        raise CallSpent(
            f"the charter's one call to the foundation model is {state.value} "
            f"({self._journal.last_record().reason}); ask the registrar for a new charter."
        )

    def _call(self, requested_by: Identity) -> None:
        self._check_images()
        body = build_request(self._images)
        intent = Intent(
            requested_by=requested_by.uri, called_at=moment(), request_digest=digest(body)
        )
        self._journal.intend(intent)
        begun = time.monotonic()
        try:
            answer = self._ask(body)
        except CallNotSent:
            self._journal.withdraw()
            raise
        except CallLost as lost:
            self._recorder.conclude(
                "indeterminate", reason=lost.reason, seconds=time.monotonic() - begun
            )
            _LOGGER.warning("the call was lost (%s): see fedhelp broker resolve", lost.reason)
            return
        except AnswerRefused as refused:
            self._recorder.conclude(
                "refused", reason=refused.reason, seconds=time.monotonic() - begun
            )
            _LOGGER.warning("%s", refused)
        else:
            self._recorder.conclude("answered", seconds=time.monotonic() - begun, answer=answer)
        self._concluded()

    def _ask(self, body: bytes) -> bytes:
        message = self._endpoint.infer(body, idempotency_key=idempotency_key(self._charter))
        embeddings = parse_response(
            message, model=self._charter.foundation_model.model, count=len(self._images)
        )
        return encode_answer(embeddings)

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
