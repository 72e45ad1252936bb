"""Two nodes with one hospital's state, as real processes: the newer goes on, the other stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e.attacks.conftest import Attacked
from support.aggregator import Party
from support.attacks import log_of
from support.processes import context_file

from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1.coordinator_pb2 import ROUND_STATE_OPEN, RoundEvent

HOSPITAL = "small-3"


class Node:
    """``fedhelp client rehearse`` on ``state``."""

    def __init__(self, attacked: Attacked, state: Path, output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedhelp_secure", "client", "rehearse"),
                    *("--state", str(state), "--context", str(context_file(attacked.federation))),
                    *("--aggregator", f"aggregator@{attacked.address}"),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"GRPC_VERBOSITY": "NONE", "OMP_NUM_THREADS": "1"},
            )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_newer_node_goes_on_the_older_stops_and_both_logs_say_so(
    attacked: Attacked, tmp_path: Path
) -> None:
    state = attacked.federation.state(HOSPITAL).root
    # Of other tests' hospitals.
    before = attacked.events().count("session_taken_over")
    with ExitStack() as running:
        older = Node(attacked, state, tmp_path / "older")
        running.callback(older.stop)
        auditor = attacked.party(Role.AUDITOR)
        wait_for(
            lambda: any(
                entry.contribution_accepted.hospital == HOSPITAL for entry in auditor.entries()
            )
        )
        # The thief's copy, or the clone of a machine.
        copy = Path(shutil.copytree(state, tmp_path / "copy"))
        newer = Node(attacked, copy, tmp_path / "newer")
        running.callback(newer.stop)
        assert older.process.wait(timeout=60) == 1
        said = older.output.read_text()
        assert "another process takes part as this hospital" in said
        assert "certificate revoked" in said
        assert newer.process.poll() is None, newer.output.read_text()
        entries = [
            entry.session_taken_over
            for entry in auditor.entries()
            if entry.WhichOneof("event") == "session_taken_over"
        ][before:]
        assert [(entry.hospital, entry.times) for entry in entries] == [(HOSPITAL, 1)]
        assert entries[0].charter_digest == attacked.federation.charter.digest
        log = log_of(attacked.servers, "aggregator")
        assert f"two processes take part as the hospital {HOSPITAL}" in log
        # The other hospitals' sessions are theirs.
        attacked.party("small-2").wait_for(ROUND_STATE_OPEN)
        # Nothing secret is in the record: a name, a digest and a number.
        fields = {name.name for name in entries[0].DESCRIPTOR.fields}
        assert fields == {"charter_digest", "hospital", "times"}


def _stream(party: Party) -> Generator[RoundEvent, None, None]:
    yield from party.watch()


def test_a_pair_that_flaps_fills_neither_log(attacked: Attacked) -> None:
    before = attacked.events().count("session_taken_over")
    with ExitStack() as open_ones:
        for _ in range(12):
            party = attacked.party("large-1")
            open_ones.callback(party.channel.close)
            # Held: a watch that nobody reads any more would end.
            watch = open_ones.enter_context(contextlib.closing(_stream(party)))
            assert next(watch).round == 1
    assert 1 <= attacked.events().count("session_taken_over") - before <= 4
    lines = log_of(attacked.servers, "aggregator").splitlines()
    assert sum("as the hospital large-1" in line for line in lines) <= 4


def test_an_ended_session_cannot_come_back(attacked: Attacked) -> None:
    earlier, newer = attacked.party("small-2"), attacked.party("small-2")
    earlier.wait_for(ROUND_STATE_OPEN)
    newer.wait_for(ROUND_STATE_OPEN)
    with pytest.raises(PeerRefused) as refused:
        earlier.wait_for(ROUND_STATE_OPEN)
    assert refused.value.code == "session-taken-over"
    newer.wait_for(ROUND_STATE_OPEN)
