"""Real servers for tests of the transport: one method of each kind, with behaviour as given."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from fedhelp_secure.wire.v1 import (
    coordinator_pb2,
    coordinator_pb2_grpc,
    custodian_pb2,
    custodian_pb2_grpc,
)

Act = Callable[[grpc.ServicerContext], bytes]


class Coordinator(coordinator_pb2_grpc.CoordinatorServicer):
    """GetCharter (one to one), WatchRounds (one to many) and Contribute (many to one)."""

    def __init__(self, act: Act) -> None:
        self._act = act

    def GetCharter(  # noqa: N802
        self, request: coordinator_pb2.GetCharterRequest, context: grpc.ServicerContext
    ) -> coordinator_pb2.GetCharterResponse:
        return coordinator_pb2.GetCharterResponse(envelope=self._act(context))

    def WatchRounds(  # noqa: N802
        self, request: coordinator_pb2.WatchRoundsRequest, context: grpc.ServicerContext
    ) -> Iterator[coordinator_pb2.RoundEvent]:
        yield coordinator_pb2.RoundEvent(round=1)
        yield coordinator_pb2.RoundEvent(round=2, reason=self._act(context).decode())

    def Contribute(  # noqa: N802
        self,
        request_iterator: Iterator[coordinator_pb2.ContributeRequest],
        context: grpc.ServicerContext,
    ) -> coordinator_pb2.ContributeResponse:
        parts = sum(1 for _ in request_iterator)
        response = coordinator_pb2.ContributeResponse()
        response.receipt.index = parts
        response.receipt.entry = self._act(context)
        return response

    def FetchTeacher(  # noqa: N802
        self, request: coordinator_pb2.FetchTeacherRequest, context: grpc.ServicerContext
    ) -> Iterator[coordinator_pb2.FetchTeacherResponse]:
        yield coordinator_pb2.FetchTeacherResponse(body_chunk=self._act(context))

    def GetReceipt(  # noqa: N802
        self, request: coordinator_pb2.GetReceiptRequest, context: grpc.ServicerContext
    ) -> coordinator_pb2.GetReceiptResponse:
        response = coordinator_pb2.GetReceiptResponse()
        response.receipt.entry = self._act(context)
        return response

    def GetRoundKeys(  # noqa: N802
        self, request: coordinator_pb2.GetRoundKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[coordinator_pb2.GetRoundKeysResponse]:
        yield coordinator_pb2.GetRoundKeysResponse(context_chunk=self._act(context))


class Decryptor(custodian_pb2_grpc.DecryptorServicer):
    """DecryptSum (many to many)."""

    def __init__(self, act: Act) -> None:
        self._act = act

    def DecryptSum(  # noqa: N802
        self,
        request_iterator: Iterator[custodian_pb2.DecryptSumRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[custodian_pb2.AnswerPart]:
        for _ in request_iterator:
            yield custodian_pb2.AnswerPart(body_chunk=self._act(context))

    def GetPublicContext(  # noqa: N802
        self, request: custodian_pb2.GetPublicContextRequest, context: grpc.ServicerContext
    ) -> Iterator[custodian_pb2.GetPublicContextResponse]:
        yield custodian_pb2.GetPublicContextResponse(chunk=self._act(context))

    def BeginRound(  # noqa: N802
        self, request: custodian_pb2.BeginRoundRequest, context: grpc.ServicerContext
    ) -> coordinator_pb2.CustodianKeys:
        return coordinator_pb2.CustodianKeys(round_begun=self._act(context))


def register(act: Act) -> Callable[[grpc.Server], None]:
    """What `start_server` needs to serve both."""

    def add(server: grpc.Server) -> None:
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(Coordinator(act), server)
        custodian_pb2_grpc.add_DecryptorServicer_to_server(Decryptor(act), server)

    return add


def call_get_charter(channel: grpc.Channel) -> bytes:
    """One to one; the bytes that ``act`` gave."""
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    return stub.GetCharter(coordinator_pb2.GetCharterRequest(), timeout=10).envelope


def call_watch_rounds(channel: grpc.Channel) -> bytes:
    """One to many; the reason in the last event."""
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    events = list(stub.WatchRounds(coordinator_pb2.WatchRoundsRequest(), timeout=10))
    return events[-1].reason.encode()


def call_contribute(channel: grpc.Channel) -> bytes:
    """Many to one; the entry of the receipt."""
    stub = coordinator_pb2_grpc.CoordinatorStub(channel)
    parts = [coordinator_pb2.ContributeRequest(ciphertext_chunk=b"part")] * 3
    response = stub.Contribute(iter(parts), timeout=10)
    assert response.receipt.index == 3
    return response.receipt.entry


def call_decrypt_sum(channel: grpc.Channel) -> bytes:
    """Many to many; the last part."""
    stub = custodian_pb2_grpc.DecryptorStub(channel)
    parts = [custodian_pb2.DecryptSumRequest(ciphertext_chunk=b"part")] * 2
    return list(stub.DecryptSum(iter(parts), timeout=10))[-1].body_chunk
