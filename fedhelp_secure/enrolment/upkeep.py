"""What a long-running party does beside its work: renew its certificate, fetch its trust list.

Each task has a thread of its own, so that a slow one delays no other. A task that fails is tried
again with back-off; it never ends the process.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from fedhelp_secure.errors import FedHelpError

FIRST_PAUSE_SECONDS = 1.0
"""After a first failure; it doubles with each further one."""
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_WAIT_SECONDS = 60.0
"""A task is asked so often when it is due: clocks are set, and machines sleep."""
JITTER = 0.1
"""A wait is up to so much longer, at random: a federation's parties do not all come at once."""

_LOGGER = logging.getLogger(__name__)
_STOP_SECONDS = 2.0
_RANDOM = random.SystemRandom()


class Task(Protocol):
    """Something to do again and again."""

    what: str
    """For the log: what could not be done."""

    def due_in(self) -> float:
        """Seconds until it is due; at most zero: now. Asked before each wait."""

    def run(self) -> None:
        """Do it; FedHelpError or OSError if it cannot be done now."""

    def failure_level(self) -> int:
        """How bad a failure is at this moment, as a level of `logging`."""


class Periodic:
    """A task that is due ``seconds`` after it was done, and at once at first."""

    def __init__(self, seconds: float, action: Callable[[], object], what: str) -> None:
        self.what = what
        self._seconds = seconds
        self._action = action
        self._due = time.monotonic()

    def due_in(self) -> float:
        """Seconds until its next time."""
        return self._due - time.monotonic()

    def run(self) -> None:
        """Do it."""
        self._action()
        self._due = time.monotonic() + self._seconds

    def failure_level(self) -> int:
        """Always a warning."""
        return logging.WARNING


class Upkeep:
    """The background tasks of one process; a context manager around its work."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def every(self, seconds: float, action: Callable[[], object], what: str) -> None:
        """Do ``action`` now and then every ``seconds``; ``what`` names it in the log."""
        self.add(Periodic(seconds, action, what))

    def add(self, task: Task) -> None:
        """Do ``task`` whenever it is due; begins with `start`."""
        name = f"upkeep-{len(self._threads)}"
        thread = threading.Thread(target=self._keep, args=(task,), name=name, daemon=True)
        self._threads.append(thread)

    def start(self) -> None:
        """Begin with every task."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing any more; a task that runs just now gets two seconds to end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)

    def __enter__(self) -> Upkeep:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _keep(self, task: Task) -> None:
        failures = 0
        while not self._stopping.is_set():
            wait = _pause(failures) if failures else min(task.due_in(), LONGEST_WAIT_SECONDS)
            if wait > 0:
                if self._stopping.wait(wait * _RANDOM.uniform(1, 1 + JITTER)):
                    return
                if not failures:
                    continue
            failures = 0 if _done(task) else failures + 1


def _pause(failures: int) -> float:
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE_SECONDS)


def _done(task: Task) -> bool:
    try:
        task.run()
    except (FedHelpError, OSError) as error:
        reason = str(error) if isinstance(error, FedHelpError) else type(error).__name__
        _LOGGER.log(task.failure_level(), "%s failed, will be tried again: %s", task.what, reason)
        return False
    except Exception:
        # A defect of ours must not silently end what keeps this party in its federation.
        _LOGGER.exception("%s failed, will be tried again", task.what)
        return False
    return True
