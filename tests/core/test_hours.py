"""When a node may release: against a plain walk over the minutes, and at the clock's changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_secure.hours import Day, ReleaseHours

DAYS: tuple[Day, ...] = get_args(Day)
OFFICE = ReleaseHours(
    days=("mon", "tue", "wed", "thu", "fri"), begin="08:00", end="17:00", time_zone="UTC"
)
NIGHT = ReleaseHours(days=("fri",), begin="20:00", end="06:00", time_zone="Europe/Berlin")


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        ("2026-03-02T08:00:00", 0),  # a Monday
        ("2026-03-02T16:59:59", 0),
        ("2026-03-02T17:00:00", 15 * 3600),
        ("2026-03-02T07:59:58.500", 1.5),
        ("2026-03-06T17:00:00", 63 * 3600),  # Friday evening, until Monday
        ("2026-03-07T12:00:00", 44 * 3600),
    ],
)
def test_office_hours(now: str, seconds: float) -> None:
    assert OFFICE.seconds_to_wait(at(now)) == seconds


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        ("2026-03-06T20:00:00", 0),  # a Friday
        ("2026-03-07T05:59:00", 0),  # the night of Friday, though it is Saturday
        ("2026-03-07T06:00:00", (6 * 24 + 14) * 3600),
        ("2026-03-06T05:00:00", 15 * 3600),  # the night of Thursday is none
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(now: str, seconds: float) -> None:
    assert NIGHT.seconds_to_wait(at(now, "Europe/Berlin")) == seconds


def test_equal_times_make_whole_days() -> None:
    hours = ReleaseHours(days=("sat",), begin="00:00", end="00:00", time_zone="UTC")
    assert hours.seconds_to_wait(at("2026-03-07T23:59:59")) == 0
    assert hours.seconds_to_wait(at("2026-03-08T00:00:00")) == 6 * 24 * 3600


def test_the_wall_clock_of_the_zone_counts_also_when_it_changes() -> None:
    # Sunday, 29 March 2026: 01:00 UTC is 03:00 in Berlin, and 02:00 to 03:00 did not happen.
    hours = ReleaseHours(days=("sun",), begin="04:00", end="05:00", time_zone="Europe/Berlin")
    assert hours.seconds_to_wait(at("2026-03-29T00:30:00")) == 5400
    assert hours.seconds_to_wait(at("2026-03-29T02:00:00")) == 0
    assert hours.seconds_to_wait(at("2026-03-29T03:00:00")) > 0


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.sampled_from(DAYS), min_size=1, unique=True),
    begin=st.integers(0, 23),
    end=st.integers(0, 23),
    start=st.integers(0, 7 * 24),
)
def test_the_wait_is_the_first_open_minute(
    days: list[Day], begin: int, end: int, start: int
) -> None:
    hours = ReleaseHours(
        days=tuple(days), begin=f"{begin:02}:00", end=f"{end:02}:00", time_zone="UTC"
    )

    def is_open(now: datetime) -> bool:
        today, yesterday = DAYS[now.weekday()], DAYS[now.weekday() - 1]
        if end > begin:
            return today in days and begin <= now.hour < end
        return (today in days and now.hour >= begin) or (yesterday in days and now.hour < end)

    now = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(hours=start)
    first = next(hour for hour in range(8 * 24) if is_open(now + timedelta(hours=hour)))
    assert hours.seconds_to_wait(now) == first * 3600
