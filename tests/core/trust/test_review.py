from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass, field

import pytest

from fedhelp_secure.trust import review
from fedhelp_secure.trust.review import keep_reviewing

PATIENCE_SECONDS = 20.0


@dataclass(eq=False)
class Counted:
    """Says when it has been looked at often enough."""

    wanted: int
    error: type[Exception] | None = None
    enough: threading.Event = field(default_factory=threading.Event)
    reviews: int = 0

    def review(self) -> None:
        self.reviews += 1
        if self.reviews >= self.wanted:
            self.enough.set()
        if self.error is not None:
            raise self.error()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "REVIEW_SECONDS", 0.01)


def test_one_that_fails_keeps_no_other_from_being_reviewed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, good = Counted(2, ZeroDivisionError), Counted(3)
    keep_reviewing(broken)
    keep_reviewing(good)
    assert good.enough.wait(PATIENCE_SECONDS)
    assert broken.enough.wait(PATIENCE_SECONDS)
    assert "a review of running calls failed" in caplog.text
    # The log that pytest keeps refers to what failed; the next test is about what nobody refers to.
    broken.error = None


def test_what_is_gone_is_not_reviewed_and_the_next_one_is() -> None:
    first = Counted(1)
    keep_reviewing(first)
    assert first.enough.wait(PATIENCE_SECONDS)
    gone = weakref.ref(first)
    del first
    deadline = time.monotonic() + PATIENCE_SECONDS
    while gone() is not None:
        assert time.monotonic() < deadline, "the review keeps alive what it reviews"
        time.sleep(0.01)
    second = Counted(1)
    keep_reviewing(second)
    assert second.enough.wait(PATIENCE_SECONDS)
