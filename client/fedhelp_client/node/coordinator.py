"""The node's side of the Coordinator service: charter, rounds, upload, download."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import grpc

from fedhelp_secure.charter import Charter, CharterRefused, open_charter
from fedhelp_secure.errors import MalformedMessage, PolicyError, UnavailablePeer
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import Answer, OpenedSum, body_bytes, open_sum
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.chunks import collect, split
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.evidence_pb2 import Receipt

_RETRY_FIRST_SECONDS = 0.5
_RETRY_MOST_SECONDS = 10.0
_CALL_SECONDS = 120.0

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

RoundListener = Callable[[str], None]
"""Called with a sentence whenever the aggregator says why a round is waiting."""


class RoundFailed(PolicyError):
    """A round ended without a sum."""

    code = "round-failed"


@dataclass(frozen=True, slots=True)
class Coordinator:
    """One node's connection to one aggregator, for one charter."""

    state: StateDirectory
    charter: Charter
    channel: grpc.Channel

    def contribute(self, round_number: int, contribution: Contribution) -> Receipt:
        """Upload ``contribution``; the same bytes may be sent any number of times."""

        def messages() -> Iterator[wire.ContributeRequest]:
            header = wire.ContributionHeader(
                charter_digest=self.charter.digest,
                round=round_number,
                manifest=contribution.manifest,
                sealed_seed=contribution.sealed_seed,
            )
            yield wire.ContributeRequest(header=header)
            for chunk in split(contribution.ciphertext):
                yield wire.ContributeRequest(ciphertext_chunk=chunk)

        def call() -> Receipt:
            reply = CoordinatorStub(self.channel).Contribute(messages(), timeout=_CALL_SECONDS)
            return reply.receipt

        return retried(call)

    def wait_until_open(self, round_number: int, listener: RoundListener) -> None:
        """Return when ``round_number`` takes contributions (or is past that)."""
        self._wait(
            round_number,
            {wire.ROUND_STATE_OPEN, wire.ROUND_STATE_CLOSED, wire.ROUND_STATE_OPENED},
            listener,
        )

    def wait_until_opened(self, round_number: int, listener: RoundListener) -> None:
        """Return when both custodians' answers for ``round_number`` are there."""
        self._wait(round_number, {wire.ROUND_STATE_OPENED}, listener)

    def _wait(self, round_number: int, wanted: set[int], listener: RoundListener) -> None:
        request = wire.WatchRoundsRequest(charter_digest=self.charter.digest)

        def call() -> None:
            # No deadline: a round may wait for weeks. Keep-alive ends a dead connection.
            stream = CoordinatorStub(self.channel).WatchRounds(request)
            try:
                for event in stream:
                    if event.round != round_number:
                        continue
                    if event.reason:
                        listener(event.reason)
                    if event.state == wire.ROUND_STATE_FAILED:
                        raise RoundFailed(
                            f"round {round_number} ended without a sum: {event.reason}"
                        )
                    if event.state in wanted:
                        return
            finally:
                stream.cancel()
            raise UnavailablePeer("the aggregator ended the watch; it may be restarting.")

        retried(call)

    def fetch_sum(self, round_number: int) -> OpenedSum:
        """Download, check and open the weighted sum of ``round_number``."""
        request = wire.FetchTeacherRequest(charter_digest=self.charter.digest, round=round_number)

        def call() -> tuple[Answer, Answer]:
            parts = CoordinatorStub(self.channel).FetchTeacher(request, timeout=_CALL_SECONDS)
            answers = _answers(parts, limit=body_bytes(self.charter.secure_sum))
            if len(answers) != 2:
                raise MalformedMessage("a teacher must consist of two answers; fetch it again.")
            return answers[0], answers[1]

        decryptor_answer, unmasker_answer = retried(call)
        return open_sum(
            self.charter,
            round_number,
            recipient=self.state.identity.name,
            unsealing_key=self.state.unsealing_key(),
            decryptor_answer=decryptor_answer,
            unmasker_answer=unmasker_answer,
        )


def connect(state: StateDirectory, address: str, aggregator: str) -> Coordinator:
    """Fetch the charter from the aggregator called ``aggregator`` and check it.

    Raises SignatureRefused or CharterRefused if it may not be used; waits while nobody answers.
    """
    expected = Identity(state.identity.federation, Role.AGGREGATOR, aggregator)
    channel = open_channel(state, address, expected=expected)

    def call() -> bytes:
        reply = CoordinatorStub(channel).GetCharter(wire.GetCharterRequest(), timeout=30)
        return reply.envelope

    charter = open_charter(retried(call), state.governance_key())
    hospital = charter.hospital(state.identity.name)
    if hospital.verifying_key() != state.signing_key().public:
        raise CharterRefused(
            "the charter names another signing key for this hospital; enrol again and ask for a "
            "new charter."
        )
    return Coordinator(state, charter, channel)


def retried(call: Callable[[], _T]) -> _T:
    """``call``'s result, tried again with back-off for as long as the peer cannot be reached."""
    pause = _RETRY_FIRST_SECONDS
    while True:
        try:
            with translated_errors():
                return call()
        except UnavailablePeer:
            _log.info("the peer cannot be reached; trying again in %.1f s", pause)
            time.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST_SECONDS)


def _answers(parts: Iterator[wire.FetchTeacherResponse], *, limit: int) -> list[Answer]:
    headers: list[wire.AnswerHeader] = []
    bodies: list[list[bytes]] = []
    received = 0
    for part in parts:
        if part.WhichOneof("part") == "header":
            headers.append(part.header)
            bodies.append([])
        elif bodies:
            bodies[-1].append(part.body_chunk)
        received += len(part.body_chunk)
        if len(headers) > 2 or received > 2 * limit:
            raise MalformedMessage("a teacher is longer than its charter allows.")
    return [
        answer_of(header, collect(body, limit=limit))
        for header, body in zip(headers, bodies, strict=True)
    ]
