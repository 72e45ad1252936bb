"""An aggregator for tests of the node alone, which can be made to misbehave.

Real streams over mutual TLS and real custodians' answers; no store, no deadlines, one process. A
round opens once all of ``expected`` have sent something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from support.federation import Federation
from support.keys import stated_at_first
from support.sums import answers_of, summed

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import PolicyError, UnavailablePeer
from fedhelp_secure.evidence.log import EvidenceLog, log_origin
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.transport.access import caller
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.transport.server import start_server
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1 import evidence_pb2 as evidence
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)
from fedhelp_secure.wire.v1.evidence_pb2 import ContributionAccepted, LogEntry
from fedhelp_secure.wire.v1.evidence_pb2_grpc import (
    EvidenceServicer,
    add_EvidenceServicer_to_server,
)


class NoContribution(PolicyError):
    code = "no-contribution"


Parts = list[wire.FetchTeacherResponse]
Stated = tuple[wire.CustodianKeys, ...]

_POLL_SECONDS = 0.02


@dataclass
class Relay(CoordinatorServicer):
    """The Coordinator service, and how it misbehaves."""

    federation: Federation
    directory: Path
    log: EvidenceLog
    expected: set[str]
    """Hospitals without which no round ends."""
    alter_sum: Callable[[bytes], bytes] = lambda total: total
    """What the decryptor gets instead of the ciphertext sum."""
    alter_parts: Callable[[Parts], Parts] = lambda parts: parts
    """What a hospital gets instead of the answers."""
    alter_keys: Callable[[Stated], Stated] = lambda stated: stated
    """What a hospital gets instead of the custodians' statements."""
    lost_calls: int = 0
    """So many uploads, and so many downloads, end as if the connection had been lost."""
    withholding: bool = False
    """Whether it denies every contribution that it holds."""
    shown: dict[tuple[int, str], bytes] = field(default_factory=dict)
    """Manifests that it shows in the place of what it holds, by round and hospital."""
    received: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    """Digest of every ciphertext that came, by round and hospital, in order."""
    chunk_sizes: set[int] = field(default_factory=set)
    fetches: list[str] = field(default_factory=list)
    """Who asked for answers, in order."""

    def __post_init__(self) -> None:
        self.evidence = Shown(self.log)  # type: ignore[abstract]  # what a witness asks
        self._lock = threading.RLock()
        self._contributions: dict[int, dict[str, Contribution]] = {}
        self._parts: dict[int, Parts] = {}
        self._lost = {"upload": 0, "download": 0}

    def GetCharter(  # noqa: N802
        self, request: wire.GetCharterRequest, context: grpc.ServicerContext
    ) -> wire.GetCharterResponse:
        return wire.GetCharterResponse(envelope=self.federation.charter_envelope)

    def WatchRounds(  # noqa: N802
        self, request: wire.WatchRoundsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.RoundEvent]:
        seen: dict[int, int] = {}
        while context.is_active():
            for number in range(1, self.federation.charter.rounds.count + 1):
                complete = self._contributions.get(number, {}).keys() >= self.expected
                state = wire.ROUND_STATE_OPENED if complete else wire.ROUND_STATE_OPEN
                if seen.get(number) != state:
                    seen[number] = state
                    yield wire.RoundEvent(round=number, state=state)
            time.sleep(_POLL_SECONDS)

    def Contribute(  # noqa: N802
        self, request_iterator: Iterator[wire.ContributeRequest], context: grpc.ServicerContext
    ) -> wire.ContributeResponse:
        header = next(request_iterator).header
        context.send_initial_metadata(())
        chunks = [request.ciphertext_chunk for request in request_iterator]
        hospital = caller(context).name
        ciphertext = b"".join(chunks)
        with self._lock:
            self.chunk_sizes.update(map(len, chunks))
            sent = self.received.setdefault(header.round, {}).setdefault(hospital, [])
            sent.append(digest(ciphertext))
            self._lose("upload")
            path = self.directory / f"{header.round}-{hospital}"
            path.write_bytes(ciphertext)
            self._contributions.setdefault(header.round, {})[hospital] = Contribution(
                header.manifest, tuple(header.sealed_seeds), path
            )
            event = ContributionAccepted(
                charter_digest=header.charter_digest,
                round=header.round,
                hospital=hospital,
                manifest_digest=digest(header.manifest),
                ciphertext_digest=sent[-1],
                ciphertext_bytes=len(ciphertext),
            )
            entry = LogEntry(unix_milliseconds=1, contribution_accepted=event)
            return wire.ContributeResponse(receipt=self.log.receipt(self.log.append(entry)))

    def FetchTeacher(  # noqa: N802
        self, request: wire.FetchTeacherRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.FetchTeacherResponse]:
        with self._lock:
            self.fetches.append(caller(context).name)
            if request.round not in self._parts:
                self._parts[request.round] = self._answers(request.round)
        parts = self.alter_parts(self._parts[request.round])
        yield from parts[:2]
        with self._lock:
            self._lose("download")
        yield from parts[2:]

    def GetRoundKeys(  # noqa: N802
        self, request: wire.GetRoundKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GetRoundKeysResponse]:
        for keys in self.alter_keys(
            stated_at_first(self.federation, self.federation.charter, request.round)
        ):
            yield wire.GetRoundKeysResponse(custodian=keys)

    def GetReceipt(  # noqa: N802
        self, request: wire.GetReceiptRequest, context: grpc.ServicerContext
    ) -> wire.GetReceiptResponse:
        hospital = caller(context).name
        with self._lock:
            shown = self.shown.get((request.round, hospital))
            held = self._contributions.get(request.round, {}).get(hospital)
        if shown is None and held is not None:
            shown = held.manifest
        if self.withholding or shown is None:
            raise NoContribution("this hospital has not contributed to that round.")
        return wire.GetReceiptResponse(manifest=shown)

    def _answers(self, number: int) -> Parts:
        contributions = dict(sorted(self._contributions[number].items()))
        answers = answers_of(
            self.federation,
            contributions,
            self.directory / f"answers-{number}",
            round_number=number,
            total=self.alter_sum(summed(self.federation.charter, contributions)),
        )
        parts = []
        for answer in (answers.decryptor, *answers.unmaskers):
            parts.append(wire.FetchTeacherResponse(header=header_of(answer)))
            parts += [
                wire.FetchTeacherResponse(body_chunk=chunk)
                for chunk in split(answer.body.read_bytes())
            ]
        return parts

    def _lose(self, kind: str) -> None:
        if self._lost[kind] < self.lost_calls:
            self._lost[kind] += 1
            raise UnavailablePeer("the connection was lost; try again.")


class Shown(EvidenceServicer):
    """What a witness asks of the log; keeps what it cosigns."""

    def __init__(self, log: EvidenceLog) -> None:
        self.log = log
        self.cosigned: dict[str, bytes] = {}

    def GetCheckpoint(  # noqa: N802
        self, request: evidence.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> evidence.GetCheckpointResponse:
        return evidence.GetCheckpointResponse(checkpoint=self.log.checkpoint())

    def GetConsistencyProof(  # noqa: N802
        self, request: evidence.GetConsistencyProofRequest, context: grpc.ServicerContext
    ) -> evidence.GetConsistencyProofResponse:
        path = self.log.consistency_proof(request.first_size, request.second_size)
        return evidence.GetConsistencyProofResponse(path=path)

    def Cosign(  # noqa: N802
        self, request: evidence.CosignRequest, context: grpc.ServicerContext
    ) -> evidence.CosignResponse:
        self.cosigned[caller(context).name] = request.checkpoint
        return evidence.CosignResponse()


@contextmanager
def running_relay(
    federation: Federation, directory: Path, *, expected: set[str] | None = None
) -> Iterator[tuple[Relay, str]]:
    """A relay and its ``host:port`` until the block ends; all hospitals expected unless given."""
    directory.mkdir(parents=True)
    state = federation.state("aggregator")
    names = {hospital.name for hospital in federation.charter.hospitals}
    with EvidenceLog.open(
        directory / "log", origin=log_origin(federation.charter), signing_key=state.signing_key()
    ) as log:
        relay = Relay(federation, directory, log, names if expected is None else expected)

        def register(server: grpc.Server) -> None:
            add_CoordinatorServicer_to_server(relay, server)
            add_EvidenceServicer_to_server(relay.evidence, server)

        server = start_server(state, "127.0.0.1:0", register=register)
        try:
            yield relay, server.address
        finally:
            server.stop()
