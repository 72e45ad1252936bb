"""The compared schemes' server: as closed as ours to whoever has no certificate."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from support.federation import Federation, make_federation

from fedhelp_secure.transport.certificates import own_tls_files, server_name
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role

FETCH = "/fedhelp_secure.bench.Baseline/Fetch"
UPLOAD = "/fedhelp_secure.bench.Baseline/Upload"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, str]]:
    """The plaintext scheme for one hospital, and where it is served."""
    root = tmp_path_factory.mktemp("baseline")
    federation = make_federation(root / "parties", large=1, small=1)
    secret, ready = root / "secret", root / "ready"
    secret.write_bytes(b"")
    command = [sys.executable, "-m", "fedhelp_secure", "bench", "baseline-server"]
    command += ["--state", str(federation.state(Role.AGGREGATOR).root), "--scheme", "plaintext"]
    command += ["--secret", str(secret), "--hospitals", "1", "--ready-file", str(ready)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, "the server ended early"
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.05)
        yield federation, ready.read_text().strip()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _fetch(channel: grpc.Channel) -> bytes:
    upload: Callable[..., bytes] = channel.stream_unary(UPLOAD)
    fetch: Callable[..., Iterator[bytes]] = channel.unary_stream(FETCH)
    upload(iter([b"\1\0\0\0"]), metadata=(("round", "1"), ("hospital", "a")), timeout=20)
    return b"".join(fetch(b"1", timeout=20))


def test_a_hospital_is_served(served: tuple[Federation, str]) -> None:
    federation, address = served
    expected = Identity(federation.charter.federation, Role.AGGREGATOR, "aggregator")
    with open_channel(federation.state("large-1"), address, expected=expected) as channel:
        assert _fetch(channel) == b"\1\0\0\0"


def test_nobody_without_a_certificate_is_served(served: tuple[Federation, str]) -> None:
    federation, address = served
    expected = Identity(federation.charter.federation, Role.AGGREGATOR, "aggregator")
    authorities = own_tls_files(federation.state("large-1")).authorities
    options = [("grpc.ssl_target_name_override", server_name(expected))]
    credentials = grpc.ssl_channel_credentials(authorities)
    with (
        grpc.secure_channel(address, credentials, options=options) as channel,
        pytest.raises(grpc.RpcError) as refusal,
    ):
        _fetch(channel)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
