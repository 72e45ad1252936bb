"""Asking the custodians, and checking what they answer before it is stored.

The aggregator only relays: it can open no answer. It checks what it can, which is that each
statement is signed by the custodian that the charter names, is about this round and this sum or
set, and covers the very body and sealed keys that came with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import grpc

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage, UnavailablePeer
from fedhelp_secure.secure_sum.answer_wire import answer_of
from fedhelp_secure.secure_sum.answers import (
    Answer,
    open_decryptor_statement,
    open_unmasker_statement,
)
from fedhelp_secure.secure_sum.bodies import AnswerRefused, body_bytes
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.chunks import CHUNK_BYTES, collect
from fedhelp_secure.transport.client import (
    PeerNotAuthenticated,
    PeerRefused,
    open_channel,
    translated_errors,
)
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1 import coordinator_pb2
from fedhelp_secure.wire.v1 import custodian_pb2 as wire
from fedhelp_secure.wire.v1.custodian_pb2_grpc import DecryptorStub, UnmaskerStub
from fedhelp_server.aggregator.blobs import IncomingBlob
from fedhelp_server.aggregator.membership import custodians_of
from fedhelp_server.aggregator.store import StoredContribution

_BASE_CALL_SECONDS = 120.0
_VALUES_PER_SECOND = 50_000

_DEFINITE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""Statuses of a refusal that the same request will meet again. Any other (a fault of the
custodian's own, a cancelled call, our certificate being renewed) is waited out: a failed round
costs every hospital budget."""


@dataclass(frozen=True, slots=True)
class CustodianAddresses:
    """Where the custodians listen, as ``host:port``."""

    decryptor: str
    unmaskers: tuple[str, ...]
    """In the charter's order."""


class Custodians:
    """Calls to the custodians, over mTLS, for one charter."""

    def __init__(
        self,
        state: StateDirectory,
        charter: Charter,
        *,
        envelope: bytes,
        addresses: CustodianAddresses,
    ) -> None:
        """``envelope`` is the charter's, which the custodians open for themselves.

        ``addresses`` must have one for each unmasker.
        """
        self._decryptor, *self._unmaskers = custodians_of(charter)
        self._state = state
        self._charter = charter
        self._envelope = envelope
        self._addresses = addresses
        self._seconds = _BASE_CALL_SECONDS + charter.secure_sum.values / _VALUES_PER_SECOND
        self._lock = threading.Lock()
        self._channels: set[grpc.Channel] = set()
        self._closed = False

    def close(self) -> None:
        """End the calls under way; later ones raise UnavailablePeer."""
        with self._lock:
            self._closed = True
        self.hang_up()

    def hang_up(self) -> None:
        """End the calls under way with UnavailablePeer; later ones are made as ever."""
        with self._lock:
            channels, self._channels = self._channels, set()
        for channel in channels:
            channel.close()

    def begin(self, index: int, round_number: int) -> coordinator_pb2.CustodianKeys:
        """What custodian ``index`` (from 0, in the charter's order) states of the round's keys.

        Nothing of it is checked. Raises UnavailablePeer or PeerRefused.
        """
        custodian = (self._decryptor, *self._unmaskers)[index]
        address = (self._addresses.decryptor, *self._addresses.unmaskers)[index]
        request = wire.BeginRoundRequest(charter=self._envelope, round=round_number)
        stub = UnmaskerStub if index else DecryptorStub
        with self._call(custodian, address) as channel:
            return stub(channel).BeginRound(request, timeout=_BASE_CALL_SECONDS)

    def public_context(self, epoch: int, context_digest: str) -> bytes:
        """The decryptor's public context of ``epoch``.

        Raises UnavailablePeer or PeerRefused, and MalformedMessage if it is not the one of
        ``context_digest``.
        """
        request = wire.GetPublicContextRequest(epoch=epoch)
        with self._call(self._decryptor, self._addresses.decryptor) as channel:
            parts = DecryptorStub(channel).GetPublicContext(request, timeout=_BASE_CALL_SECONDS)
            context = collect((part.chunk for part in parts), limit=CHUNK_BYTES)
        if digest(context) != context_digest:
            raise MalformedMessage("the decryptor gave another context than it stated; ask it.")
        return context

    def ask_decryptor(
        self,
        round_number: int,
        ciphertext: Iterable[bytes],
        *,
        sum_digest: str,
        body: IncomingBlob,
    ) -> Answer:
        """Custodian A's checked answer for the sum whose bytes ``ciphertext`` yields.

        Each part of ``ciphertext`` is whole frames of at most 1 MiB. The answer's body is written
        to ``body``, which is finished then. Raises UnavailablePeer, PeerRefused, MalformedMessage
        for a body of another length, or what `open_decryptor_statement` raises.
        """

        def requests() -> Iterator[wire.DecryptSumRequest]:
            header = wire.DecryptSumHeader(
                charter=self._envelope, round=round_number, sum_digest=sum_digest
            )
            yield wire.DecryptSumRequest(header=header)
            for chunk in ciphertext:
                yield wire.DecryptSumRequest(ciphertext_chunk=chunk)

        with self._call(self._decryptor, self._addresses.decryptor) as channel:
            parts = DecryptorStub(channel).DecryptSum(requests(), timeout=self._seconds)
            answer = self._received(parts, body)
        statement = open_decryptor_statement(self._charter, round_number, answer)
        if statement.sum_digest != sum_digest:
            raise AnswerRefused("the decryptor answered for another sum; ask its operator why.")
        return answer

    def ask_unmasker(
        self,
        index: int,
        round_number: int,
        contributions: Sequence[StoredContribution],
        *,
        rounds_begun: Sequence[bytes],
        body: IncomingBlob,
    ) -> Answer:
        """The checked answer for ``contributions`` of the charter's unmasker ``index`` (from 0).

        ``contributions`` are in ascending order of hospital, ``rounds_begun`` all custodians'
        statements in the charter's order. The answer's body is written to
        ``body``, which is finished then. Raises UnavailablePeer, PeerRefused, MalformedMessage for
        a body of another length, what `open_unmasker_statement` raises, or AnswerRefused if the
        statement is about any other set.
        """

        def requests() -> Iterator[wire.UnmaskSumRequest]:
            header = wire.UnmaskSumHeader(
                charter=self._envelope, round=round_number, rounds_begun=rounds_begun
            )
            yield wire.UnmaskSumRequest(header=header)
            for stored in contributions:
                sealed = wire.SealedContribution(
                    manifest=stored.manifest, sealed_seed=stored.sealed_seeds[index]
                )
                yield wire.UnmaskSumRequest(contribution=sealed)

        unmasker = self._unmaskers[index]
        with self._call(unmasker, self._addresses.unmaskers[index]) as channel:
            parts = UnmaskerStub(channel).UnmaskSum(requests(), timeout=self._seconds)
            answer = self._received(parts, body)
        statement = open_unmasker_statement(
            self._charter, round_number, answer, unmasker=unmasker.name
        )
        asked = [
            (stored.hospital, digest(stored.manifest), stored.ciphertext_digest)
            for stored in contributions
        ]
        answered = [
            (member.hospital, member.manifest_digest, member.ciphertext_digest)
            for member in statement.contributions
        ]
        if asked != answered:
            raise AnswerRefused("an unmasker answered for another set; ask its operator why.")
        return answer

    @contextlib.contextmanager
    def _call(self, expected: Identity, address: str) -> Iterator[grpc.Channel]:
        """A channel for one call: made anew each time, so that a renewed certificate is used."""
        with self._lock:
            if self._closed:
                raise UnavailablePeer("the aggregator is stopping; start it again to go on.")
            channel = open_channel(self._state, address, expected=expected)
            self._channels.add(channel)
        try:
            with translated_errors(f"the {expected.role.value}"):
                yield channel
        except PeerNotAuthenticated as error:
            raise UnavailablePeer(str(error)) from error
        except ValueError as error:
            # What gRPC raises for a call on a channel that `hang_up` has closed.
            if channel in self._channels:
                raise
            raise UnavailablePeer("the call was given up; ask again.") from error
        except PeerRefused as error:
            call = error.__cause__
            if isinstance(call, grpc.Call) and call.code() in _DEFINITE:
                raise
            raise UnavailablePeer(str(error)) from error
        finally:
            with self._lock:
                self._channels.discard(channel)
            channel.close()

    def _received(self, parts: Iterator[wire.AnswerPart], body: IncomingBlob) -> Answer:
        first = next(parts, wire.AnswerPart())
        if first.WhichOneof("part") != "header":
            raise MalformedMessage("a custodian's answer has no header; update its software.")
        limit = body_bytes(self._charter.secure_sum)
        for part in parts:
            chunk = part.body_chunk
            if not 0 < len(chunk) <= min(CHUNK_BYTES, limit - body.size):
                raise MalformedMessage(
                    "a custodian's answer has a wrong part; update its software."
                )
            body.write(chunk)
        if body.size != limit:
            raise MalformedMessage("a custodian's answer is too short; update its software.")
        body.finish()
        return answer_of(first.header, body.path)
