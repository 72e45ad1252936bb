"""The durable record of the one call: what was intended, what was sent, and what came of it.

Layout, in ``<state>/broker``::

    lock                              held by the one process that may write
    calls/<idempotency key>/
        0001-intent.json              who asked, before anything else
        0002-sent.json                before a batch is sent: which bytes, by digest, to whom
        batch-0001.sealed             its answer, sealed to the broker's own key
        0003-received.json            what came back, by digest
        0004-sent.json ...            the next batch
        NNNN-outcome.json             DSSE envelope of the record
        receipt.bin                   the evidence log's receipt for the final record

Every file is written atomically and synced, together with its directory, before the next step is
taken, so that a process killed at any moment leaves one of the states of `states`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.foundation_model import (
    Batch,
    CallRecord,
    EarlierCall,
    Outcome,
    decode_answer,
    encode_answer,
    open_record,
)
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import write_atomically
from fedhelp_server.broker.states import FINAL, CallEvent, CallState, next_state
from fedhelp_server.broker.steps import Intent, Received, Sent

EVENT_OF_OUTCOME: Mapping[Outcome, CallEvent] = MappingProxyType(
    {
        "answered": CallEvent.ANSWER,
        "refused": CallEvent.REFUSE,
        "indeterminate": CallEvent.LOSE,
        "not-called": CallEvent.FIND_NOT_CALLED,
        "abandoned": CallEvent.ABANDON,
    }
)

_ANSWER_DOMAIN = "fedhelp-secure/v1/broker-answer"


class JournalBusy(ConfigurationError):
    """Another process works with this broker's state."""

    code = "broker-busy"


class JournalDamaged(ConfigurationError):
    """A file of the journal is not what the broker wrote."""

    code = "broker-journal"


class StateLock:
    """The right to write: one process at a time, given up when it ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Raises JournalBusy if another process holds it."""
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise JournalBusy(
                "another broker process uses this --state directory; stop it first."
            ) from error

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


class Journal:
    """The journal of one call. Whoever writes must hold the `StateLock`."""

    def __init__(self, directory: Path, key: VerifyingKey, unsealing: UnsealingKey) -> None:
        """Read what is there; the keys are the broker's own. Raises JournalDamaged."""
        self._directory = directory
        self._key = key
        self._unsealing = unsealing
        self._number = 0
        self._intent: Intent | None = None
        self._batches: list[Batch] = []
        self._records: list[tuple[bytes, CallRecord]] = []
        self.state = CallState.READY
        for path in sorted(directory.glob("[0-9]*-*.json")):
            self._replay(path)

    def _replay(self, path: Path) -> None:
        number, _, what = path.stem.partition("-")
        try:
            data = path.read_bytes()
            if int(number) != self._number + 1:
                raise JournalDamaged(f"{path} does not follow the file before it; restore it.")
            self._apply(what, data)
        except JournalDamaged:
            raise
        except (OSError, ValueError, ValidationError, FedHelpError) as error:
            raise JournalDamaged(
                f"{path} is not what the broker wrote; restore the state directory from a backup."
            ) from error
        self._number += 1

    def _apply(self, what: str, data: bytes) -> None:
        """Take over the step in ``data``; raises, with nothing changed, if it cannot come now."""
        if what == "intent":
            intent = Intent.model_validate_json(data)
            self.state = next_state(self.state, CallEvent.INTEND)
            self._intent = intent
        elif what == "sent":
            self._apply_sent(Sent.model_validate_json(data))
        elif what == "received":
            received = Received.model_validate_json(data)
            self.state = next_state(self.state, CallEvent.RECEIVE)
            self._batches[-1] = self._batches[-1].model_copy(update=received.model_dump())
        else:
            record = open_record(data, self._key)
            if record.idempotency_key != self._directory.name:
                raise JournalDamaged("an outcome is of another call; restore the state directory.")
            self.state = next_state(self.state, EVENT_OF_OUTCOME[record.outcome])
            self._records.append((data, record))

    def _apply_sent(self, sent: Sent) -> None:
        again = self._batches[-1] if self.unanswered else None
        event = CallEvent.REPEAT if self.state is CallState.SENT else CallEvent.SEND
        after = next_state(self.state, event)
        if sent.batch != len(self._batches) + (0 if again else 1):
            raise JournalDamaged("a batch was sent out of order; restore the state directory.")
        batch = Batch(
            **sent.model_dump(exclude={"batch"}),
            attempts=again.attempts + 1 if again and event is CallEvent.REPEAT else 1,
            answer_digest=None,
            seconds=None,
            cost=None,
        )
        if again:
            self._batches[-1] = batch
        else:
            self._batches.append(batch)
        self.state = after

    @property
    def intent(self) -> Intent:
        """Who asked; raises JournalDamaged if nobody has."""
        if self._intent is None:
            raise JournalDamaged("the broker's journal has an outcome without an intent.")
        return self._intent

    @property
    def batches(self) -> tuple[Batch, ...]:
        """Every batch that was sent, in order."""
        return tuple(self._batches)

    @property
    def unanswered(self) -> bool:
        """Whether the last batch that was sent has no answer."""
        return bool(self._batches) and self._batches[-1].answer_digest is None

    @property
    def next_batch(self) -> int:
        """Number of the first batch (from 1) that has no answer."""
        return len(self._batches) + (0 if self.unanswered else 1)

    @property
    def latest(self) -> str:
        """The newest moment in the journal; empty if there is none. A clock may be set back."""
        moments = [batch.sent_at for batch in self._batches]
        moments += [record.recorded_at for _, record in self._records]
        return max(moments, default="" if self._intent is None else self._intent.called_at)

    @property
    def earlier(self) -> tuple[EarlierCall, ...]:
        """Attempts that the operator found never to have left, oldest first."""
        found = [record for _, record in self._records if record.outcome == "not-called"]
        return tuple(
            EarlierCall(
                called_at=record.batches[-1].sent_at if record.batches else record.called_at,
                resolved_at=record.recorded_at,
                reason=record.reason,
            )
            for record in found
        )

    @property
    def final_record(self) -> bytes | None:
        """The envelope of the final outcome, if there is one."""
        return self._records[-1][0] if self.state in FINAL else None

    @property
    def outcomes(self) -> int:
        """How many outcomes there are; only the last can be final."""
        return len(self._records)

    def last_record(self) -> CallRecord:
        """The newest outcome; raises JournalDamaged if there is none."""
        if not self._records:
            raise JournalDamaged("the broker's journal has no outcome where it must have one.")
        return self._records[-1][1]

    def answer(self) -> bytes:
        """All batches' answers as one ``.npy``, unsealed; raises JournalDamaged if one is not as it
        was stored."""
        parts = []
        for number, batch in enumerate(self._batches, start=1):
            try:
                sealed = self._sealed_path(number).read_bytes()
                data = self._unsealing.open(sealed, self._seal_info(number))
                parts.append(decode_answer(data, count=batch.images))
            except (OSError, FedHelpError) as error:
                raise JournalDamaged(
                    "the stored answer is not the recorded one; restore the state from a backup."
                ) from error
        if not parts:
            raise JournalDamaged("the broker's journal has no answer; restore it from a backup.")
        return encode_answer(np.concatenate(parts))

    def intend(self, intent: Intent) -> None:
        """Durable when it returns."""
        self._write("intent", intent.encoded())

    def send(self, sent: Sent) -> None:
        """Durable when it returns: from now on the batch may have been received."""
        self._write("sent", sent.encoded())

    def receive(self, received: Received, embeddings: NDArray[np.float32]) -> None:
        """Store the sealed answer to the batch that was sent last, then that it is there."""
        next_state(self.state, CallEvent.RECEIVE)
        number = len(self._batches)
        sealed = self._unsealing.public.seal(encode_answer(embeddings), self._seal_info(number))
        write_atomically(self._sealed_path(number), sealed)
        self._write("received", received.encoded())

    def conclude(self, envelope: bytes) -> None:
        """Record the outcome in ``envelope``."""
        self._write("outcome", envelope)

    @property
    def receipt_path(self) -> Path:
        """Where the evidence log's receipt for the final record is kept."""
        return self._directory / "receipt.bin"

    def _write(self, what: str, data: bytes) -> None:
        before = (self.state, list(self._batches), list(self._records), self._intent)
        self._apply(what, data)
        try:
            write_atomically(self._directory / f"{self._number + 1:04d}-{what}.json", data)
        except BaseException:
            # What is not on the disk has not happened.
            self.state, self._batches, self._records, self._intent = before
            raise
        self._number += 1

    def _sealed_path(self, number: int) -> Path:
        return self._directory / f"batch-{number:04d}.sealed"

    def _seal_info(self, number: int) -> bytes:
        """Binds a stored answer to its call, its place and the request that it answers."""
        return canonical_json(
            {
                "domain": _ANSWER_DOMAIN,
                "call": self._directory.name,
                "batch": number,
                "request_digest": self._batches[number - 1].request_digest,
            }
        )
