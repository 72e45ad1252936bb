"""At most one live session of each hospital: the newest, and every takeover on the record.

A node draws a random session name when it starts and sends it with every watch. A watch under
another name makes that name the hospital's session; the earlier one ends for good, its watches with
it, and may not come back. A node that crashed and starts again is simply the newer session; two
that live are two processes with one hospital's keys, which somebody must look at.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedhelp_secure.errors import MalformedMessage, PolicyError
from fedhelp_secure.transport.rates import Clock, TokenBucket
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, SessionTakenOver
from fedhelp_server.aggregator.journal import Journal, write_entry

SESSION_BYTES = 16

RECORDED_AT_ONCE = 4
RECORDED_EVERY_SECONDS = 900.0
"""Of one hospital: two nodes that flap between each other cannot fill the log."""

_ENDED_NAMES = 64
"""Names of each hospital that may not come back: its last ones."""

_LOG = logging.getLogger(__name__)


class SessionEnded(PolicyError):
    """A newer session of the same hospital has begun; this one is over for good."""

    code = "session-taken-over"

    def __init__(self) -> None:
        super().__init__(
            "another process takes part as this hospital, and this node must stop. If it was not "
            "started on purpose, somebody holds a copy of this hospital's state: look for a second "
            "node, a restored backup or a cloned machine, ask the aggregator's operator when it "
            "came, and have the hospital's certificate revoked before anything else is released."
        )


class NoSession(MalformedMessage):
    """A hospital's watch does not name its session."""

    code = "no-session"


@dataclass(slots=True)
class _Hospital:
    """What is known of one hospital's sessions."""

    recordable: TokenBucket
    name: bytes = b""
    """Of the present session; empty before the first."""
    watches: int = 0
    """Of the present session."""
    ended: deque[bytes] = field(default_factory=lambda: deque(maxlen=_ENDED_NAMES))
    unrecorded: int = 0

    def enter(self, name: bytes) -> None:
        """One more watch of the session ``name``, which is the present one from now on."""
        if name != self.name:
            self.ended.append(self.name)
            self.name, self.watches = name, 0
        self.watches += 1


class Sessions:
    """The sessions of one charter's hospitals; safe for many threads."""

    def __init__(
        self,
        journal: Journal,
        charter_digest: str,
        *,
        wake: Callable[[], None],
        clock: Clock = time.monotonic,
    ) -> None:
        """``wake`` lets every watcher look whether it is still to go on."""
        self._journal = journal
        self._charter_digest = charter_digest
        self._wake = wake
        self._clock = clock
        self._hospitals: dict[str, _Hospital] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watch(self, hospital: str, name: bytes) -> Iterator[Callable[[], bool]]:
        """A watch of ``hospital``'s session ``name``; yields whether that session still lives.

        Raises NoSession, or SessionEnded at the beginning or the end of the block if a newer
        session has begun.
        """
        if len(name) != SESSION_BYTES:
            raise NoSession("a hospital's watch names its session in 16 bytes; update this node.")
        with self._lock:
            known = self._hospitals.setdefault(hospital, self._unknown())
            ended = name in known.ended
            taken_over = ended or (known.name != name and known.watches > 0)
            if not ended:
                known.enter(name)
        if taken_over:
            self._record(hospital, known)
        if ended:
            raise SessionEnded
        try:
            yield lambda: known.name == name
        finally:
            with self._lock:
                if known.name == name:
                    known.watches -= 1
        if known.name != name:
            raise SessionEnded

    def _unknown(self) -> _Hospital:
        every = 1 / RECORDED_EVERY_SECONDS
        return _Hospital(TokenBucket(every, RECORDED_AT_ONCE, self._clock))

    def _record(self, hospital: str, known: _Hospital) -> None:
        """Say in both logs that there are two, unless that was said too often just now."""
        self._wake()
        with self._lock:
            known.unrecorded += 1
            if not known.recordable.take():
                return
            times, known.unrecorded = known.unrecorded, 0
        _LOG.warning(
            "two processes take part as the hospital %s (%d times): the newer session goes on",
            hospital,
            times,
        )
        event = SessionTakenOver(
            charter_digest=self._charter_digest, hospital=hospital, times=times
        )
        with self._journal.change() as change:
            write_entry(change, LogEntry(session_taken_over=event))
