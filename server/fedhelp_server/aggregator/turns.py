"""Whose bytes move now: a few transfers at once, all others waiting their turn.

A transfer under way holds some MiB of gRPC's buffers; one that waits holds next to nothing. So the
aggregator's memory hardly grows with the number of hospitals. Nobody keeps a turn by doing
nothing: when others wait, a transfer that is slower than SLOWEST_BYTES_A_SECOND is ended, and its
party may come again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from fedhelp_secure.errors import UnavailablePeer

TRANSFERS_AT_ONCE = 4

GRACE_SECONDS = 20.0
"""From the beginning of a turn until its speed counts."""

SLOWEST_BYTES_A_SECOND = 64 * 1024
"""Mean since the beginning of the turn, only while others wait."""

_LOOK_SECONDS = 1.0


class TurnLost(UnavailablePeer):
    """The call ended before its turn came, or stalled while others waited; it may come again.

    Its code is that of UnavailablePeer, which tells the caller to try again.
    """


class Turn:
    """One transfer's place."""

    def __init__(self, give_up: Callable[[], object], now: float) -> None:
        self._began = now
        self._moved = 0
        self._give_up = give_up

    def moved(self, size: int) -> None:
        """Note that ``size`` more bytes have gone through."""
        self._moved += size

    def stalls(self, now: float) -> float:
        """By how many bytes it lags behind the slowest speed; not positive if it does not."""
        return (now - self._began - GRACE_SECONDS) * SLOWEST_BYTES_A_SECOND - self._moved

    def end(self) -> None:
        """End the call of this turn; it raises or returns in its own thread."""
        self._give_up()


class Turns:
    """At most ``total`` turns at once, in the order in which they were asked for; thread-safe."""

    def __init__(
        self, total: int = TRANSFERS_AT_ONCE, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._clock = clock
        self._changed = threading.Condition()
        self._running: list[Turn] = []
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def turn(self, give_up: Callable[[], object], *, active: Callable[[], bool]) -> Iterator[Turn]:
        """A turn for the length of the block, waited for as long as the call is ``active()``.

        ``give_up`` must make the block end soon; it is called from another thread if the transfer
        stalls while others wait. Raises TurnLost if the call is over before its turn.
        """
        turn = self._wait(give_up, active)
        try:
            yield turn
        finally:
            self._leave(turn)

    def wake(self) -> None:
        """Let everybody who waits look whether their call is still there."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, give_up: Callable[[], object], active: Callable[[], bool]) -> Turn:
        place = object()
        with self._changed:
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or len(self._running) >= self._total:
                    if not active():
                        raise TurnLost("the call was over before its turn came; try again.")
                    self._end_a_stalled_one()
                    self._changed.wait(_LOOK_SECONDS)
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
            turn = Turn(give_up, self._clock())
            self._running.append(turn)
            return turn

    def _end_a_stalled_one(self) -> None:
        """The one that lags most, if any does: whoever waits first needs one place."""
        now = self._clock()
        slowest = max(self._running, key=lambda turn: turn.stalls(now), default=None)
        if slowest is not None and slowest.stalls(now) > 0:
            # Its place is free at once: a call that does not end must not keep it.
            self._running.remove(slowest)
            slowest.end()

    def _leave(self, turn: Turn) -> None:
        with self._changed:
            if turn in self._running:
                self._running.remove(turn)
            self._changed.notify_all()
