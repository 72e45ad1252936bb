"""Checks of the peers that a node calls, over the mutual TLS that it will use, and of the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from fedhelp_client.preflight.outcome import Outcome, failed, passed, warned
from fedhelp_client.preflight.site import Site
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1.coordinator_pb2 import GetCharterRequest
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.evidence_pb2 import GetCheckpointRequest
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

_CALL_SECONDS = 15.0
_SAMPLES = 4

WARNED_SECONDS = 5.0
TOLERATED_SECONDS = 60.0
"""Of difference between two clocks. Beyond, certificates and the ledger's times are at risk."""


def aggregator(site: Site) -> Outcome:
    """It answers as the charter's aggregator, accepts this party, and serves this charter."""
    with (
        _channel(site, site.aggregator, site.aggregator_address) as channel,
        translated_errors("the aggregator"),
    ):
        reply = CoordinatorStub(channel).GetCharter(GetCharterRequest(), timeout=_CALL_SECONDS)
    if reply.envelope != site.envelope:
        return failed("it serves another charter than the file that was reviewed.")
    return passed(f"{site.aggregator} at {site.aggregator_address}, serving this charter")


def broker(site: Site) -> Outcome:
    """It answers as the charter's broker and accepts this party; it is asked for nothing.

    The call is one that no broker serves: its own would start the one call to the foundation model.
    """
    with (
        _channel(site, site.broker, site.broker_address) as channel,
        translated_errors("the broker"),
    ):
        try:
            EvidenceStub(channel).GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call) or (
                error.code() is not grpc.StatusCode.UNIMPLEMENTED
            ):
                raise
    return passed(f"{site.broker} at {site.broker_address}")


def clock(site: Site, now: Callable[[], float] = time.time) -> Outcome:
    """This machine's clock, ``now``, against the aggregator's, as it says over mutual TLS."""
    with _channel(site, site.aggregator, site.aggregator_address) as channel:
        stub = EvidenceStub(channel)
        with translated_errors("the aggregator"):
            difference = min(
                (_sample(stub, now) for _ in range(_SAMPLES)), key=lambda each: each.error
            )
    said = (
        f"{difference.seconds:+.2f} s from the aggregator's, known to {difference.error:.2f} s "
        f"(tolerated: {TOLERATED_SECONDS:g} s)"
    )
    # What is certain: the interval of possible differences lies outside what is tolerated.
    least = abs(difference.seconds) - difference.error
    if least > TOLERATED_SECONDS:
        return failed(f"{said}; set the clock (NTP), here or there.")
    return warned(f"{said}; check NTP.") if least > WARNED_SECONDS else passed(said)


@dataclass(frozen=True, slots=True)
class _Difference:
    """Ours minus theirs: true to ``error`` seconds, whatever the network did (Cristian 1989)."""

    seconds: float
    error: float


def _sample(stub: EvidenceStub, now: Callable[[], float]) -> _Difference:
    before, began = now(), time.monotonic()
    reply = stub.GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_SECONDS)
    half = (time.monotonic() - began) / 2
    return _Difference(before + half - reply.unix_milliseconds / 1000, half + 0.001)


def _channel(site: Site, expected: Identity, address: str) -> grpc.Channel:
    return open_channel(site.state, address, expected=expected)
