"""A few transfers at once, in order, and none that does nothing keeps others waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.aggregator import (
    SEVERAL_FRAMES,
    AggregatorServer,
    charter_of,
    contribution_of,
    events_of,
    upload,
)
from support.federation import Federation

from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.transport.client import translated_errors
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.turns import (
    GRACE_SECONDS,
    SLOWEST_BYTES_A_SECOND,
    Turn,
    TurnLost,
    Turns,
)

SECONDS = 20.0


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Transfer:
    """One party's transfer in a thread of its own."""

    turns: Turns
    began: threading.Event = field(default_factory=threading.Event)
    finish: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    gone: bool = False
    turn: Turn | None = None
    error: Exception | None = None

    def start(self) -> Transfer:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self) -> None:
        try:
            with self.turns.turn(self.finish.set, active=lambda: not self.gone) as self.turn:
                self.began.set()
                self.finish.wait(SECONDS)
        except TurnLost as error:
            self.error = error
        self.ended.set()


def _waiting(turns: Turns, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(turns._waiting) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _queue(turns: Turns, count: int) -> list[Transfer]:
    """``count`` transfers that came one after the other."""
    transfers = []
    for number in range(count):
        transfers.append(Transfer(turns).start())
        if number < turns._total:
            assert transfers[-1].began.wait(SECONDS)
        else:
            _waiting(turns, number - turns._total + 1)
    return transfers


def test_so_many_at_once_and_the_others_in_the_order_in_which_they_came() -> None:
    transfers = _queue(Turns(2), 5)
    for done, next_one in zip(transfers[:3], transfers[2:], strict=True):
        assert not next_one.began.is_set()
        done.finish.set()
        assert next_one.began.wait(SECONDS)
        assert [transfer.began.is_set() for transfer in transfers].count(True) == (
            transfers.index(next_one) + 1
        )
    for transfer in transfers:
        transfer.finish.set()
        assert transfer.ended.wait(SECONDS)
        assert transfer.error is None


def test_who_is_gone_before_the_turn_leaves_the_queue() -> None:
    turns = Turns(1)
    first, second, third = _queue(turns, 3)
    second.gone = True
    turns.wake()
    assert second.ended.wait(SECONDS)
    assert isinstance(second.error, UnavailablePeer)
    first.finish.set()
    assert third.began.wait(SECONDS)
    third.finish.set()


def test_a_stalled_transfer_is_ended_when_others_wait_and_only_then() -> None:
    clock = Clock()
    turns = Turns(1, clock=clock)
    (stalled,) = _queue(turns, 1)
    clock.now = 1000 * GRACE_SECONDS
    turns.wake()
    # Nobody waits: a slow line may take as long as it likes.
    assert not stalled.finish.wait(0.1)
    waiter = Transfer(turns).start()
    assert waiter.began.wait(SECONDS)
    assert stalled.ended.wait(SECONDS)
    waiter.finish.set()


def test_the_slowest_speed_is_kept_to_the_byte() -> None:
    turn = Turn(lambda: None, now=0.0)
    assert turn.stalls(GRACE_SECONDS) <= 0
    assert turn.stalls(GRACE_SECONDS + 1) == SLOWEST_BYTES_A_SECOND
    turn.moved(SLOWEST_BYTES_A_SECOND)
    assert turn.stalls(GRACE_SECONDS + 1) <= 0
    assert turn.stalls(GRACE_SECONDS + 1.001) > 0


def test_only_the_one_that_lags_most_is_ended_for_one_who_waits() -> None:
    clock = Clock()
    turns = Turns(2, clock=clock)
    slower, faster = _queue(turns, 2)
    assert faster.turn is not None
    faster.turn.moved(1)
    clock.now = GRACE_SECONDS + 100
    waiter = Transfer(turns).start()
    assert waiter.began.wait(SECONDS)
    assert slower.ended.wait(SECONDS)
    assert not faster.finish.is_set()
    for transfer in (faster, waiter):
        transfer.finish.set()


def test_a_hospital_that_stalls_loses_its_turn_and_the_next_one_contributes(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> None:
    clock = Clock()
    turns = Turns(1, clock=clock)
    charter = charter_of(federation, "stalling", **SEVERAL_FRAMES)
    with AggregatorServer(federation, tmp_path, charter, addresses, turns=turns) as running:
        running.party("large-1").wait_for(wire.ROUND_STATE_OPEN)
        stop = threading.Event()

        def stalling() -> Iterator[wire.ContributeRequest]:
            good = contribution_of(federation, running.charter, "large-1")
            messages = upload(running.charter, good, frames=1)
            yield next(messages)
            yield next(messages)
            stop.wait(SECONDS)

        stalled = running.party("large-1").coordinator.Contribute.future(stalling(), timeout=60)
        # Its initial metadata say that it has the turn.
        assert stalled.initial_metadata() is not None
        waiting = running.party("small-1").coordinator.Contribute.future(
            upload(running.charter, contribution_of(federation, running.charter, "small-1")),
            timeout=60,
        )
        _waiting(turns, 1)
        assert not waiting.done()
        clock.now = GRACE_SECONDS + 2
        with pytest.raises(UnavailablePeer, match="ended the call"), translated_errors():
            stalled.result(timeout=SECONDS)
        stop.set()
        assert waiting.result(timeout=SECONDS).receipt.entry
        # Nobody's fault that an auditor must see: it may come again.
        assert events_of(running.entries()).count("contribution_rejected") == 0
        assert running.contribute("large-1")
        incoming = running.root / "aggregator" / "blobs" / "incoming"
        assert list(incoming.iterdir()) == []
