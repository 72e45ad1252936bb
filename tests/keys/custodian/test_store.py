from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import NoReturn

import pytest

from fedhelp_keys.custodian.store import (
    REFUSALS_ALLOWED,
    AlreadyAnswered,
    AnswerStore,
    TooManyRefusals,
)
from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import PeerError
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.state import StateError

CHARTER = digest(b"a charter")
OTHER_CHARTER = digest(b"another charter")
FIRST = digest(b"first request")
SECOND = digest(b"second request")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite3"


def _fresh(out: Path) -> Answer:
    out.write_bytes(os.urandom(100))
    return Answer(os.urandom(50), {"large-1": os.urandom(20), "small-1": b"key"}, out)


def _never(out: Path) -> NoReturn:
    raise AssertionError("an answer was made twice")


def _ask(store: AnswerStore, request: str = FIRST, *, round_number: int = 1) -> Answer:
    return store.answer_once(CHARTER, round_number, request_digest=request, make=_fresh)


def _bodies(path: Path) -> list[Path]:
    return sorted(path.with_suffix(".bodies").iterdir())


def test_the_same_request_gets_the_stored_bytes_even_after_a_restart(path: Path) -> None:
    first = _ask(AnswerStore(path))
    content = first.body.read_bytes()
    again = AnswerStore(path).answer_once(CHARTER, 1, request_digest=FIRST, make=_never)
    assert again == first
    assert again.body.read_bytes() == content


def test_another_request_is_refused_even_after_a_restart(path: Path) -> None:
    first = _ask(AnswerStore(path))
    store = AnswerStore(path)
    for _ in range(2):
        with pytest.raises(AlreadyAnswered):
            store.answer_once(CHARTER, 1, request_digest=SECOND, make=_never)
    assert _ask(store) == first


def test_rounds_and_charters_are_apart(path: Path) -> None:
    store = AnswerStore(path)
    answers = [_ask(store), _ask(store, SECOND, round_number=2)]
    answers.append(store.answer_once(OTHER_CHARTER, 1, request_digest=SECOND, make=_fresh))
    assert len({answer.body for answer in answers}) == 3


def test_a_failure_leaves_the_round_unanswered_and_no_file(path: Path) -> None:
    store = AnswerStore(path)

    def fail(out: Path) -> NoReturn:
        out.write_bytes(b"half of it")
        raise PeerError("refused; send another.")

    with pytest.raises(PeerError):
        store.answer_once(CHARTER, 1, request_digest=FIRST, make=fail)
    assert _bodies(path) == []
    _ask(store, SECOND)


def test_threads_and_processes_that_race_get_one_answer(path: Path) -> None:
    # Two stores on one file, as two processes have.
    stores = [AnswerStore(path), AnswerStore(path)]
    barrier = Barrier(8)
    bodies: list[Path] = []
    refused: list[AlreadyAnswered] = []

    def race(number: int) -> None:
        barrier.wait()
        try:
            bodies.append(_ask(stores[number % 2], FIRST if number < 4 else SECOND).body)
        except AlreadyAnswered as error:
            refused.append(error)

    threads = [Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(bodies), len(refused)) == (4, 4)
    assert _bodies(path) == [bodies[0]] == sorted(set(bodies))


def test_a_slower_process_gives_the_stored_answer_to_the_same_request(path: Path) -> None:
    slow, fast = AnswerStore(path), AnswerStore(path)

    def overtaken(out: Path) -> Answer:
        _ask(fast)
        return _fresh(out)

    answer = slow.answer_once(CHARTER, 1, request_digest=FIRST, make=overtaken)
    assert answer == _ask(fast)
    assert _bodies(path) == [answer.body]


def test_a_stalled_request_holds_up_its_own_round_only(path: Path) -> None:
    store = AnswerStore(path)
    begun, go_on = Event(), Event()

    def stall(out: Path) -> Answer:
        begun.set()
        assert go_on.wait(60)
        return _fresh(out)

    def ask_slowly() -> None:
        store.answer_once(CHARTER, 1, request_digest=FIRST, make=stall)

    stalled, waiting = Thread(target=ask_slowly), Thread(target=lambda: _ask(store))
    stalled.start()
    assert begun.wait(60)
    waiting.start()
    _ask(store, round_number=2)
    store.answer_once(OTHER_CHARTER, 1, request_digest=FIRST, make=_fresh)
    assert waiting.is_alive()
    go_on.set()
    stalled.join()
    waiting.join()
    assert len(_bodies(path)) == 3


def test_a_body_without_a_row_is_removed_at_the_next_start(path: Path) -> None:
    store = AnswerStore(path)
    kept = _ask(store).body
    stray = kept.with_name("stray")
    stray.write_bytes(b"half of an answer")
    del store
    AnswerStore(path)
    assert _bodies(path) == [kept]


def test_a_start_beside_a_running_store_removes_nothing(path: Path) -> None:
    running = AnswerStore(path)

    def make(out: Path) -> Answer:
        answer = _fresh(out)
        AnswerStore(path)
        return answer

    answer = running.answer_once(CHARTER, 1, request_digest=FIRST, make=make)
    assert answer.body.is_file()


def test_a_stored_body_that_is_gone_is_never_made_again(path: Path) -> None:
    store = AnswerStore(path)
    _ask(store).body.unlink()
    with pytest.raises(StateError):
        store.answer_once(CHARTER, 1, request_digest=FIRST, make=_never)


def test_refusals_are_counted_durably_for_each_round(path: Path) -> None:
    for _ in range(REFUSALS_ALLOWED):
        store = AnswerStore(path)
        store.check_refusals(CHARTER, 1)
        store.record_refusal(CHARTER, 1)
    with pytest.raises(TooManyRefusals):
        AnswerStore(path).check_refusals(CHARTER, 1)
    AnswerStore(path).check_refusals(CHARTER, 2)


def test_files_and_directory_are_the_owners_alone(path: Path) -> None:
    body = _ask(AnswerStore(path)).body
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, body.parent, body)]
    assert modes == [0o600, 0o700, 0o600]
