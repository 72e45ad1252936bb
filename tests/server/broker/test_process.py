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
    embeddings_of_server,
    fedhelp,
    inference_response,
    wait_until,
)

from fedhelp_secure.errors import UnavailablePeer
from fedhelp_secure.foundation_model import open_answer
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.call import CallIndeterminate, CallSpent
from fedhelp_server.broker.journal import JournalBusy
from fedhelp_server.broker.process import NothingToResolve, Verdict, resolve

DIE = "import os, signal\ndef die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
BEFORE_INTENT = DIE + ("from fedhelp_server.broker import journal\njournal.Journal.intend = die\n")
BEFORE_SENDING = DIE + (
    "from fedhelp_server.broker import endpoint\nendpoint.FoundationModelEndpoint.infer = die\n"
)
BEFORE_ANSWER_STORED = DIE + (
    "from fedhelp_server.broker import journal\njournal.Journal.conclude = die\n"
)
BEFORE_OUTCOME = DIE + (
    "from fedhelp_server.broker import journal\n"
    "write = journal.Journal._write\n"
    "journal.Journal._write = lambda self, what, data: "
    "die() if what == 'outcome' else write(self, what, data)\n"
)
AFTER_OUTCOME = DIE + "from fedhelp_server.broker import call\ncall.OneCall._stored = die\n"


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
    [(BEFORE_SENDING, 0), (BEFORE_ANSWER_STORED, 1), (BEFORE_OUTCOME, 1)],
    ids=["intent-written", "answer-received", "before-outcome"],
)
def test_killed_between_intent_and_outcome_is_indeterminate_until_resolved(
    world: BrokerWorld, tmp_path: Path, dies: str, sent: int
) -> None:
    with (
        BrokerProcess(world, tmp_path, dies=dies) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    assert broker.process.returncode == -signal.SIGKILL
    assert len(world.server.requests) == sent
    check_indeterminate(world, tmp_path)
    resolve_in_process(world, tmp_path, "not-called")
    stored = world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == sent + 1
    embeddings, record = open_answer(
        world.federation.charter, record=stored.record, body=stored.body
    )
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert [earlier.reason for earlier in record.earlier] == [REASON]


def _held_back(world: BrokerWorld) -> Callable[[], object]:
    world.server.gate.clear()  # accepted, but no handshake: nothing can have been sent
    return lambda: world.server.connections


def _unanswered(world: BrokerWorld) -> Callable[[], object]:
    def hold(_: Exchange) -> None:
        threading.Event().wait(20)

    world.server.act = hold
    return lambda: world.server.requests


@pytest.mark.parametrize(
    ("hold", "sent"), [(_held_back, 0), (_unanswered, 1)], ids=["connecting", "called"]
)
def test_killed_from_outside_during_the_call_is_indeterminate(
    world: BrokerWorld,
    tmp_path: Path,
    hold: Callable[[BrokerWorld], Callable[[], object]],
    sent: int,
) -> None:
    reached = hold(world)
    with BrokerProcess(world, tmp_path) as broker, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.fetch, broker.address)
        wait_until(reached)
        broker.kill()
        with pytest.raises(UnavailablePeer):
            waiting.result(timeout=10)
    world.server.gate.set()
    check_indeterminate(world, tmp_path)
    assert len(world.server.requests) == sent
    resolve_in_process(world, tmp_path, "abandoned")
    with pytest.raises(CallSpent, match="abandoned"):
        world.one_call(tmp_path).answer(WHO)
    assert len(world.server.requests) == sent


def test_a_restarted_broker_tells_the_hospitals_until_its_operator_resolves(
    world: BrokerWorld, tmp_path: Path
) -> None:
    charter = str(world.federation.charter_file())
    with (
        BrokerProcess(world, tmp_path, dies=BEFORE_SENDING) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    with BrokerProcess(world, tmp_path) as broker:
        for hospital in ("small-1", "large-1"):
            with pytest.raises(PeerRefused, match="fedhelp broker resolve") as caught:
                world.fetch(broker.address, hospital)
            assert caught.value.code == "foundation-model-indeterminate"
    done = fedhelp(
        *("broker", "resolve", "--state", str(world.broker_state(tmp_path)), "--charter", charter),
        *("--reason", REASON, "--outcome", "not-called"),
    )
    assert done.returncode == 0, done.stderr
    assert "now ready" in done.stdout
    with BrokerProcess(world, tmp_path) as broker:
        embeddings, _ = world.fetch(broker.address)
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert len(world.server.requests) == 1


@pytest.mark.parametrize(
    ("dies", "sent"), [(BEFORE_INTENT, 0), (AFTER_OUTCOME, 1)], ids=["before-intent", "recorded"]
)
def test_killed_outside_of_that_needs_nobody(
    world: BrokerWorld, tmp_path: Path, dies: str, sent: int
) -> None:
    with (
        BrokerProcess(world, tmp_path, dies=dies) as broker,
        pytest.raises(UnavailablePeer),
    ):
        world.fetch(broker.address)
    assert len(world.server.requests) == sent
    stored = world.one_call(tmp_path).answer(WHO)
    embeddings, _ = open_answer(world.federation.charter, record=stored.record, body=stored.body)
    np.testing.assert_array_equal(embeddings, embeddings_of_server())
    assert len(world.server.requests) == 1


def test_all_hospitals_at_once_make_one_call_and_resolve_finds_nothing(
    world: BrokerWorld, tmp_path: Path
) -> None:
    def slowly(exchange: Exchange) -> None:
        threading.Event().wait(0.5)
        exchange.reply(inference_response())

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
