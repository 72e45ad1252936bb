"""Tasks run again and again, whatever one of them does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from fedhelp_secure.enrolment import upkeep
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.errors import UnavailablePeer

PATIENCE_SECONDS = 20.0


class Counter:
    """An action that fails as often as it is told to, and says when it was done often enough."""

    def __init__(self, wanted: int, failures: int = 0, error: Exception | None = None) -> None:
        self.enough = threading.Event()
        self.calls = 0
        self._wanted = wanted
        self._failures = failures
        self._error = error or UnavailablePeer("the registrar cannot be reached.")

    def __call__(self) -> None:
        self.calls += 1
        if self.calls >= self._wanted:
            self.enough.set()
        if self.calls <= self._failures:
            raise self._error


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "LONGEST_WAIT_SECONDS", 0.02)


def test_a_task_is_done_at_once_and_then_again() -> None:
    action = Counter(wanted=4)
    with _every(0.01, action):
        assert action.enough.wait(PATIENCE_SECONDS)


def test_a_wait_may_be_longer_than_one_look_at_the_clock() -> None:
    action = Counter(wanted=2)
    with _every(0.1, action):
        assert action.enough.wait(PATIENCE_SECONDS)


def test_a_task_that_is_not_due_is_not_done() -> None:
    action = Counter(wanted=2)
    with _every(3600, action):
        assert not action.enough.wait(0.3)
    assert action.calls == 1


@pytest.mark.parametrize(
    ("error", "level", "sentence"),
    [
        (UnavailablePeer("nobody answers."), logging.WARNING, "nobody answers."),
        (OSError(28, "No space left on device"), logging.WARNING, "OSError"),
        (ZeroDivisionError(), logging.ERROR, "the list failed, will be tried again"),
    ],
)
def test_a_failure_is_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture, error: Exception, level: int, sentence: str
) -> None:
    action = Counter(wanted=5, failures=3, error=error)
    with _every(0.01, action):
        assert action.enough.wait(PATIENCE_SECONDS)
    records = [record for record in caplog.records if record.name == upkeep.__name__]
    assert [record.levelno for record in records] == [level] * 3
    assert all(sentence in record.getMessage() for record in records)


def test_a_slow_task_delays_no_other_and_ends_with_the_process() -> None:
    release = threading.Event()
    quick = Counter(wanted=3)
    kept = Upkeep()
    kept.every(1, lambda: release.wait(PATIENCE_SECONDS), "the slow one")
    kept.every(0.01, quick, "the quick one")
    with kept:
        assert quick.enough.wait(PATIENCE_SECONDS)
        release.set()


def test_nothing_is_done_after_the_end() -> None:
    action = Counter(wanted=1)
    with _every(0.01, action):
        assert action.enough.wait(PATIENCE_SECONDS)
    done = action.calls
    assert not threading.Event().wait(0.2)
    assert action.calls == done


def test_pauses_double_up_to_five_minutes() -> None:
    pauses = [upkeep._pause(failures) for failures in (1, 2, 3, 4, 30, 10**6)]
    assert pauses == [0.01, 0.02, 0.04, 0.08, 300.0, 300.0]


def _every(seconds: float, action: Callable[[], None]) -> Upkeep:
    kept = Upkeep()
    kept.every(seconds, action, "the list")
    return kept
