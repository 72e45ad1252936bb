"""Asking the custodians: all at the same time, each until it is there, and watchers know whom for.

A definite refusal by one ends the waiting for the others; a custodian that is away is asked again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, FedHelpError, UnavailablePeer
from fedhelp_secure.transport.identity import Identity
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.custodians import Custodians
from fedhelp_server.aggregator.membership import custodians_of

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")


class Asking:
    """What one round, or its beginning, wants of every custodian."""

    def __init__(self, charter: Charter, book: Book, custodians: Custodians) -> None:
        self._charter = charter
        self._book = book
        self._custodians = custodians
        self._given_up = threading.Event()
        """No custodian needs to be asked again: this process stops, or the round has failed."""
        self._reasons: dict[Identity, str] = {}
        self._reasons_lock = threading.Lock()

    def begin(self) -> None:
        """Ask anew, after `give_up`."""
        self._given_up.clear()

    def give_up(self) -> None:
        """Ask nobody again; calls under way are not ended."""
        self._given_up.set()

    def together(self, asked: Sequence[Callable[[], _T]]) -> list[_T]:
        """What every custodian gives, asked at the same time; raises the first definite refusal."""
        with ThreadPoolExecutor(len(asked), thread_name_prefix="custodian") as pool:
            running = [pool.submit(ask) for ask in asked]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:
                # The others are not waited for: nothing that they could give helps this round.
                self._given_up.set()
                self._custodians.hang_up()
                raise
            return [done.result() for done in running]

    def patiently(self, number: int, custodian: Identity, ask: Callable[[], _T]) -> _T | None:
        """What ``ask`` returns, tried until ``custodian`` is there; None if that is given up."""
        pause = FIRST_PAUSE_SECONDS
        while not self._given_up.is_set():
            try:
                given = ask()
            except (UnavailablePeer, ConfigurationError) as error:
                if self._given_up.is_set():
                    break
                _LOG.warning("%s cannot be asked: %s", custodian, error)
                self._say(number, custodian, _waiting(custodian, error))
                self._given_up.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._say(number, custodian, "")
                return given
        return None

    def _say(self, number: int, custodian: Identity, reason: str) -> None:
        """Tell watchers what the round waits for, of all custodians in the charter's order."""
        with self._reasons_lock:
            self._reasons[custodian] = reason
            reasons = [self._reasons.get(each, "") for each in custodians_of(self._charter)]
            self._book.say(number, "; ".join(filter(None, reasons)))


def _waiting(custodian: Identity, error: FedHelpError) -> str:
    if isinstance(error, ConfigurationError):
        # Our own certificate or file: watchers learn whose hand can mend it, and no more.
        return f"waiting for the aggregator's operator (code {error.code})"
    return f"waiting for custodian {custodian.name}"
