"""Store and log after a crash at every point between them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateError
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, RoundOpened
from fedhelp_server.aggregator.journal import Journal, write_entry
from fedhelp_server.aggregator.rounds import RoundState
from fedhelp_server.aggregator.store import Store, StoredContribution

CHARTER = digest(b"charter")


class State:
    """Store and log of one state directory, opened anew at will."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._key = SigningKey.generate()

    def store(self) -> Store:
        return Store(self._root / "rounds.sqlite3", charter_digest=CHARTER, rounds=2)

    def log(self) -> EvidenceLog:
        return EvidenceLog.open(self._root / "log", origin="f/a/log", signing_key=self._key)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def opened(number: int) -> LogEntry:
    return LogEntry(round_opened=RoundOpened(charter_digest=CHARTER, round=number))


def test_a_change_is_in_both(state: State) -> None:
    store, log = state.store(), state.log()
    journal = Journal(store, log)
    with journal.change() as change:
        assert write_entry(change, opened(1)) == 0
        assert write_entry(change, opened(2)) == 1
    assert [LogEntry.FromString(log.entry(i)).round_opened.round for i in (0, 1)] == [1, 2]
    assert log.entry(1) == store.journal_entry(1)
    store.close()
    log.close()


def test_a_crash_after_the_commit_and_before_the_log_is_made_up_for_once(state: State) -> None:
    store = state.store()
    with store.transaction() as change:
        write_entry(change, opened(1))
        write_entry(change, opened(2))
    store.close()
    for _ in range(2):
        store, log = state.store(), state.log()
        Journal(store, log)
        assert log.size == 2
        store.close()
        log.close()


def test_a_crash_in_the_middle_of_the_log_is_made_up_for(state: State) -> None:
    store, log = state.store(), state.log()
    with store.transaction() as change:
        write_entry(change, opened(1))
        write_entry(change, opened(2))
    log.append(LogEntry.FromString(store.journal_entry(0)))
    Journal(store, log)
    assert [log.entry(i) for i in (0, 1)] == [store.journal_entry(i) for i in (0, 1)]
    assert log.size == 2
    store.close()
    log.close()


def test_a_change_that_raises_is_in_neither(state: State) -> None:
    store, log = state.store(), state.log()
    journal = Journal(store, log)
    contribution = StoredContribution(1, "h", b"m", (b"s",), digest(b"c"), 0)
    with journal.change() as change:
        change.add_contribution(contribution)

    def refused() -> None:
        with journal.change() as change:
            write_entry(change, opened(1))
            change.set_state(1, RoundState.OPEN, "")
            change.add_contribution(contribution)

    with pytest.raises(sqlite3.IntegrityError):
        refused()
    assert (log.size, store.journal_size()) == (0, 0)
    assert store.rounds()[0].state is RoundState.PENDING
    store.close()
    log.close()


def test_a_log_ahead_of_the_store_is_refused(state: State) -> None:
    store, log = state.store(), state.log()
    log.append(opened(1))
    with pytest.raises(StateError, match="ahead of the store"):
        Journal(store, log)
    store.close()
    log.close()


def test_a_log_of_another_history_is_refused(state: State) -> None:
    store, log = state.store(), state.log()
    log.append(opened(2))
    with store.transaction() as change:
        write_entry(change, opened(1))
    with pytest.raises(StateError, match="entry 0"):
        Journal(store, log)
    store.close()
    log.close()


def test_a_receipt_stays_the_same_while_the_log_grows(state: State) -> None:
    store, log = state.store(), state.log()
    journal = Journal(store, log)
    with journal.change() as change:
        write_entry(change, opened(1))
    receipt = journal.receipt(0)
    with journal.change() as change:
        write_entry(change, opened(2))
    assert journal.receipt(0) == receipt
    assert log.receipt(0) != receipt
    store.close()
    log.close()


def test_another_charter_is_refused(state: State, tmp_path: Path) -> None:
    state.store().close()
    with pytest.raises(StateError, match="another charter"):
        Store(tmp_path / "rounds.sqlite3", charter_digest=digest(b"other"), rounds=2)
    state.store().close()
