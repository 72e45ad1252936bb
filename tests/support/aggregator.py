"""A real aggregator and real custodians over mTLS, for tests: servers of this process, real files.

`AggregatorProcess` runs ``fedhelp server run`` as a process of its own instead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from support.charters import complete
from support.federation import Federation
from support.keys import context_of, keys_of_stores

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, parse_charter, sign_charter
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
)
from fedhelp_secure.secure_sum.opening import Answers, OpenedSum, open_sum
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.chunks import read_chunks
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import RunningServer, start_server
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.custodian_pb2_grpc import (
    add_DecryptorServicer_to_server,
    add_UnmaskerServicer_to_server,
)
from fedhelp_secure.wire.v1.evidence_pb2 import (
    ListEntriesRequest,
    ListObjectsRequest,
    LogEntry,
    Receipt,
    SubmitRequest,
)
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.service import Aggregator
from fedhelp_server.aggregator.turns import Turns

LEDGER_DIGEST = digest(b"a ledger entry")
ANY_PORT = "127.0.0.1:0"

SEVERAL_FRAMES: dict[str, object] = {
    "privacy": {"mechanism": "rehearsal"},
    "secure_sum": {"values": 30_000},
}
"""Changes of a charter that make its ciphertexts longer than one frame."""


def charter_of(federation: Federation, name: str, **changes: object) -> tuple[Charter, bytes]:
    """A variant of the federation's charter and its envelope; mappings are merged one deep."""
    document = federation.charter.document() | {"name": name}
    planned = document["secure_sum"]
    document["secure_sum"] = {name: planned[name] for name in ("values", "fraction_bits")}
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(value, Mapping) else value
    charter = parse_charter(complete(document))
    return charter, sign_charter(charter, federation.governance_key)


def context_file(federation: Federation) -> Path:
    """The decryptor's public CKKS context."""
    return federation.state(Role.DECRYPTOR).role_directory() / "context.public"


def release_of(charter: Charter, hospital: str, round_number: int = 1) -> NDArray[np.int64]:
    """Small integers that differ between hospitals and rounds."""
    seed = int.from_bytes(digest(f"{hospital}/{round_number}".encode())[7:13].encode(), "big")
    generator = np.random.default_rng(seed)
    return generator.integers(-1000, 1000, charter.secure_sum.values, dtype=np.int64)


def weighted_sum(charter: Charter, hospitals: list[str], round_number: int = 1) -> NDArray[Any]:
    """What must come out."""
    return sum(
        (charter.weight_of(name) * release_of(charter, name, round_number) for name in hospitals),
        np.zeros(charter.secure_sum.values, np.int64),
    )


def contribution_of(
    federation: Federation, charter: Charter, hospital: str, round_number: int = 1
) -> Contribution:
    """A valid contribution; every call gives other bytes, in a new file.

    The custodians' stores have begun the round then, if the aggregator has not asked them before.
    """
    state = federation.state(hospital)
    round_keys = keys_of_stores(federation, charter, round_number)
    context = context_of(federation, charter, round_keys.context_digest)
    return make_contribution(
        charter,
        round_keys,
        hospital=hospital,
        release=release_of(charter, hospital, round_number),
        ledger_entry_digest=LEDGER_DIGEST,
        keys=ContributionKeys(state.signing_key(), state.unsealing_key(), context),
        out=new_file(federation),
    )


def new_file(federation: Federation) -> Path:
    """The path of a file that does not exist yet."""
    directory = federation.root / "contributions"
    directory.mkdir(exist_ok=True)
    return directory / os.urandom(16).hex()


def upload(
    charter: Charter, contribution: Contribution, round_number: int = 1, *, frames: int = 2
) -> Iterator[wire.ContributeRequest]:
    """The messages of an upload, with chunks of ``frames`` frames."""
    yield wire.ContributeRequest(
        header=wire.ContributionHeader(
            charter_digest=charter.digest,
            round=round_number,
            manifest=contribution.manifest,
            sealed_seeds=contribution.sealed_seeds,
        )
    )
    for part in read_chunks(contribution.ciphertext, frames * charter.secure_sum.frame_bytes):
        yield wire.ContributeRequest(ciphertext_chunk=part)


class Custodian:
    """One custodian's server, which can go away and come back on the same port."""

    def __init__(self, state: StateDirectory, address: str = ANY_PORT) -> None:
        self._state = state
        self._decryptor: DecryptorService | None = None
        self._server: RunningServer | None = None
        self.address = address
        self.start()

    def start(self) -> None:
        if self._state.identity.role is Role.DECRYPTOR:
            self._decryptor = decryptor = DecryptorService(self._state)
            self._server = start_server(
                self._state,
                self.address,
                register=lambda server: add_DecryptorServicer_to_server(decryptor, server),
            )
        else:
            unmasker = UnmaskerService(self._state)
            self._server = start_server(
                self._state,
                self.address,
                register=lambda server: add_UnmaskerServicer_to_server(unmasker, server),
            )
        self.address = self._server.address

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0)
        if self._decryptor is not None:
            self._decryptor.close()
        self._server = self._decryptor = None


@dataclass
class Party:
    """One party's calls to an aggregator."""

    state: StateDirectory
    charter: Charter
    address: str
    channel: grpc.Channel = field(init=False)
    session: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        expected = Identity(self.charter.federation, Role.AGGREGATOR, self.charter.aggregator.name)
        self.channel = open_channel(self.state, self.address, expected=expected)

    @property
    def coordinator(self) -> CoordinatorStub:
        return CoordinatorStub(self.channel)

    @property
    def evidence(self) -> EvidenceStub:
        return EvidenceStub(self.channel)

    def contribute(self, contribution: Contribution, round_number: int = 1) -> Receipt:
        return self.send(upload(self.charter, contribution, round_number))

    def send(self, messages: Iterator[wire.ContributeRequest]) -> Receipt:
        with translated_errors():
            return self.coordinator.Contribute(messages, timeout=30).receipt

    def submit(self, kind: str, envelope: bytes) -> Receipt:
        with translated_errors():
            request = SubmitRequest(kind=kind, envelope=envelope)
            return self.evidence.Submit(request, timeout=30).receipt

    def watch(self, seconds: float = 60) -> Iterator[wire.RoundEvent]:
        hospital = self.state.identity.role is Role.HOSPITAL
        request = wire.WatchRoundsRequest(
            charter_digest=self.charter.digest, session=self.session if hospital else b""
        )
        with translated_errors():
            yield from self.coordinator.WatchRounds(request, timeout=seconds)

    def wait_for(self, state: wire.RoundState.ValueType, round_number: int = 1) -> wire.RoundEvent:
        for event in self.watch():
            if event.round == round_number and event.state == state:
                return event
        raise AssertionError("the watch ended")

    def wait_for_reason(self, reason: str) -> None:
        for event in self.watch():
            if event.reason == reason:
                return
        raise AssertionError("the watch ended")

    def open(self, round_number: int = 1) -> OpenedSum:
        request = wire.FetchTeacherRequest(charter_digest=self.charter.digest, round=round_number)
        with tempfile.TemporaryDirectory() as directory:
            answers: list[Answer] = []
            with translated_errors():
                for part in self.coordinator.FetchTeacher(request, timeout=30):
                    if part.WhichOneof("part") == "header":
                        body = Path(directory) / str(len(answers))
                        body.touch()
                        answers.append(answer_of(part.header, body))
                    else:
                        with answers[-1].body.open("ab") as file:
                            file.write(part.body_chunk)
            return open_sum(
                self.charter,
                round_number,
                recipient=self.state.identity.name,
                unsealing_key=self.state.unsealing_key(),
                answers=Answers(answers[0], tuple(answers[1:])),
            )

    def receipt(self, round_number: int = 1) -> Receipt:
        request = wire.GetReceiptRequest(charter_digest=self.charter.digest, round=round_number)
        with translated_errors():
            return self.coordinator.GetReceipt(request, timeout=30).receipt

    def entries(self) -> list[LogEntry]:
        with translated_errors():
            listed = list(self.evidence.ListEntries(ListEntriesRequest(), timeout=30))
        return [LogEntry.FromString(item.entry) for item in listed]

    def objects(self) -> list[tuple[str, bytes]]:
        request = ListObjectsRequest(charter_digest=self.charter.digest)
        with translated_errors():
            listed = list(self.evidence.ListObjects(request, timeout=30))
        return [(item.kind, item.envelope) for item in listed]


def events_of(entries: list[LogEntry]) -> list[str]:
    """What the entries tell of, in order."""
    return [str(entry.WhichOneof("event")) for entry in entries]


class AggregatorBase:
    """What both kinds of running aggregator share: a state of its own, and its clients."""

    def __init__(
        self,
        federation: Federation,
        root: Path,
        charter: tuple[Charter, bytes],
        addresses: CustodianAddresses,
        *,
        blobs_url: str | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.blobs_url = blobs_url
        self.turns = turns
        self.federation = federation
        self.charter, envelope = charter
        self.addresses = addresses
        self.root = root / "aggregator"
        if not self.root.exists():
            shutil.copytree(federation.state(Role.AGGREGATOR).root, self.root)
        self.charter_file = root / "charter.json"
        self.charter_file.write_bytes(envelope)
        self.address = ANY_PORT
        self._parties: dict[str, Party] = {}

    def party(self, name: str | Role) -> Party:
        state = self.federation.state(name)
        key = state.identity.uri
        if key not in self._parties:
            self._parties[key] = Party(state, self.charter, self.address)
        return self._parties[key]

    def contribute(self, *hospitals: str, round_number: int = 1) -> list[Receipt]:
        self.party(hospitals[0]).wait_for(wire.ROUND_STATE_OPEN, round_number)
        return [
            self.party(name).contribute(
                contribution_of(self.federation, self.charter, name, round_number), round_number
            )
            for name in hospitals
        ]

    def entries(self) -> list[LogEntry]:
        return self.party(Role.AUDITOR).entries()

    def close_channels(self) -> None:
        for party in self._parties.values():
            party.channel.close()
        self._parties.clear()


class AggregatorServer(AggregatorBase):
    """An aggregator served from this process."""

    def __enter__(self) -> Self:
        state = StateDirectory.open(self.root, Role.AGGREGATOR)
        self.aggregator = Aggregator(
            state,
            self.charter_file,
            self.addresses,
            blobs_url=self.blobs_url,
            turns=self.turns,
        )
        self.failures: list[None] = []
        self.server = start_server(
            state,
            self.address,
            register=self.aggregator.register,
            maximum_workers=self.aggregator.room.workers,
        )
        self.address = self.server.address
        self.aggregator.start(lambda: self.failures.append(None))
        return self

    def __exit__(self, *_: object) -> None:
        self.close_channels()
        self.aggregator.stop()
        self.server.stop(0)
        self.aggregator.close()


class AggregatorProcess(AggregatorBase):
    """``fedhelp server run``; `kill` is ``kill -9``."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close_channels()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.status = self.process.wait(timeout=20)

    def start(self) -> None:
        ready = self.root.parent / "ready"
        ready.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                # The role's own commands: no test of it depends on the other roles' modules.
                *(
                    sys.executable,
                    "-c",
                    "from fedhelp_server.aggregator.commands import app; app()",
                ),
                "run",
                *("--state", str(self.root), "--charter", str(self.charter_file)),
                *("--listen", self.address, "--ready-file", str(ready)),
                *("--decryptor", self.addresses.decryptor),
                *(f"--unmasker={address}" for address in self.addresses.unmaskers),
                *(() if self.blobs_url is None else ("--blobs", self.blobs_url)),
            ],
            env=os.environ | {"GRPC_VERBOSITY": "ERROR", "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert self.process.poll() is None, "the aggregator ended early"
            assert time.monotonic() < deadline, "the aggregator did not become ready"
            time.sleep(0.02)
        self.address = ready.read_text().strip()

    def kill(self) -> None:
        self.close_channels()
        self.process.kill()
        self.process.wait(timeout=10)


def addresses_of(custodians: Sequence[Custodian]) -> CustodianAddresses:
    """Where the decryptor, the first of ``custodians``, and the unmaskers after it listen."""
    decryptor, *unmaskers = custodians
    return CustodianAddresses(decryptor.address, tuple(one.address for one in unmaskers))


@contextlib.contextmanager
def custodians_of(federation: Federation) -> Iterator[tuple[Custodian, ...]]:
    """The servers of the decryptor and of every unmasker in the charter's order."""
    names = [unmasker.name for unmasker in federation.charter.custodians.unmaskers]
    with contextlib.ExitStack() as running:
        custodians = []
        for name in (Role.DECRYPTOR.value, *names):
            custodian = Custodian(federation.state(name))
            running.callback(custodian.stop)
            custodians.append(custodian)
        yield tuple(custodians)
