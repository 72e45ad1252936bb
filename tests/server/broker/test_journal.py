"""The journal: what a restart reads, and what it refuses to read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.broker import BrokerWorld, embeddings_of_server

from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.journal import Journal, JournalBusy, JournalDamaged, StateLock
from fedhelp_server.broker.states import CallState

STEPS = ["0001-intent.json", "0002-sent.json", "0003-received.json", "0004-outcome.json"]
WHO = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def answered(world: BrokerWorld, tmp_path: Path) -> Path:
    """The calls directory of a broker that has its answer."""
    world.one_call(tmp_path).answer(WHO)
    return world.calls_directory(tmp_path)


def test_a_finished_call_leaves_its_files(answered: Path) -> None:
    names = sorted(path.name for path in answered.iterdir())
    assert names == [*STEPS, "batch-0001.sealed"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in answered.iterdir())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["0001-intent.json", "0002-sent.json", "0003-received.json", "0004-outcome.json"]
)
def test_a_truncated_file_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path, name: str
) -> None:
    _truncate(answered / name)
    with pytest.raises(JournalDamaged, match=name):
        world.journal(tmp_path)


def test_an_altered_outcome_stops_the_broker(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    _flip(answered / "0004-outcome.json")
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
    state = world.federation.state(Role.BROKER)
    with pytest.raises(JournalDamaged, match="another call"):
        Journal(elsewhere, state.signing_key().public, state.unsealing_key())


def test_an_altered_answer_is_not_served(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    _flip(answered / "batch-0001.sealed")
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


def test_the_stored_answer_cannot_be_read_without_the_brokers_key(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    body = world.journal(tmp_path).answer()
    numbers = embeddings_of_server().astype("<f4").tobytes()
    assert numbers in body
    assert all(numbers[:64] not in path.read_bytes() for path in answered.iterdir())
    public = world.federation.state(Role.BROKER).signing_key().public
    stranger = Journal(answered, public, UnsealingKey.generate())
    with pytest.raises(JournalDamaged, match="not the recorded one"):
        stranger.answer()


def test_sealed_batches_cannot_change_places(world: BrokerWorld, tmp_path: Path) -> None:
    divided = world.variant(batch_images=2)
    divided.one_call(tmp_path).answer(WHO)
    calls = divided.calls_directory(tmp_path)
    first, second = calls / "batch-0001.sealed", calls / "batch-0002.sealed"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(JournalDamaged, match="not the recorded one"):
        divided.journal(tmp_path).answer()


def test_a_batch_without_an_answer_is_indeterminate(
    world: BrokerWorld, tmp_path: Path, answered: Path
) -> None:
    (answered / "0004-outcome.json").unlink()
    assert world.journal(tmp_path).state is CallState.OPEN  # all of it is there
    (answered / "0003-received.json").unlink()
    assert world.journal(tmp_path).state is CallState.SENT
    world.one_call(tmp_path)
    journal = world.journal(tmp_path)
    assert journal.state is CallState.INDETERMINATE
    assert journal.last_record().reason == "interrupted"
