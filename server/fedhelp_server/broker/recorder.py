"""Writes what became of one charter's call into its journal, signed."""

from __future__ import annotations

import logging

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.foundation_model import (
    EMBEDDING_WIDTH,
    CallRecord,
    Outcome,
    cost_of,
    idempotency_key,
    request_digest_of,
    seconds_of,
    sign_record,
)
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_server.broker.journal import Journal
from fedhelp_server.broker.states import CallState

_LOGGER = logging.getLogger(__name__)


def moment(*, after: str = "") -> str:
    """Now, in UTC, to the second; ``after`` if the clock has been set back behind that moment."""
    return max(utc_now().strftime("%Y-%m-%dT%H:%M:%SZ"), after)


class Recorder:
    """The only one who signs records."""

    def __init__(self, charter: Charter, journal: Journal, key: SigningKey) -> None:
        self._charter = charter
        self._journal = journal
        self._key = key
        self._call_key = idempotency_key(charter)

    def conclude(self, outcome: Outcome, *, reason: str = "") -> None:
        """Record ``outcome``; durable when it returns."""
        charter, journal = self._charter, self._journal
        answered = outcome == "answered"
        batches = journal.batches
        record = CallRecord(
            charter=charter.digest,
            purpose=charter.foundation_model.purpose,
            proxy_digest=charter.proxy.digest,
            provider=charter.foundation_model.provider,
            host=charter.foundation_model.host,
            model=charter.foundation_model.model,
            requested_by=journal.intent.requested_by,
            called_at=journal.intent.called_at,
            recorded_at=moment(after=journal.latest),
            seconds=seconds_of(batches),
            request_digest=request_digest_of(batches),
            answer_digest=digest(journal.answer()) if answered else None,
            answer_shape=(charter.proxy.count, EMBEDDING_WIDTH) if answered else None,
            outcome=outcome,
            reason=reason,
            idempotency_key=self._call_key,
            cost=cost_of(batches),
            batches=batches,
            earlier=journal.earlier,
        )
        journal.conclude(sign_record(record, self._key))

    def settle_interrupted(self, *, repeatable: bool) -> None:
        """A batch that was sent and has no outcome becomes indeterminate: only the provider knows.

        Unless it may be sent again without harm.
        """
        if self._journal.state is CallState.SENT and not repeatable:
            self.conclude("indeterminate", reason="interrupted")
            _LOGGER.warning("a call was interrupted; resolve it with: fedhelp broker resolve")
