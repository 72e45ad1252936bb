"""One live session of each hospital: the newest; the earlier one ends for good, on the record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry
from fedhelp_server.aggregator.journal import Journal
from fedhelp_server.aggregator.sessions import (
    RECORDED_AT_ONCE,
    RECORDED_EVERY_SECONDS,
    NoSession,
    SessionEnded,
    Sessions,
)
from fedhelp_server.aggregator.store import Store

DIGEST = "sha256:" + "1" * 64


class Site:
    """Sessions over a real journal, with a clock of its own."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.now = 0.0
        self.woken = 0
        self.sessions = Sessions(journal, DIGEST, wake=self._wake, clock=lambda: self.now)

    def _wake(self) -> None:
        self.woken += 1

    def recorded(self) -> list[tuple[str, int]]:
        log = self.journal.log
        entries = [LogEntry.FromString(log.entry(index)) for index in range(log.size)]
        assert all(entry.session_taken_over.charter_digest == DIGEST for entry in entries)
        return [(e.session_taken_over.hospital, e.session_taken_over.times) for e in entries]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = Store(tmp_path / "rounds.sqlite3", charter_digest=DIGEST, rounds=1)
    with EvidenceLog.open(
        tmp_path / "log", origin="a/b/log", signing_key=SigningKey.generate()
    ) as log:
        yield Site(Journal(store, log))
    store.close()


def name() -> bytes:
    return os.urandom(16)


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(SessionEnded, match="another process takes part as this hospital"):
        yield


def test_a_node_may_watch_as_often_as_it_likes(site: Site) -> None:
    own = name()
    for _ in range(3):
        with site.sessions.watch("h", own) as first, site.sessions.watch("h", own) as second:
            assert first()
            assert second()
    assert site.recorded() == []


def test_a_newer_session_ends_the_earlier_one_for_good(site: Site) -> None:
    earlier, newer = name(), name()
    with (
        refused(),
        site.sessions.watch("h", earlier) as earlier_lives,
        site.sessions.watch("h", newer) as newer_lives,
    ):
        assert newer_lives()
        assert not earlier_lives()
        assert site.woken == 1
        with refused(), site.sessions.watch("h", earlier):
            pytest.fail("an ended session came back")
        assert newer_lives()
    assert site.recorded() == [("h", 1), ("h", 1)]


def test_a_node_that_crashed_is_no_takeover_unless_it_lives_after_all(site: Site) -> None:
    crashed, restarted = name(), name()
    with site.sessions.watch("h", crashed):
        pass
    with site.sessions.watch("h", restarted):
        assert site.recorded() == []
        with refused(), site.sessions.watch("h", crashed):
            pytest.fail("two lived")
    assert site.recorded() == [("h", 1)]


def test_hospitals_do_not_touch_each_other(site: Site) -> None:
    same = name()
    with (
        site.sessions.watch("a", same) as first,
        site.sessions.watch("b", same) as second,
        site.sessions.watch("b", same),
    ):
        assert first()
        assert second()
    assert site.recorded() == []


def test_a_flapping_pair_cannot_fill_the_log_and_none_is_forgotten(site: Site) -> None:
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(refused())
            held.enter_context(site.sessions.watch("h", name()))
        assert site.recorded() == [("h", 1)] * RECORDED_AT_ONCE
        site.now += RECORDED_EVERY_SECONDS
        held.enter_context(site.sessions.watch("h", name()))
        total = sum(times for _, times in site.recorded())
        assert len(site.recorded()) == RECORDED_AT_ONCE + 1
        assert total == 100


@pytest.mark.parametrize("wrong", [b"", b"short", bytes(17)])
def test_a_hospital_must_name_its_session(site: Site, wrong: bytes) -> None:
    with pytest.raises(NoSession), site.sessions.watch("h", wrong):
        pytest.fail("it watched")
