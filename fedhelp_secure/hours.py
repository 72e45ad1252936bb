"""The hours in which a hospital's node may release: days, a beginning, an end, a time zone."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError("no such time zone; give an IANA name such as Europe/Berlin") from error
    return name


TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
TimeZone = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_known_zone)]


class ReleaseHours(BaseModel):
    """A window that begins on each of ``days``; the end itself is outside.

    An end that is not after the beginning is on the next day; equal times make whole days. Times
    are of the wall clock in ``time_zone``: one that the change to summer time skips is taken as
    the clock would have shown it without the change (PEP 495).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    days: tuple[Day, ...] = Field(min_length=1)
    begin: TimeOfDay
    end: TimeOfDay
    time_zone: TimeZone

    def __str__(self) -> str:
        return f"{', '.join(self.days)} {self.begin} to {self.end} ({self.time_zone})"

    def seconds_to_wait(self, now: datetime.datetime) -> float:
        """Seconds from ``now`` (aware) until the node may release; 0 if it may now."""
        today = now.astimezone(ZoneInfo(self.time_zone)).date()
        # From yesterday, whose window may last into today, to the same day of the next week.
        windows = [self._window(today + datetime.timedelta(days=shift)) for shift in range(-1, 8)]
        waits = [
            max(0.0, (begin - now).total_seconds())
            for begin, end in filter(None, windows)
            if now < end
        ]
        return min(waits)

    def _window(self, day: datetime.date) -> tuple[datetime.datetime, datetime.datetime] | None:
        """Beginning and end in UTC of the window that begins on ``day``, None if none does."""
        if _DAYS[day.weekday()] not in self.days:
            return None
        last = day if self.end > self.begin else day + datetime.timedelta(days=1)
        return self._instant(day, self.begin), self._instant(last, self.end)

    def _instant(self, day: datetime.date, time: str) -> datetime.datetime:
        # Through UTC: differences within one zone would ignore the changes of its clock.
        local = datetime.datetime.combine(day, datetime.time.fromisoformat(time))
        return local.replace(tzinfo=ZoneInfo(self.time_zone)).astimezone(datetime.UTC)
