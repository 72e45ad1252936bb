"""How many long calls run at once: a worker thread each, so no caller may take them all."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import UnavailablePeer
from fedhelp_server.aggregator.turns import TRANSFERS_AT_ONCE

MAXIMUM_WATCHES = 2048
MAXIMUM_TRANSFERS = 4 * TRANSFERS_AT_ONCE
"""In each direction: those whose turn it is, and the next ones. A call that waits holds a
connection and a thread, half a MiB in all, so more callers than these are told to come again."""
SHORT_CALLS = 16
"""Threads that no long call can take."""

CALLS_EACH = 2
"""Long calls of one kind by one party: the present one, and one whose end was not noticed yet."""


class Busy(UnavailablePeer):
    """The caller, or all callers together, have as many calls of this kind open as are served.

    Its code is that of UnavailablePeer, which tells the caller to try again.
    """


class CallLimit:
    """A bound on the calls of one kind, for each caller and in total; safe for many threads."""

    def __init__(self, *, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(self, who: str) -> Iterator[None]:
        """One call by ``who`` for the length of the block; raises Busy if there is no room."""
        with self._lock:
            if self._running[who] >= self._each or self._running.total() >= self._total:
                raise Busy("the aggregator serves as many such calls as it can; try again later.")
            self._running[who] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[who] -= 1


@dataclass(frozen=True, slots=True)
class Capacity:
    """Threads for one charter's parties; each long call holds one."""

    watches: int
    uploads: int
    downloads: int

    @property
    def workers(self) -> int:
        """Threads that the server needs in all."""
        return self.watches + self.uploads + self.downloads + SHORT_CALLS


def capacity(charter: Charter) -> Capacity:
    """Room for every party of ``charter`` to watch, and for a bounded number of transfers."""
    parties = len(charter.hospitals) + len(charter.auditors)
    transfers = min(CALLS_EACH * parties, MAXIMUM_TRANSFERS)
    return Capacity(
        watches=min(CALLS_EACH * parties, MAXIMUM_WATCHES), uploads=transfers, downloads=transfers
    )
