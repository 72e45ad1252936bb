"""The hours of the site's policy: the node waits for them before something leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from fedhelp_secure.hours import ReleaseHours

_LONGEST_PAUSE_SECONDS = 30.0
"""Then the clock is looked at again: it may have been set, or the machine suspended."""


def utc_now() -> datetime:
    """The operating system's time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class HoursGate:
    """Lets a release through within ``hours``; without any, always."""

    hours: ReleaseHours | None = None
    clock: Callable[[], datetime] = utc_now
    pause: Callable[[float], None] = time.sleep

    def wait(self, say: Callable[[str], None]) -> bool:
        """Return within the hours; whether that took a while. ``say`` then gets one sentence."""
        told = False
        if self.hours is None:
            return told
        while (seconds := self.hours.seconds_to_wait(self.clock())) > 0:
            if not told:
                say(f"outside this site's hours, {self.hours}: waiting to release")
                told = True
            self.pause(min(seconds, _LONGEST_PAUSE_SECONDS))
        return told
