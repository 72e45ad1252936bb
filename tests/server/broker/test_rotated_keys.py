"""A broker whose keys were rotated: a call ends under the keys with which it began."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.broker import BrokerWorld, embeddings_of_server
from support.rotation import rotate, with_present_keys

from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.foundation_model import open_record
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker import process
from fedhelp_server.broker.process import NotThisBroker, resolve, status
from fedhelp_server.broker.states import CallState

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.fixture
def state(world: BrokerWorld, tmp_path: Path) -> StateDirectory:
    """Of a broker that has called, and has rotated its keys since."""
    world.one_call(tmp_path).answer(WHO)
    broker = StateDirectory.open(world.broker_state(tmp_path))
    rotate(broker)
    return broker


def test_an_answer_is_still_given_under_the_old_charter(
    world: BrokerWorld, state: StateDirectory
) -> None:
    charter = world.federation.charter
    assert status(state.root, world.federation.charter_file()).state is CallState.ANSWERED
    journal = process._journal(state, charter)
    assert embeddings_of_server().astype("<f4").tobytes() in journal.answer()
    assert journal.final_record is not None
    open_record(journal.final_record, charter.broker.verifying_key())


def test_an_interrupted_call_is_resolved_with_the_key_that_its_charter_names(
    world: BrokerWorld, tmp_path: Path, state: StateDirectory
) -> None:
    calls = world.calls_directory(tmp_path)
    for name in ("0003-received.json", "0004-outcome.json"):
        (calls / name).unlink()
    file, charter = world.federation.charter_file(), world.federation.charter
    after = resolve(state.root, file, verdict="abandoned", reason="cannot be found out")
    assert after is CallState.ABANDONED
    record = process._journal(state, charter).final_record
    assert record is not None
    open_record(record, charter.broker.verifying_key())
    with pytest.raises(SignatureRefused):
        open_record(record, state.signing_key().public)


def test_a_broker_without_the_old_keys_is_not_the_old_charters(
    world: BrokerWorld, tmp_path: Path, state: StateDirectory
) -> None:
    state.destroy_former_keys()
    with pytest.raises(NotThisBroker):
        status(state.root, world.federation.charter_file())
    parties = {**world.federation.states, Role.BROKER.value: state}
    second = with_present_keys(dataclasses.replace(world.federation, states=parties))
    file = tmp_path / "second.json"
    file.write_bytes(second.charter_envelope)
    assert status(state.root, file).state is CallState.READY
