"""The node's side of the Coordinator service: charter, rounds, upload, download."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import grpc

from fedhelp_client.node.files import answers_folder
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import (
    InternalError,
    MalformedMessage,
    PeerError,
    PolicyError,
    UnavailablePeer,
)
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.evidence.witness import LogWitness
from fedhelp_secure.own_keys import hospital_keys
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.secure_sum.contribution import Contribution, ContributionKeys
from fedhelp_secure.secure_sum.epochs import KeysRefused
from fedhelp_secure.secure_sum.opening import Answers, OpenedSum, open_sum
from fedhelp_secure.secure_sum.round_keys import RoundKeys, open_round_keys
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.catalogue import printable
from fedhelp_secure.transport.chunks import CHUNK_BYTES, read_chunks
from fedhelp_secure.transport.client import PeerRefused, open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.charters import open_own_charter
from fedhelp_secure.trust.store import TrustListOutdated
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.evidence_pb2 import Receipt
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

_RETRY_FIRST_SECONDS = 0.5
_RETRY_MOST_SECONDS = 10.0
_TRANSFER_PAUSE_SECONDS = 2.0
"""A transfer that is told to come again finds its turn within seconds."""
_CALL_SECONDS = 120.0
_SLOWEST_BYTES_A_SECOND = 250_000
"""A transfer may take so long: the line of a small hospital, shared with others."""

NO_CONTRIBUTION = "no-contribution"
"""The aggregator's code for a round to which the caller has not contributed."""

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

RoundListener = Callable[[str], None]
"""Called with a sentence whenever the aggregator says why a round is waiting."""


class RoundFailed(PolicyError):
    """A round ended without a sum."""

    code = "round-failed"


class ReceiptRefused(PeerError):
    """A receipt proves that something else was logged."""

    code = "receipt"


class ConnectionsClosed(InternalError):
    """A call was begun after the connections were closed."""

    code = "connections-closed"


class Connections:
    """The channels of the calls that are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channels: set[grpc.Channel] = set()
        self._closed = False

    @contextlib.contextmanager
    def kept(self, channel: grpc.Channel) -> Iterator[None]:
        """Within it, `close` closes ``channel`` too; raises ConnectionsClosed after that."""
        with self._lock:
            if self._closed:
                raise ConnectionsClosed("this node's connections are closed; start it again.")
            self._channels.add(channel)
        try:
            yield
        finally:
            with self._lock:
                self._channels.discard(channel)

    def close(self) -> None:
        """Close every channel, for good."""
        with self._lock:
            self._closed = True
            channels = tuple(self._channels)
        for channel in channels:
            channel.close()


@dataclass(frozen=True, slots=True)
class Coordinator:
    """One node's connection to one aggregator, for one charter."""

    state: StateDirectory
    charter: Charter
    address: str
    """host:port."""
    signed_by: VerifyingKey | None = None
    """The governance key of the charter; None if it was not fetched."""
    connections: Connections = field(default_factory=Connections, repr=False)
    session: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)
    """Of this process: the aggregator lets one of a hospital's live, the newest."""

    def contribute(self, round_number: int, contribution: Contribution) -> Receipt:
        """Upload ``contribution``; the same bytes may be sent any number of times.

        Returns the receipt; raises what `check_receipt` raises, and ReceiptRefused for another
        contribution's.
        """

        def messages(turn: threading.Event) -> Iterator[wire.ContributeRequest]:
            header = wire.ContributionHeader(
                charter_digest=self.charter.digest,
                round=round_number,
                manifest=contribution.manifest,
                sealed_seeds=contribution.sealed_seeds,
            )
            yield wire.ContributeRequest(header=header)
            turn.wait()
            for chunk in read_chunks(contribution.ciphertext):
                yield wire.ContributeRequest(ciphertext_chunk=chunk)

        seconds = self._transfer_seconds(self.charter.secure_sum.ciphertext_bytes)

        def call() -> Receipt:
            turn = threading.Event()
            with self._connection() as stub:
                reply = stub.Contribute.future(messages(turn), timeout=seconds)
                try:
                    # The aggregator's, when it is our turn to send; at once if the call has ended.
                    reply.initial_metadata()
                finally:
                    turn.set()
                return reply.result().receipt

        receipt = retried(call, longest_pause=_TRANSFER_PAUSE_SECONDS)
        entry = check_receipt(
            receipt,
            log_key=self.charter.aggregator.verifying_key(),
            origin=log_origin(self.charter),
        )
        if entry.contribution_accepted.manifest_digest != digest(contribution.manifest):
            raise ReceiptRefused(
                "the aggregator's receipt is not for what this hospital sent; ask an auditor to "
                "compare the log with this hospital's manifest."
            )
        return receipt

    def own_manifest(self, round_number: int) -> bytes | None:
        """The manifest of this hospital's contribution to ``round_number`` that the aggregator
        holds, as a DSSE envelope; None if it says that it has none. Nothing of it is checked.
        """
        request = wire.GetReceiptRequest(charter_digest=self.charter.digest, round=round_number)

        def call() -> wire.GetReceiptResponse:
            with self._connection() as stub:
                return stub.GetReceipt(request, timeout=_CALL_SECONDS)

        try:
            return retried(call).manifest
        except PeerRefused as refusal:
            if refusal.code != NO_CONTRIBUTION:
                raise
            return None

    def round_keys(self, round_number: int, keys: ContributionKeys) -> RoundKeys:
        """The custodians' keys of a round that has begun, proved by their own statements.

        ``keys`` gets the decryptor's public context of that epoch if it has another one. Raises
        what `open_round_keys` raises, and KeysRefused for a context that was not stated.
        """
        request = wire.GetRoundKeysRequest(
            charter_digest=self.charter.digest,
            round=round_number,
            context_digest=keys.context.digest,
        )

        def call() -> tuple[list[wire.CustodianKeys], bytes]:
            with self._connection() as stub:
                parts = stub.GetRoundKeys(request, timeout=_CALL_SECONDS)
                return _received_keys(parts, count=1 + len(self.charter.custodians.unmaskers))

        stated, context = retried(call)
        opened = open_round_keys(self.charter, round_number, stated)
        if opened.context_digest != keys.context.digest:
            if digest(context) != opened.context_digest:
                raise KeysRefused(
                    "the aggregator gave another CKKS context than the decryptor stated; ask its "
                    "operator, and do not encrypt under it."
                )
            _log.info("round %d is under a new epoch of the decryptor's keys", round_number)
            keys.context = PublicContext(context, self.charter.secure_sum)
        return opened

    def cosign_log(self) -> None:
        """Be a witness of the evidence log as it is now (see `LogWitness`); once, without waiting.

        Raises HistoryRefused or another PeerError for a log that may not be believed. If nobody
        answers, the next call makes up for this one.
        """
        try:
            with self.connection() as channel, translated_errors():
                LogWitness(self.state, self.charter).cosign_newest(EvidenceStub(channel))
        except (UnavailablePeer, TrustListOutdated) as error:
            _log.warning("the evidence log was not cosigned this time: %s", error)

    @contextlib.contextmanager
    def connection(self) -> Iterator[grpc.Channel]:
        """A connection for one call, so that a renewed certificate is used from the next call on.

        Also, gRPC fits a connection's buffers to what has gone through it, and keeps them as long
        as the connection: the aggregator would hold a MiB or two for every hospital that watches.
        """
        with (
            _open(self.state, self.address, self.charter.aggregator.name) as channel,
            self.connections.kept(channel),
        ):
            yield channel

    @contextlib.contextmanager
    def _connection(self) -> Iterator[CoordinatorStub]:
        with self.connection() as channel:
            yield CoordinatorStub(channel)

    def close(self) -> None:
        """End every call that is under way, and let no other begin."""
        self.connections.close()

    def _transfer_seconds(self, size: int) -> float:
        """For a transfer of ``size`` bytes and, before its turn, those of all other hospitals."""
        return _CALL_SECONDS + len(self.charter.hospitals) * size / _SLOWEST_BYTES_A_SECOND

    def wait_until_open(self, round_number: int, listener: RoundListener) -> int:
        """Return the state of ``round_number`` when it takes contributions (or is past that)."""
        return self._wait(
            round_number,
            {wire.ROUND_STATE_OPEN, wire.ROUND_STATE_CLOSED, wire.ROUND_STATE_OPENED},
            listener,
        )

    def wait_until_opened(self, round_number: int, listener: RoundListener) -> None:
        """Return when all custodians' answers for ``round_number`` are there."""
        self._wait(round_number, {wire.ROUND_STATE_OPENED}, listener)

    def _wait(self, round_number: int, wanted: set[int], listener: RoundListener) -> int:
        request = wire.WatchRoundsRequest(charter_digest=self.charter.digest, session=self.session)

        def call() -> int:
            # No deadline: a round may wait for weeks. Keep-alive ends a dead connection.
            with self._connection() as stub:
                for event in stub.WatchRounds(request):
                    if event.round != round_number:
                        continue
                    reason = printable(event.reason)
                    if reason:
                        listener(reason)
                    if event.state == wire.ROUND_STATE_FAILED:
                        raise RoundFailed(f"round {round_number} ended without a sum: {reason}")
                    if event.state in wanted:
                        return event.state
            raise UnavailablePeer("the aggregator ended the watch; it may be restarting.")

        return retried(call)

    def fetch_sum(self, round_number: int) -> OpenedSum:
        """Download, check and open the weighted sum of ``round_number``."""
        with answers_folder(self.state) as folder:
            return self.open_sum(round_number, self.fetch_answers(round_number, folder))

    def fetch_answers(self, round_number: int, folder: Path) -> Answers:
        """Every custodian's answer for ``round_number``, the bodies in ``folder``.

        Raises MalformedMessage if there are more or fewer than the charter's custodians, or if one
        is longer than the charter's sums.
        """
        request = wire.FetchTeacherRequest(charter_digest=self.charter.digest, round=round_number)
        count = 1 + len(self.charter.custodians.unmaskers)
        limit = body_bytes(self.charter.secure_sum)
        seconds = self._transfer_seconds(count * limit)

        def call() -> list[Answer]:
            with self._connection() as stub:
                parts = stub.FetchTeacher(request, timeout=seconds)
                return _received(parts, folder, count=count, limit=limit)

        decryptor, *unmaskers = retried(call, longest_pause=_TRANSFER_PAUSE_SECONDS)
        return Answers(decryptor, tuple(unmaskers))

    def open_sum(self, round_number: int, answers: Answers) -> OpenedSum:
        """The sum in ``answers``. Whatever this raises (see `open_sum`), fetching again is no cure:
        a sum that was altered must end the run.
        """
        return open_sum(
            self.charter,
            round_number,
            recipient=self.state.identity.name,
            unsealing_key=hospital_keys(self.state, self.charter).unsealing_key,
            answers=answers,
        )


def connect(state: StateDirectory, address: str, aggregator: str) -> Coordinator:
    """Fetch the charter from the aggregator called ``aggregator`` and check it.

    Raises SignatureRefused or CharterRefused if it may not be used; waits while nobody answers.
    """

    def call() -> bytes:
        with _open(state, address, aggregator) as channel:
            reply = CoordinatorStub(channel).GetCharter(wire.GetCharterRequest(), timeout=30)
        return reply.envelope

    opened = open_own_charter(state, retried(call))
    hospital_keys(state, opened.charter)
    return Coordinator(state, opened.charter, address, signed_by=opened.signer)


def _open(state: StateDirectory, address: str, aggregator: str) -> grpc.Channel:
    expected = Identity(state.identity.federation, Role.AGGREGATOR, aggregator)
    return open_channel(state, address, expected=expected)


def read_context(charter: Charter, path: Path) -> PublicContext:
    """The public CKKS context in the file at ``path``; CharterRefused if it is another.

    It is that of the charter's own epoch; `Coordinator.round_keys` gets later ones.
    """
    context = path.read_bytes()
    if digest(context) != charter.custodians.decryptor.context_digest:
        raise CharterRefused(f"{path} is not the charter's CKKS context; fetch the one it names.")
    return PublicContext(context, charter.secure_sum)


def retried(call: Callable[[], _T], *, longest_pause: float = _RETRY_MOST_SECONDS) -> _T:
    """``call``'s result, tried again with back-off for as long as the peer cannot be reached.

    Nobody can while this party's trust list is out of date.
    """
    pause = _RETRY_FIRST_SECONDS
    while True:
        try:
            with translated_errors():
                return call()
        except UnavailablePeer:
            _log.info("the peer cannot be reached; trying again in %.1f s", pause)
        except TrustListOutdated as error:
            # The next poll of the registrar, or an operator's file, mends it: no reason to give up.
            _log.warning("%s Trying again in %.1f s.", error, pause)
        time.sleep(pause)
        pause = min(2 * pause, longest_pause)


def _received(
    parts: Iterator[wire.FetchTeacherResponse], folder: Path, *, count: int, limit: int
) -> list[Answer]:
    """``count`` answers, each body straight into its file and of at most ``limit`` bytes."""
    headers: list[wire.AnswerHeader] = []
    body: BinaryIO | None = None
    room = 0
    with contextlib.ExitStack() as files:
        for part in parts:
            if part.WhichOneof("part") == "header":
                headers.append(part.header)
                if len(headers) > count:
                    raise _wrong_count()
                body = files.enter_context(_body(folder, len(headers)).open("wb"))
                os.fchmod(body.fileno(), 0o600)
                room = limit
                continue
            room -= len(part.body_chunk)
            if body is None or room < 0:
                raise MalformedMessage(
                    "an answer is longer than its charter allows; ask the aggregator's operator."
                )
            body.write(part.body_chunk)
    if len(headers) < count:
        raise _wrong_count()
    return [
        answer_of(header, _body(folder, number)) for number, header in enumerate(headers, start=1)
    ]


def _received_keys(
    parts: Iterator[wire.GetRoundKeysResponse], *, count: int
) -> tuple[list[wire.CustodianKeys], bytes]:
    """What at most ``count`` custodians stated, and the context: at most CHUNK_BYTES."""
    stated: list[wire.CustodianKeys] = []
    context: list[bytes] = []
    for part in parts:
        if part.WhichOneof("part") == "context_chunk":
            context.append(part.context_chunk)
        else:
            stated.append(part.custodian)
        if len(stated) > count or sum(map(len, context)) > CHUNK_BYTES:
            raise MalformedMessage(
                "a round's keys are more than its charter's custodians have; ask the aggregator's "
                "operator."
            )
    return stated, b"".join(context)


def _body(folder: Path, number: int) -> Path:
    return folder / f"{number}.body"


def _wrong_count() -> MalformedMessage:
    return MalformedMessage(
        "a teacher must have one answer of each of the charter's custodians; ask the aggregator's "
        "operator."
    )
