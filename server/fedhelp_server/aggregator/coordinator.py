"""The Coordinator service: the aggregator's face towards the hospitals."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import grpc

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.transport.server import caller
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorServicer
from fedhelp_server.aggregator.blobs import BlobStore
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.certificates import Certificates
from fedhelp_server.aggregator.journal import Journal
from fedhelp_server.aggregator.limits import CALLS_EACH, CallLimit, Capacity
from fedhelp_server.aggregator.membership import check_charter_digest, member_key
from fedhelp_server.aggregator.rounds import RoundState
from fedhelp_server.aggregator.sessions import Sessions
from fedhelp_server.aggregator.store import StoredRound
from fedhelp_server.aggregator.turns import Turns
from fedhelp_server.aggregator.uploads import Uploads

_BREAK_SECONDS = 0.5
"""How long an upload that ended too early may turn out to be a broken call."""


class RoundNotOpened(PolicyError):
    """A teacher was asked for that is not there, or never will be."""

    code = "round-not-opened"


class NoContribution(PolicyError):
    """A receipt was asked for by a hospital that has not contributed to that round."""

    code = "no-contribution"


class Coordinator(CoordinatorServicer):
    """Charter, rounds, upload, download. Who may call what is the access table's; see `caller`."""

    def __init__(  # noqa: PLR0913 - the parts of one aggregator
        self,
        charter: Charter,
        envelope: bytes,
        *,
        book: Book,
        journal: Journal,
        blobs: BlobStore,
        uploads: Uploads,
        certificates: Certificates,
        room: Capacity,
    ) -> None:
        """``envelope`` is the charter's, as the registrar signed it; downloads share the turns."""
        self._charter = charter
        self._charter_digest = charter.digest
        self._envelope = envelope
        self._book = book
        self._journal = journal
        self._blobs = blobs
        self._uploads = uploads
        self._certificates = certificates
        self._turns = uploads.turns
        self._sessions = Sessions(journal, charter.digest, wake=book.wake)
        self._watches = CallLimit(each=CALLS_EACH, total=room.watches)
        self._downloads = CallLimit(each=CALLS_EACH, total=room.downloads)

    def GetCharter(  # noqa: N802
        self, request: wire.GetCharterRequest, context: grpc.ServicerContext
    ) -> wire.GetCharterResponse:
        """The signed charter."""
        return wire.GetCharterResponse(envelope=self._envelope)

    def WatchRounds(  # noqa: N802
        self, request: wire.WatchRoundsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.RoundEvent]:
        """Each round as it is, then each change, until the client goes or the server stops.

        Raises SessionEnded in an earlier session's watch when a newer one of its hospital begins.
        """
        who = caller(context)
        check_charter_digest(request.charter_digest, self._charter_digest)
        member_key(self._charter, who)
        with contextlib.ExitStack() as entered:
            entered.enter_context(self._watches.slot(who.uri))
            active: Callable[[], bool] = context.is_active
            if who.role is Role.HOSPITAL:
                lives = entered.enter_context(self._sessions.watch(who.name, request.session))
                active = lambda: lives() and context.is_active()  # noqa: E731
            context.add_callback(self._book.wake)
            for stored in self._book.watch(active):
                yield _event(stored)

    def Contribute(  # noqa: N802
        self, request_iterator: Iterator[wire.ContributeRequest], context: grpc.ServicerContext
    ) -> wire.ContributeResponse:
        """Take one contribution; see `Uploads`."""
        call = _Call(context, self._turns)
        stored = self._uploads.receive(caller(context), request_iterator, call=call)
        self._certificates.remember(context)
        return wire.ContributeResponse(receipt=self._journal.receipt(stored.position))

    def FetchTeacher(  # noqa: N802
        self, request: wire.FetchTeacherRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.FetchTeacherResponse]:
        """All answers of an opened round: the decryptor's, then the unmaskers' in order."""
        who = caller(context)
        check_charter_digest(request.charter_digest, self._charter_digest)
        member_key(self._charter, who)
        state = self._book.round(request.round).state
        if state is not RoundState.OPENED:
            raise RoundNotOpened(
                f"round {request.round} is {state.name.lower()}: there is nothing to fetch; watch "
                "the rounds until it is opened."
            )
        call = _Call(context, self._turns)
        with (
            self._downloads.slot(who.uri),
            self._turns.turn(call.give_up, active=call.is_active) as turn,
        ):
            for answer in self._book.answers(request.round):
                header = wire.AnswerHeader.FromString(answer.header)
                yield wire.FetchTeacherResponse(header=header)
                for chunk in self._blobs.read(answer.body_digest):
                    yield wire.FetchTeacherResponse(body_chunk=chunk)
                    turn.moved(len(chunk))

    def GetReceipt(  # noqa: N802
        self, request: wire.GetReceiptRequest, context: grpc.ServicerContext
    ) -> wire.GetReceiptResponse:
        """The receipt that the caller's own contribution was given, and its manifest."""
        who = caller(context)
        check_charter_digest(request.charter_digest, self._charter_digest)
        member_key(self._charter, who)
        stored = self._book.contribution(request.round, who.name)
        if stored is None:
            raise NoContribution(
                f"this hospital has not contributed to round {request.round}; contribute first."
            )
        return wire.GetReceiptResponse(
            receipt=self._journal.receipt(stored.position), manifest=stored.manifest
        )

    def GetRoundKeys(  # noqa: N802
        self, request: wire.GetRoundKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GetRoundKeysResponse]:
        """What the custodians stated of a round's keys, and the decryptor's public context."""
        check_charter_digest(request.charter_digest, self._charter_digest)
        who = caller(context)
        member_key(self._charter, who)
        self._book.check_begun(request.round)
        with self._downloads.slot(who.uri):
            yield from self._book.keys.response(request.round, request.context_digest)


class _Call:
    """A gRPC call as those see it who wait in it."""

    def __init__(self, context: grpc.ServicerContext, turns: Turns) -> None:
        self._context = context
        self._turns = turns
        self._ended = threading.Event()
        if not context.add_callback(self._end):
            self._end()

    def is_active(self) -> bool:
        return not self._ended.is_set()

    def go_on(self) -> None:
        self._context.send_initial_metadata(())

    def give_up(self) -> None:
        self._context.cancel()

    def broken_off(self) -> bool:
        # gRPC may end the stream of a broken call a moment before it says so.
        return self._ended.wait(_BREAK_SECONDS)

    def _end(self) -> None:
        self._ended.set()
        self._turns.wake()


def _event(stored: StoredRound) -> wire.RoundEvent:
    return wire.RoundEvent(
        round=stored.number,
        state=wire.RoundState.ValueType(stored.state.value),
        contributions=stored.contributions,
        reason=stored.reason,
    )
