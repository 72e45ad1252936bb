"""What runs is looked at again and again: a call that was admitted may not be so for ever."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

REVIEW_SECONDS = 0.5
"""A running call outlives the trust list that ends it by little more."""

_LOGGER = logging.getLogger(__name__)


class Reviewed(Protocol):
    """Something whose permission may end while it runs."""

    def review(self) -> None:
        """End what is no longer allowed."""


def keep_reviewing(reviewed: Reviewed) -> None:
    """Have ``reviewed.review`` called every REVIEW_SECONDS as long as somebody refers to it."""
    _REVIEWER.add(reviewed)


class _Reviewer:
    """One thread for everything that is reviewed in this process; none when there is nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reviewed: weakref.WeakSet[Reviewed] = weakref.WeakSet()
        self._running = False

    def add(self, reviewed: Reviewed) -> None:
        with self._lock:
            self._reviewed.add(reviewed)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="trust-review", daemon=True).start()

    def _run(self) -> None:
        while self._review_all():
            time.sleep(REVIEW_SECONDS)

    def _review_all(self) -> bool:
        """Whether there is anything left to come back to."""
        with self._lock:
            present = list(self._reviewed)
            self._running = bool(present)
        for reviewed in present:
            try:
                reviewed.review()
            except Exception:
                # One that fails must not keep the others from being ended.
                _LOGGER.exception("a review of running calls failed")
        return bool(present)


_REVIEWER = _Reviewer()
