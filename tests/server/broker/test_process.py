"""``fedhelp broker run`` as a process: killed at every step, resolved, asked by many at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.broker import (
    BrokerProcess,
    BrokerWorld,
    Exchange,
    answer_well,
    embeddings_of_server,
    fedhelp,
    pictures_in,
    wait_until,
)

from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.foundation_model import CallRecord, idempotency_key, open_answer
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.call import CallIndeterminate, CallSpent
from fedhelp_server.broker.journal import JournalBusy
from fedhelp_server.broker.process import NothingToResolve, Verdict, resolve
from fedhelp_server.broker.states import CallState

DIE = "import os, signal\ndef die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
BEFORE_INTENT = DIE + "from fedhelp_server.broker import journal\njournal.Journal.intend = die\n"
INTENT_WRITTEN = DIE + "from fedhelp_server.broker import journal\njournal.Journal.send = die\n"
ABOUT_TO_SEND = DIE + ("from fedhelp_server.broker.providers import https\nhttps.post = die\n")
REQUEST_SENT = DIE + "from fedhelp_server.broker import http\nhttp._events = die\n"
ANSWER_RECEIVED = DIE + "from fedhelp_server.broker import journal\njournal.Journal.receive = die\n"


def before_writing(what: str, time: int = 1) -> str:
    """The process dies when it is about to write ``what`` for the ``time``-th time."""
    return DIE + (
        "from fedhelp_server.broker import journal\n"
        "write, seen = journal.Journal._write, []\n"
        "def writing(self, what, data):\n"
        f"    seen.append(what)\n    if seen.count({what!r}) == {time}: die()\n"
        "    write(self, what, data)\n"
        "journal.Journal._write = writing\n"
    )


ANSWER_STORED = before_writing("received")
BATCHES_RECORDED = before_writing("outcome")
OUTCOME_RECORDED = DIE + "from fedhelp_server.broker import call\ncall.OneCall._stored = die\n"

WHO = Identity("testfed", Role.HOSPITAL, "small-1")
REASON = "the provider's log shows no request"


def resolve_in_process(world: BrokerWorld, directory: Path, verdict: Verdict) -> None:
    charter = world.federation.charter_file()
    resolve(world.broker_state(directory), charter, verdict=verdict, reason=REASON)


def check_indeterminate(world: BrokerWorld, directory: Path) -> None:
    """Whatever a restarted broker is asked, nobody gets an answer and nothing more is sent."""
    before = len(world.server.requests)
    for _ in range(2):
        with pytest.raises(CallIndeterminate, match="fedhelp broker resolve"):
            world.one_call(directory).answer(WHO)
    assert len(world.server.requests) == before


@pytest.mark.parametrize(
    ("dies", "sent"),
    [(ABOUT_TO_SEND, 0), (REQUEST_SENT, 1), (ANSWER_RECEIVED, 1), (ANSWER_STORED, 1)],
    ids=["about-to-send", "request-sent", "answer-received", "answer-stored"],
)
def test_killed_after_a_batch_may_have_left_is_indeterminate_until_resolved(
    world: BrokerWorld, tmp_path: Path, dies: str, sent: int
) -> None:
    with (
        BrokerProcess(world, tmp_path, dies=dies) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    assert broker.process.returncode == -signal.SIGKILL
    wait_until(lambda: len(world.server.requests) == sent)
    check_indeterminate(world, tmp_path)
    resolve_in_process(world, tmp_path, "not-called")
    stored = world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == sent + 1
    embeddings, record = open_answer(
        world.federation.charter, record=stored.record, body=stored.body
    )
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert [earlier.reason for earlier in record.earlier] == [REASON]


def _unanswered(world: BrokerWorld) -> Callable[[], object]:
    def hold(_: Exchange) -> None:
        threading.Event().wait(20)

    world.server.act = hold
    return lambda: world.server.requests


def kill_when(reached: Callable[[], object], world: BrokerWorld, directory: Path) -> None:
    """Somebody asks; ``kill -9`` from outside once ``reached`` says so."""
    with BrokerProcess(world, directory) as broker, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.fetch, broker.address)
        wait_until(reached)
        broker.kill()
        with pytest.raises(UnavailablePeer):
            waiting.result(timeout=10)


def test_killed_from_outside_while_connecting_is_not_called(
    world: BrokerWorld, tmp_path: Path
) -> None:
    world.server.gate.clear()  # accepted, but no handshake: nothing can have been sent
    kill_when(lambda: world.server.connections, world, tmp_path)
    world.server.gate.set()
    assert world.journal(tmp_path).state is CallState.OPEN
    world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == 1


def test_killed_from_outside_during_the_call_is_indeterminate(
    world: BrokerWorld, tmp_path: Path
) -> None:
    kill_when(_unanswered(world), world, tmp_path)
    check_indeterminate(world, tmp_path)
    assert len(world.server.requests) == 1
    resolve_in_process(world, tmp_path, "abandoned")
    with pytest.raises(CallSpent, match="abandoned"):
        world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == 1


def pictures_sent(world: BrokerWorld) -> list[int]:
    """How many pictures each request had."""
    return [len(pictures_in(request.body)) for request in world.server.requests]


def check_answered(world: BrokerWorld, directory: Path) -> CallRecord:
    stored = world.one_call(directory).answer(WHO)
    embeddings, record = open_answer(
        world.federation.charter, record=stored.record, body=stored.body
    )
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    return record


def test_killed_between_batches_goes_on_with_the_next(world: BrokerWorld, tmp_path: Path) -> None:
    divided = world.variant(batch_images=4)
    with (
        BrokerProcess(divided, tmp_path, dies=before_writing("sent", 2)) as broker,
        pytest.raises(UnavailablePeer),
    ):
        divided.fetch(broker.address)
    assert pictures_sent(world) == [4]
    record = check_answered(divided, tmp_path)
    assert pictures_sent(world) == [4, 2]
    assert [batch.images for batch in record.batches] == [4, 2]
    keys = [request.headers["Idempotency-Key"] for request in world.server.requests]
    assert len(set(keys)) == 2


def test_killed_within_a_batch_repeats_neither_it_nor_those_before(
    world: BrokerWorld, tmp_path: Path
) -> None:
    divided = world.variant(batch_images=2)

    def hold_the_second(exchange: Exchange) -> None:
        if len(world.server.requests) > 1:
            threading.Event().wait(20)
        answer_well(exchange)

    world.server.act = hold_the_second
    kill_when(lambda: len(world.server.requests) == 2, divided, tmp_path)
    check_indeterminate(divided, tmp_path)
    world.server.act = answer_well
    resolve_in_process(divided, tmp_path, "not-called")
    record = check_answered(divided, tmp_path)
    bodies = [request.body for request in world.server.requests]
    assert len(bodies) == 4
    assert bodies[1] == bodies[2]  # as the operator has said that the first never arrived
    assert len(set(bodies)) == 3
    assert [batch.images for batch in record.batches] == [2, 2, 2]
    assert len(record.earlier) == 1


def test_a_provider_that_guarantees_idempotency_is_asked_again(
    world: BrokerWorld, tmp_path: Path
) -> None:
    guaranteed = world.variant(idempotent=True)
    kill_when(_unanswered(world), guaranteed, tmp_path)
    world.server.act = answer_well
    record = check_answered(guaranteed, tmp_path)
    first, second = world.server.requests
    assert first.body == second.body
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert [batch.attempts for batch in record.batches] == [2]


def test_a_restarted_broker_tells_the_hospitals_until_its_operator_resolves(
    world: BrokerWorld, tmp_path: Path
) -> None:
    charter = str(world.federation.charter_file())
    with (
        BrokerProcess(world, tmp_path, dies=ABOUT_TO_SEND) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    with BrokerProcess(world, tmp_path) as broker:
        for hospital in ("small-1", "large-1"):
            with pytest.raises(PeerRefused, match="fedhelp broker resolve") as caught:
                world.fetch(broker.address, hospital)
            assert caught.value.code == "foundation-model-indeterminate"
    files = ("--state", str(world.broker_state(tmp_path)), "--charter", charter)
    shown = fedhelp("broker", "status", *files)
    assert shown.returncode == 0, shown.stderr
    assert "call is indeterminate" in shown.stdout
    assert "Reason: interrupted" in shown.stdout
    key = idempotency_key(world.federation.charter)
    assert f"last request: {key}-0001" in shown.stdout
    done = fedhelp(
        *("broker", "resolve", "--state", str(world.broker_state(tmp_path)), "--charter", charter),
        *("--reason", REASON, "--outcome", "not-called"),
    )
    assert done.returncode == 0, done.stderr
    assert "now open" in done.stdout
    with BrokerProcess(world, tmp_path) as broker:
        embeddings, _ = world.fetch(broker.address)
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert len(world.server.requests) == 1


@pytest.mark.parametrize(
    ("dies", "sent", "state"),
    [
        (BEFORE_INTENT, 0, CallState.READY),
        (INTENT_WRITTEN, 0, CallState.OPEN),
        (BATCHES_RECORDED, 1, CallState.OPEN),
        (OUTCOME_RECORDED, 1, CallState.ANSWERED),
    ],
    ids=["before-intent", "intent-written", "batches-recorded", "outcome-recorded"],
)
def test_killed_outside_of_that_needs_nobody(
    world: BrokerWorld, tmp_path: Path, dies: str, sent: int, state: CallState
) -> None:
    with (
        BrokerProcess(world, tmp_path, dies=dies) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    assert broker.process.returncode == -signal.SIGKILL
    assert len(world.server.requests) == sent
    assert world.journal(tmp_path).state is state
    stored = world.one_call(tmp_path).answer(WHO)
    embeddings, _ = open_answer(world.federation.charter, record=stored.record, body=stored.body)
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert len(world.server.requests) == 1


def test_all_hospitals_at_once_make_one_call_and_resolve_finds_nothing(
    world: BrokerWorld, tmp_path: Path
) -> None:
    def slowly(exchange: Exchange) -> None:
        threading.Event().wait(0.5)
        answer_well(exchange)

    world.server.act = slowly
    with BrokerProcess(world, tmp_path) as broker, ThreadPoolExecutor(9) as pool:
        names = ["small-1", "small-2", "large-1"] * 3
        answers = list(pool.map(lambda name: world.fetch(broker.address, name), names))
        with pytest.raises(JournalBusy, match="stop it first"):
            resolve_in_process(world, tmp_path, "not-called")
    assert len({record for _, record in answers}) == 1
    assert len(world.server.requests) == 1
    with pytest.raises(NothingToResolve, match="answered"):
        resolve_in_process(world, tmp_path, "not-called")


def test_of_two_processes_on_one_state_one_serves(world: BrokerWorld, tmp_path: Path) -> None:
    with BrokerProcess(world, tmp_path) as broker:
        second = fedhelp(
            *("broker", "run", "--state", str(world.broker_state(tmp_path))),
            *("--charter", str(world.federation.charter_file())),
            *("--public-set", str(world.public_set_file), "--listen", "127.0.0.1:0"),
            *("--ca", str(world.server.certificate)),
        )
        assert second.returncode == 1
        assert "stop it first" in second.stderr
        world.fetch(broker.address)
    assert len(world.server.requests) == 1


def test_sigterm_during_a_call_ends_the_process_and_records_it(
    world: BrokerWorld, tmp_path: Path
) -> None:
    reached = _unanswered(world)
    with BrokerProcess(world, tmp_path) as broker, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.fetch, broker.address)
        wait_until(reached)
        broker.process.send_signal(signal.SIGTERM)
        assert broker.process.wait(timeout=15) == 0
        with pytest.raises((UnavailablePeer, PeerRefused)):
            waiting.result(timeout=10)
    assert world.journal(tmp_path).last_record().reason == "stopped"
    assert "Traceback" not in broker.log.read_text()
