"""The durable record of the one call: what was intended, and what came of it.

Layout, in ``<state>/broker``::

    lock                              held by the one process that may write
    calls/<idempotency key>/
        0001-intent.json              before anything is sent
        answer.npy                    only if there is a usable answer
        0002-outcome.json             DSSE envelope of the record
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
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Digest
from fedhelp_secure.errors import ConfigurationError, FedHelpError
from fedhelp_secure.foundation_model import (
    CallRecord,
    EarlierCall,
    Moment,
    Outcome,
    open_record,
)
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import synchronise, write_atomically
from fedhelp_server.broker.states import FINAL, CallEvent, CallState, next_state

EVENT_OF_OUTCOME: Mapping[Outcome, CallEvent] = MappingProxyType(
    {
        "answered": CallEvent.ANSWER,
        "refused": CallEvent.REFUSE,
        "indeterminate": CallEvent.LOSE,
        "not-called": CallEvent.FIND_NOT_CALLED,
        "abandoned": CallEvent.ABANDON,
    }
)

_INTENT = "intent"
_OUTCOME = "outcome"


class JournalBusy(ConfigurationError):
    """Another process works with this broker's state."""

    code = "broker-busy"


class JournalDamaged(ConfigurationError):
    """A file of the journal is not what the broker wrote."""

    code = "broker-journal"


class Intent(BaseModel):
    """What is about to be sent, and for whom."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    requested_by: str
    called_at: Moment
    request_digest: Digest


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

    def __init__(self, directory: Path, key: VerifyingKey) -> None:
        """Read what is there; ``key`` is the broker's own. Raises JournalDamaged."""
        self._directory = directory
        self._key = key
        self._number = 0
        self._intent: Intent | None = None
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
            if what == _INTENT:
                self._intent = Intent.model_validate_json(data)
                event = CallEvent.INTEND
            else:
                record = open_record(data, self._key)
                if record.idempotency_key != self._directory.name:
                    raise JournalDamaged(f"{path} is of another call; restore it.")
                self._records.append((data, record))
                event = EVENT_OF_OUTCOME[record.outcome]
            self.state = next_state(self.state, event)
        except JournalDamaged:
            raise
        except (OSError, ValueError, ValidationError, FedHelpError) as error:
            raise JournalDamaged(
                f"{path} is not what the broker wrote; restore the state directory from a backup."
            ) from error
        self._number += 1

    @property
    def intent(self) -> Intent:
        """The newest intent; raises JournalDamaged if there is none."""
        if self._intent is None:
            raise JournalDamaged("the broker's journal has an outcome without an intent.")
        return self._intent

    @property
    def earlier(self) -> tuple[EarlierCall, ...]:
        """Attempts that the operator found never to have left, oldest first."""
        return tuple(
            EarlierCall(
                called_at=record.called_at, resolved_at=record.recorded_at, reason=record.reason
            )
            for _, record in self._records
            if record.outcome == "not-called"
        )

    @property
    def final_record(self) -> bytes | None:
        """The envelope of the final outcome, if there is one."""
        return self._records[-1][0] if self.state in FINAL else None

    def last_record(self) -> CallRecord:
        """The newest outcome; raises JournalDamaged if there is none."""
        if not self._records:
            raise JournalDamaged("the broker's journal has no outcome where it must have one.")
        return self._records[-1][1]

    def answer(self) -> bytes:
        """The stored answer; raises JournalDamaged if it is not the one that was recorded."""
        try:
            data = (self._directory / "answer.npy").read_bytes()
        except OSError:
            data = b""
        if digest(data) != self.last_record().answer_digest:
            raise JournalDamaged(
                "the stored answer is not the recorded one; restore the state from a backup."
            )
        return data

    def intend(self, intent: Intent) -> None:
        """Durable when it returns: from now on the call may have been made."""
        after = next_state(self.state, CallEvent.INTEND)
        self._write(_INTENT, canonical_json(intent.model_dump(mode="json")))
        self._intent = intent
        self.state = after

    def withdraw(self) -> None:
        """Take the intent back: certainly nothing was sent."""
        after = next_state(self.state, CallEvent.WITHDRAW)
        self._path(self._number, _INTENT).unlink()
        synchronise(self._directory)
        self._number -= 1
        self.state = after

    def conclude(self, envelope: bytes, *, answer: bytes | None = None) -> None:
        """Record the outcome in ``envelope``; an ``answer`` is stored before it."""
        record = open_record(envelope, self._key)
        after = next_state(self.state, EVENT_OF_OUTCOME[record.outcome])
        if answer is not None:
            write_atomically(self._directory / "answer.npy", answer)
        self._write(_OUTCOME, envelope)
        self._records.append((envelope, record))
        self.state = after

    @property
    def receipt_path(self) -> Path:
        """Where the evidence log's receipt for the final record is kept."""
        return self._directory / "receipt.bin"

    def _write(self, what: str, data: bytes) -> None:
        write_atomically(self._path(self._number + 1, what), data)
        self._number += 1

    def _path(self, number: int, what: str) -> Path:
        return self._directory / f"{number:04d}-{what}.json"
