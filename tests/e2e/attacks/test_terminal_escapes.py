"""Escapes, line ends and bidirectional marks in names and sentences: never raw in log or terminal.

The malicious peers here speak gRPC without our server's own guard, so that nothing but the receiver
stands between their words and an operator's screen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e.attacks.conftest import Attacked
from support.attacks import log_of
from support.federation import Federation
from support.processes import context_file

from fedhelp_client.data.images import png_bytes
from fedhelp_client.data.table import TABLE
from fedhelp_secure.transport.certificates import own_tls_files
from fedhelp_secure.transport.client import PeerRefused
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import (
    CoordinatorServicer,
    add_CoordinatorServicer_to_server,
)

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00Z CRITICAL root: forged\u202egnp\x9b31m"
RAW = ("\x1b", "\x07", "\r", "\u202e", "\x9b", "\n2026-01-01T00:00:00Z CRITICAL root: forged")


def fedhelp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
        errors="surrogateescape",
    )


def check_clean(text: str) -> None:
    assert "forged" in text, "the hostile words came another way than was meant"
    for raw in RAW:
        assert raw not in text, f"{raw!r} is raw in {text!r}"


class Malicious(CoordinatorServicer):
    """An aggregator whose every sentence is hostile."""

    def __init__(self, envelope: bytes, state: wire.RoundState.ValueType) -> None:
        self._envelope, self._state = envelope, state

    def GetCharter(  # noqa: N802
        self, request: wire.GetCharterRequest, context: grpc.ServicerContext
    ) -> wire.GetCharterResponse:
        if not self._envelope:
            context.set_trailing_metadata((("fedhelp-code", "charter"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, HOSTILE)
        return wire.GetCharterResponse(envelope=self._envelope)

    def WatchRounds(  # noqa: N802
        self, request: wire.WatchRoundsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.RoundEvent]:
        waiting = wire.ROUND_STATE_CLOSED if self._state == wire.ROUND_STATE_OPEN else self._state
        yield wire.RoundEvent(round=1, state=wire.ROUND_STATE_PENDING, reason=HOSTILE)
        yield wire.RoundEvent(round=1, state=waiting, reason=HOSTILE)

    def Contribute(  # noqa: N802
        self,
        request_iterator: Iterator[wire.ContributeRequest],
        context: grpc.ServicerContext,
    ) -> wire.ContributeResponse:
        raise AssertionError("no node gets so far")

    def FetchTeacher(  # noqa: N802
        self, request: wire.FetchTeacherRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.FetchTeacherResponse]:
        raise AssertionError("no node gets so far")

    def GetReceipt(  # noqa: N802
        self, request: wire.GetReceiptRequest, context: grpc.ServicerContext
    ) -> wire.GetReceiptResponse:
        raise AssertionError("no node gets so far")

    def GetRoundKeys(  # noqa: N802
        self, request: wire.GetRoundKeysRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GetRoundKeysResponse]:
        raise AssertionError("no node gets so far")


@contextmanager
def served(federation: Federation, servicer: Malicious) -> Iterator[str]:
    files = own_tls_files(federation.state("aggregator"))
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_CoordinatorServicer_to_server(servicer, server)
    credentials = grpc.ssl_server_credentials(
        [(files.key, files.certificate)], files.authorities, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("refusing", [True, False], ids=["a refusal", "a failed round"])
def test_a_malicious_aggregators_words_reach_a_nodes_screen_harmless(
    attacked: Attacked, refusing: bool
) -> None:
    rehearsal = attacked.federation
    envelope = b"" if refusing else rehearsal.charter_envelope
    with served(rehearsal, Malicious(envelope, wire.ROUND_STATE_FAILED)) as address:
        done = fedhelp(
            *("client", "rehearse", "--state", rehearsal.state("small-1").root),
            *("--context", context_file(rehearsal), "--aggregator", f"aggregator@{address}"),
        )
    assert done.returncode == 1
    check_clean(done.stdout + done.stderr)


def test_a_hospitals_words_reach_an_aggregators_log_harmless(attacked: Attacked) -> None:
    party = attacked.party("small-1")
    request = wire.GetReceiptRequest(charter_digest=HOSTILE, round=1)
    with pytest.raises(grpc.RpcError) as refused:
        party.coordinator.GetReceipt(request, timeout=30)
    assert isinstance(refused.value, grpc.Call)
    header = wire.ContributionHeader(charter_digest=HOSTILE, manifest=HOSTILE.encode())
    with pytest.raises(PeerRefused):
        party.send(iter([wire.ContributeRequest(header=header)]))
    log = log_of(attacked.servers, "aggregator")
    assert "other-charter" in log
    for raw in RAW:
        assert raw not in log


def _missing_image(folder: Path) -> list[str | Path]:
    (folder / TABLE).write_text(f'image,label,patient_id\n"{HOSTILE}.png",benign,p1\n')
    return ["client", "data", "check", folder]


def _same_picture_twice(folder: Path) -> list[str | Path]:
    # Without its line end, which a table cannot hold in a file's name.
    named = HOSTILE.replace("\r\n", "")
    names = [f"{named}-{number}.png" for number in range(2)]
    image = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    for name in names:
        (folder / name).write_bytes(png_bytes(image))
    lines = [f'"{name}",benign,p{number}\n' for number, name in enumerate(names)]
    (folder / TABLE).write_text("image,label,patient_id\n" + "".join(lines))
    return ["client", "data", "check", folder]


def _state(folder: Path) -> list[str | Path]:
    return ["enrol", "request", "--state", folder / HOSTILE, "--out", folder / "request.json"]


def _bundle(folder: Path) -> list[str | Path]:
    (folder / "bundle").mkdir()
    (folder / "bundle" / HOSTILE.replace("/", " ")).write_text("x")
    return ["audit", "verify", folder / "bundle"]


@pytest.mark.parametrize("make", [_missing_image, _same_picture_twice, _state, _bundle])
def test_names_of_files_reach_the_screen_harmless(
    tmp_path: Path, make: Callable[[Path], list[str | Path]]
) -> None:
    done = fedhelp(*make(tmp_path))
    assert done.returncode == 1
    check_clean(done.stdout + done.stderr)
    assert ("are the same picture" in done.stdout) is (make is _same_picture_twice)


def test_an_error_that_nobody_expected_is_logged_harmless(tmp_path: Path) -> None:
    raising = f"""
import threading
from fedhelp_secure.logs import configure_logging
configure_logging()
def fail(): raise ValueError({HOSTILE!r})
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""
    done = subprocess.run(
        [sys.executable, "-c", raising], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    check_clean(done.stderr)
    assert done.stderr.count("an error that nobody expected") == 2
