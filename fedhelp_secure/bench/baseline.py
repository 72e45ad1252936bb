"""A round of a compared scheme over the same streams: an aggregator, hospitals, mutual TLS.

The same gRPC channels and certificates as ours, chunks of 1 MiB, every hospital a process; but no
masks, no custodians, no checks and no evidence. For measuring only: this server is not one of a
federation's services, and no party of one starts it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc

from fedhelp_secure.bench.components import invented
from fedhelp_secure.bench.schemes import BASELINES, Scheme
from fedhelp_secure.memory import peak_rss_mb
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import own_tls_files
from fedhelp_secure.transport.chunks import split
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.limits import COMMON_OPTIONS
from fedhelp_secure.transport.server import RunningServer, serve_until_signal

_SERVICE = "fedhelp_secure.bench.Baseline"
_ROUND = "round"
_HOSPITAL = "hospital"
_WAIT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class HospitalRound:
    """When one hospital was where in one round (seconds, `time.monotonic`), and its peak memory."""

    round: int
    started: float
    ended: float
    upload_bytes: int
    download_bytes: int
    peak_rss_mb: float


class _Rounds:
    """Contributions by round; a round's sum is made once all hospitals have sent theirs."""

    def __init__(self, scheme: Scheme, hospitals: int) -> None:
        self._scheme = scheme
        self._hospitals = hospitals
        self._changed = threading.Condition()
        self._parts: dict[str, dict[str, bytes]] = {}
        self._sums: dict[str, bytes] = {}

    def upload(self, chunks: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Take one contribution; whoever is last makes the sum."""
        metadata = dict(context.invocation_metadata())
        number, hospital = str(metadata[_ROUND]), str(metadata[_HOSPITAL])
        data = b"".join(chunks)
        with self._changed:
            parts = self._parts.setdefault(number, {})
            parts[hospital] = data
            if len(parts) == self._hospitals:
                self._sums[number] = self._scheme.add(list(parts.values()))
                del self._parts[number]
                self._changed.notify_all()
        return b""

    def fetch(self, number: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        """The sum of round ``number`` once it is there."""
        with self._changed:
            self._changed.wait_for(lambda: number.decode() in self._sums, _WAIT_SECONDS)
            total = self._sums[number.decode()]
        yield from split(total)


def serve_baseline(
    root: Path, scheme_name: str, *, secret: Path, hospitals: int, ready_file: Path
) -> None:
    """Serve ``scheme_name``'s rounds as the party whose state is ``root``, until a signal."""
    rounds = _Rounds(_scheme(scheme_name, secret), hospitals)
    server = grpc.server(futures.ThreadPoolExecutor(2 * hospitals), options=COMMON_OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Upload": grpc.stream_unary_rpc_method_handler(rounds.upload),
        "Fetch": grpc.unary_stream_rpc_method_handler(rounds.fetch),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    files = own_tls_files(StateDirectory.open(root))
    credentials = grpc.ssl_server_credentials(
        [(files.key, files.certificate)], files.authorities, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    serve_until_signal(RunningServer(server, "127.0.0.1", port), ready_file)


def run_hospital(
    state: StateDirectory,
    scheme_name: str,
    *,
    address: str,
    values: int,
    rounds: int,
    secret: Path,
    out: Path,
) -> None:
    """Take part in every round and write one `HospitalRound` a line to ``out``."""
    scheme = _scheme(scheme_name, secret)
    expected = Identity(state.identity.federation, Role.AGGREGATOR, Role.AGGREGATOR.value)
    with open_channel(state, address, expected=expected) as channel:
        upload: Callable[..., bytes] = channel.stream_unary(f"/{_SERVICE}/Upload")
        fetch: Callable[..., Iterator[bytes]] = channel.unary_stream(f"/{_SERVICE}/Fetch")
        lines = []
        for number in range(1, rounds + 1):
            release = invented(values)
            started = time.monotonic()
            data = scheme.encode(release)
            metadata = ((_ROUND, str(number)), (_HOSPITAL, state.identity.name))
            upload(split(data), metadata=metadata, timeout=_WAIT_SECONDS)
            total = b"".join(fetch(str(number).encode(), timeout=_WAIT_SECONDS))
            scheme.decode(total, values)
            ended = time.monotonic()
            lines.append(
                HospitalRound(number, started, ended, len(data), len(total), peak_rss_mb())
            )
    write_atomically(out, "".join(json.dumps(asdict(line)) + "\n" for line in lines).encode())


def _scheme(name: str, secret: Path) -> Scheme:
    return BASELINES[name](secret.read_bytes() or None)
