"""The Broker service: who may ask, for what, and the answer in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import caller
from fedhelp_secure.wire.v1 import broker_pb2 as wire
from fedhelp_secure.wire.v1.broker_pb2_grpc import BrokerServicer
from fedhelp_server.broker.call import OneCall


class QuestionRefused(PolicyError):
    """The request is not about this broker's charter, or not from one of its parties."""

    code = "foundation-model-question"


class Broker(BrokerServicer):
    """Serves one charter's answer."""

    def __init__(self, charter: Charter, call: OneCall) -> None:
        self._charter = charter
        self._call = call

    def GetAnswer(  # noqa: N802
        self, request: wire.GetAnswerRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GetAnswerResponse]:
        """The stored answer, calling the foundation model first if nobody has."""
        who = caller(context)
        self._check(who, request)
        stored = self._call.answer(who)
        description = wire.AnswerDescription(record=stored.record, body_bytes=len(stored.body))
        yield wire.GetAnswerResponse(description=description)
        for chunk in split(stored.body):
            yield wire.GetAnswerResponse(body_chunk=chunk)

    def _check(self, who: Identity, request: wire.GetAnswerRequest) -> None:
        charter = self._charter
        parties = charter.hospitals if who.role is Role.HOSPITAL else charter.auditors
        if who.name not in {party.name for party in parties}:
            raise QuestionRefused(
                "the charter does not name this party; ask the registrar for one that does."
            )
        expected = {
            "charter": (request.charter_digest, charter.digest),
            "purpose": (request.purpose, charter.foundation_model.purpose),
            "proxy set": (request.proxy_digest, charter.proxy.digest),
        }
        for what, (asked, allowed) in expected.items():
            if asked != allowed:
                raise QuestionRefused(
                    f"this broker serves another {what} than the one asked for; "
                    "compare the charters."
                )
