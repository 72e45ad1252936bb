"""Two nodes with one hospital's state, as real processes: the newer goes on, the other stops."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e.attacks.conftest import Attacked
from support.attacks import log_of
from support.federation import make_federation
from support.processes import context_file, running_servers

from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1.coordinator_pb2 import ROUND_STATE_OPEN

HOSPITAL = "small-1"


@pytest.fixture(scope="module")
def rehearsing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A rehearsal of three hospitals, of which one takes part here, so that its round waits."""
    root = tmp_path_factory.mktemp("sessions")
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        privacy={"mechanism": "rehearsal"},
        rounds={"count": 1, "deadline_seconds": 86_400},
    )
    with running_servers(federation, root) as servers:
        yield Attacked(federation, servers)


class Node:
    """``fedhelp client rehearse`` on ``state``."""

    def __init__(self, rehearsing: Attacked, state: Path, output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedhelp_secure", "client", "rehearse"),
                    *("--state", str(state), "--context", str(context_file(rehearsing.federation))),
                    *("--aggregator", f"aggregator@{rehearsing.address}"),
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
    rehearsing: Attacked, tmp_path: Path
) -> None:
    state = rehearsing.federation.state(HOSPITAL).root
    with ExitStack() as running:
        older = Node(rehearsing, state, tmp_path / "older")
        running.callback(older.stop)
        wait_for(lambda: "contribution_accepted" in rehearsing.events())
        # The thief's copy, or the clone of a machine.
        copy = Path(shutil.copytree(state, tmp_path / "copy"))
        newer = Node(rehearsing, copy, tmp_path / "newer")
        running.callback(newer.stop)
        assert older.process.wait(timeout=60) == 1
        said = older.output.read_text()
        assert "another process takes part as this hospital" in said
        assert "certificate revoked" in said
        assert newer.process.poll() is None, newer.output.read_text()
        entries = [
            entry.session_taken_over
            for entry in rehearsing.party(Role.AUDITOR).entries()
            if entry.WhichOneof("event") == "session_taken_over"
        ]
        assert [(entry.hospital, entry.times) for entry in entries] == [(HOSPITAL, 1)]
        assert entries[0].charter_digest == rehearsing.federation.charter.digest
        log = log_of(rehearsing.servers, "aggregator")
        assert f"two processes take part as the hospital {HOSPITAL}" in log
        # The other hospitals' sessions are theirs.
        rehearsing.party("small-2").wait_for(ROUND_STATE_OPEN)
        # Nothing secret is in the record: a name, a digest and a number.
        fields = {name.name for name in entries[0].DESCRIPTOR.fields}
        assert fields == {"charter_digest", "hospital", "times"}


def test_a_pair_that_flaps_fills_neither_log(rehearsing: Attacked) -> None:
    before = rehearsing.events().count("session_taken_over")
    with ExitStack() as open_ones:
        for _ in range(12):
            party = rehearsing.party("large-1")
            open_ones.callback(party.channel.close)
            watch = party.watch()
            assert next(watch).round == 1
            open_ones.callback(watch.close)
            wait_for(lambda watch=watch: watch is not None)
    assert 1 <= rehearsing.events().count("session_taken_over") - before <= 4
    lines = log_of(rehearsing.servers, "aggregator").splitlines()
    assert sum("as the hospital large-1" in line for line in lines) <= 4


def test_an_ended_session_cannot_come_back(rehearsing: Attacked) -> None:
    earlier, newer = rehearsing.party("small-2"), rehearsing.party("small-2")
    earlier.wait_for(ROUND_STATE_OPEN)
    newer.wait_for(ROUND_STATE_OPEN)
    with pytest.raises(PeerRefused) as refused:
        earlier.wait_for(ROUND_STATE_OPEN)
    assert refused.value.code == "session-taken-over"
    newer.wait_for(ROUND_STATE_OPEN)


def test_the_record_of_a_takeover_is_json_for_people_too(rehearsing: Attacked) -> None:
    from google.protobuf.json_format import MessageToJson

    entries = rehearsing.party(Role.AUDITOR).entries()
    told = [MessageToJson(entry) for entry in entries if entry.HasField("session_taken_over")]
    assert told
    assert all(json.loads(text)["sessionTakenOver"]["hospital"] for text in told)
