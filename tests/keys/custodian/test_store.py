from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Barrier, Thread
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

CHARTER = digest(b"a charter")
FIRST = digest(b"first request")
SECOND = digest(b"second request")


def _fresh() -> Answer:
    return Answer(os.urandom(50), {"large-1": os.urandom(20), "small-1": b"key"}, os.urandom(100))


def _never() -> NoReturn:
    raise AssertionError("an answer was made twice")


def _ask(store: AnswerStore, request: str = FIRST, *, round_number: int = 1) -> Answer:
    return store.answer_once(CHARTER, round_number, request_digest=request, make=_fresh)


def test_the_same_request_gets_the_stored_bytes_even_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    first = _ask(AnswerStore(path))
    again = AnswerStore(path).answer_once(CHARTER, 1, request_digest=FIRST, make=_never)
    assert again == first


def test_another_request_is_refused_even_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    first = _ask(AnswerStore(path))
    store = AnswerStore(path)
    for _ in range(2):
        with pytest.raises(AlreadyAnswered):
            store.answer_once(CHARTER, 1, request_digest=SECOND, make=_never)
    assert _ask(store) == first


def test_rounds_and_charters_are_apart(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.sqlite3")
    answers = [_ask(store), _ask(store, SECOND, round_number=2)]
    other = digest(b"another charter")
    answers.append(store.answer_once(other, 1, request_digest=SECOND, make=_fresh))
    assert len({answer.body for answer in answers}) == 3


def test_a_failure_leaves_the_round_unanswered(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.sqlite3")

    def fail() -> NoReturn:
        raise PeerError("refused; send another.")

    with pytest.raises(PeerError):
        store.answer_once(CHARTER, 1, request_digest=FIRST, make=fail)
    _ask(store, SECOND)


def test_threads_and_processes_that_race_get_one_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    # Two stores on one file, as two processes have.
    stores = [AnswerStore(path), AnswerStore(path)]
    barrier = Barrier(8)
    bodies: list[bytes] = []
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
    assert len(set(bodies)) == 1
    assert len(bodies) + len(refused) == 8


def test_refusals_are_counted_durably_for_each_round(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    for _ in range(REFUSALS_ALLOWED):
        store = AnswerStore(path)
        store.check_refusals(CHARTER, 1)
        store.record_refusal(CHARTER, 1)
    with pytest.raises(TooManyRefusals):
        AnswerStore(path).check_refusals(CHARTER, 1)
    AnswerStore(path).check_refusals(CHARTER, 2)


def test_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite3"
    _ask(AnswerStore(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
