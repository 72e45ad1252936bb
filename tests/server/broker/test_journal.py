"""The journal: what a restart reads, and what it refuses to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.broker import BrokerWorld

from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.journal import JournalBusy, JournalDamaged, StateLock
from fedhelp_server.broker.states import CallState

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def answered(world: BrokerWorld, tmp_path: Path) -> Path:
    """The calls directory of a broker that has its answer."""
    world.one_call(tmp_path).answer(WHO)
    return world.calls_directory(tmp_path)


def test_a_finished_call_leaves_its_three_files(answered: Path) -> None:
    names = sorted(path.name for path in answered.iterdir())
    assert names == ["0001-intent.json", "0002-outcome.json", "answer.npy"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in answered.iterdir())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["0001-intent.json", "0002-outcome.json"])
def test_a_truncated_file_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path, name: str
) -> None:
    _truncate(answered / name)
    with pytest.raises(JournalDamaged, match=name):
        world.journal(tmp_path)


def test_an_altered_outcome_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    _flip(answered / "0002-outcome.json")
    with pytest.raises(JournalDamaged):
        world.journal(tmp_path)


def test_a_missing_intent_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    (answered / "0001-intent.json").unlink()
    with pytest.raises(JournalDamaged, match="does not follow"):
        world.journal(tmp_path)


def test_an_outcome_of_another_call_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    elsewhere = answered.with_name("0" * 64)
    shutil.copytree(answered, elsewhere)
    key = world.federation.state(Role.BROKER).signing_key().public
    with pytest.raises(JournalDamaged, match="another call"):
        type(world.journal(tmp_path))(elsewhere, key)


def test_an_altered_answer_is_not_served(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    _flip(answered / "answer.npy")
    call = world.one_call(tmp_path)
    with pytest.raises(JournalDamaged, match="not the recorded one"):
        call.answer(WHO)
    assert len(world.server.requests) == 1


def test_one_process_at_a_time(world: BrokerWorld, tmp_path: Path) -> None:
    first = StateLock(tmp_path)
    with pytest.raises(JournalBusy, match="stop it first"):
        StateLock(tmp_path)
    first.release()
    StateLock(tmp_path).release()


def test_an_intent_without_an_outcome_is_indeterminate(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    (answered / "0002-outcome.json").unlink()
    assert world.journal(tmp_path).state is CallState.CALLING
    world.one_call(tmp_path)
    journal = world.journal(tmp_path)
    assert journal.state is CallState.INDETERMINATE
    assert journal.last_record().reason == "interrupted"
