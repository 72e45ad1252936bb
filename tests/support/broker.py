"""A recording foundation model over real HTTPS, and everything a broker needs to call it."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from numpy.typing import NDArray
from PIL import Image
from support.federation import Federation, make_federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import parse_charter, sign_charter
from fedhelp_secure.foundation_model import EMBEDDING_WIDTH, fetch_answer, idempotency_key
from fedhelp_secure.keystore.files import make_directory
from fedhelp_secure.public_set import PublicSet, fit_projection, proxy_digest
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.addresses import parse_network
from fedhelp_server.broker.call import OneCall
from fedhelp_server.broker.ceiling import Ceiling
from fedhelp_server.broker.credentials import Credential
from fedhelp_server.broker.egress import EgressRules
from fedhelp_server.broker.journal import Journal
from fedhelp_server.broker.provider import Provider
from fedhelp_server.broker.providers import make_provider
from fedhelp_server.foundation_model.certificate import make_certificate

COUNT = 6
LOOPBACK = parse_network("127.0.0.0/8")
MODEL = "dinov2-small"


def embeddings_of_server() -> NDArray[np.float32]:
    """What the recording server answers with unless told otherwise."""
    numbers = np.arange(COUNT * EMBEDDING_WIDTH, dtype=np.float32)
    return (numbers.reshape(COUNT, EMBEDDING_WIDTH) % 17 + 0.125).astype(np.float32)


def inference_response(embeddings: NDArray[np.float32] | None = None, **changes: object) -> bytes:
    """A valid Open Inference Protocol answer; ``changes`` replace fields of its one output."""
    if embeddings is None:
        embeddings = embeddings_of_server()
    output: dict[str, Any] = {
        "name": "embeddings",
        "datatype": "FP32",
        "shape": list(embeddings.shape),
        "data": embeddings.ravel().tolist(),
    }
    return json.dumps({"model_name": MODEL, "id": "1", "outputs": [output | changes]}).encode()


Act = Callable[["Exchange"], None]


@dataclass(frozen=True)
class Exchange:
    """One request, and the means to answer it."""

    handler: http.server.BaseHTTPRequestHandler
    headers: dict[str, str]
    path: str
    body: bytes

    def reply(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", "application/json")
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        self.handler.wfile.write(body)


def pictures_in(body: bytes) -> list[bytes]:
    """The PNG files in an Open Inference Protocol request, or in one with data URLs."""
    document = json.loads(body)
    if "inputs" in document:
        return [base64.b64decode(text) for text in document["inputs"][0]["data"]]
    return [base64.b64decode(url.partition(",")[2]) for url in document["input"]]


def rows_asked_for(body: bytes) -> NDArray[np.float32]:
    """The embeddings of exactly the pictures in a request, known by their pixels."""
    known = [image.tobytes() for image in make_public_set().images]
    indices = []
    for data in pictures_in(body):
        with Image.open(io.BytesIO(data)) as picture:
            indices.append(known.index(np.asarray(picture).tobytes()))
    rows: NDArray[np.float32] = embeddings_of_server()[indices]
    return rows


def answer_well(exchange: Exchange) -> None:
    exchange.reply(inference_response(rows_asked_for(exchange.body)))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext
    owner: RecordingServer

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """In the connection's own thread: the handshake, then the request."""
        self.owner.connections.append(None)
        self.owner.gate.wait()
        try:
            with self.context.wrap_socket(request, server_side=True) as secure:
                super().finish_request(secure, client_address)
        except OSError:
            return  # the other side went away, or did not trust us

    def handle_error(self, request: object, client_address: object) -> None:
        return


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        exchange = Exchange(self, dict(self.headers.items()), self.path, body)
        self.server.owner.requests.append(exchange)
        self.server.owner.act(exchange)

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        return


class RecordingServer:
    """HTTPS on 127.0.0.1; keeps every request; ``act`` answers; ``gate`` holds handshakes back."""

    def __init__(self, directory: Path) -> None:
        self.certificate, key = make_certificate(directory)
        self.requests: list[Exchange] = []
        self.connections: list[None] = []
        self.act: Act = answer_well
        self.gate = threading.Event()
        self.gate.set()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.context = context
        self._server.owner = self
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        self.requests.clear()
        self.connections.clear()
        self.act = answer_well
        self.gate.set()


def key_digest(certificate: Path) -> str:
    """Digest of the SubjectPublicKeyInfo of a PEM certificate, as ``--pin`` takes it."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def make_public_set(images: NDArray[np.uint8] | None = None) -> PublicSet:
    """COUNT grey images of 24 x 32 with a projection to the tiny charter's 4 dimensions."""
    if images is None:
        ramp = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
        images = np.stack([(ramp * (index + 1)) % 251 for index in range(COUNT)]).astype(np.uint8)
    embeddings = images.reshape(len(images), 1, -1)[:, :, :60].astype(np.float32)
    projection = fit_projection(embeddings, 4)
    return PublicSet(images, projection.apply(embeddings), projection)


@dataclass
class BrokerWorld:
    """A federation whose charter points to a recording server, and its public set."""

    server: RecordingServer
    federation: Federation
    public_set: PublicSet
    public_set_file: Path

    @property
    def identity(self) -> Identity:
        return self.federation.state(Role.BROKER).identity

    def broker_state(self, directory: Path) -> Path:
        """A broker state directory of its own, in which nothing has happened."""
        target = directory / "broker"
        if not target.exists():
            shutil.copytree(self.federation.state(Role.BROKER).root, target)
        return target

    def calls_directory(self, directory: Path) -> Path:
        """Where that broker keeps the charter's call."""
        name = idempotency_key(self.federation.charter)
        path = self.broker_state(directory) / "broker" / "calls" / name
        make_directory(path)
        return path

    def journal(self, directory: Path) -> Journal:
        state = self.federation.state(Role.BROKER)
        return Journal(
            self.calls_directory(directory), state.signing_key().public, state.unsealing_key()
        )

    def rules(self, **changes: Any) -> EgressRules:  # noqa: ANN401
        """What lets the broker reach the recording server."""
        rules = EgressRules(ca=self.server.certificate, private_networks=(LOOPBACK,))
        return dataclasses.replace(rules, **changes)

    def provider(
        self, rules: EgressRules | None = None, credential: Credential | None = None
    ) -> Provider:
        return make_provider(self.federation.charter, rules or self.rules(), credential=credential)

    def variant(self, **foundation_model: object) -> BrokerWorld:
        """The same parties under a charter with other entries in ``foundation_model``."""
        document = self.federation.charter.document()
        document["foundation_model"] |= foundation_model
        charter = parse_charter(document)
        envelope = sign_charter(charter, self.federation.governance_key)
        federation = dataclasses.replace(
            self.federation, charter=charter, charter_envelope=envelope
        )
        return dataclasses.replace(self, federation=federation)

    def one_call(
        self,
        directory: Path,
        *,
        provider: Provider | None = None,
        ceiling: Ceiling | None = None,
        images: NDArray[np.uint8] | None = None,
        concluded: Callable[[], None] = lambda: None,
    ) -> OneCall:
        charter = self.federation.charter
        return OneCall(
            charter,
            self.public_set.images if images is None else images,
            journal=self.journal(directory),
            key=self.federation.state(Role.BROKER).signing_key(),
            provider=provider or self.provider(),
            ceiling=ceiling or Ceiling(),
            concluded=concluded,
        )

    def fetch(self, address: str, hospital: str = "small-1") -> tuple[NDArray[np.float32], bytes]:
        return fetch_answer(
            self.federation.state(hospital),
            address,
            self.federation.charter,
            self.identity,
            timeout_seconds=30,
        )


def make_world(
    root: Path,
    server: RecordingServer,
    *,
    public_set: PublicSet | None = None,
    **foundation_model: object,
) -> BrokerWorld:
    public_set = public_set or make_public_set()
    path = root / "public-set.npz"
    public_set.save(path)
    count, height, width = public_set.images.shape
    federation = make_federation(
        root / "federation",
        large=1,
        small=2,
        proxy={
            "digest": proxy_digest(public_set.images),
            "count": count,
            "height": height,
            "width": width,
            "public_set_digest": public_set.digest,
        },
        foundation_model={"url": server.url, **foundation_model},
    )
    return BrokerWorld(server, federation, public_set, path)


class BrokerProcess:
    """``fedhelp broker run`` with a state of its own; `kill` is ``kill -9``."""

    def __init__(
        self,
        world: BrokerWorld,
        directory: Path,
        *,
        dies: str = "",
        aggregator: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """``dies``: Python that makes the process kill itself at a step, run before the command."""
        self.log = directory / "broker.log"
        ready = directory / "ready"
        ready.unlink(missing_ok=True)
        arguments = [
            *("broker", "run", "--state", str(world.broker_state(directory))),
            *("--charter", str(world.federation.charter_file())),
            *("--public-set", str(world.public_set_file), "--listen", "127.0.0.1:0"),
            *("--ca", str(world.server.certificate), "--ready-file", str(ready)),
            *("--allow-private-network", "127.0.0.0/8", *options),
        ]
        if aggregator is not None:
            arguments += ["--aggregator", aggregator]
        code = f"{dies}\nfrom fedhelp_secure.cli import main\nmain()"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], stdout=log, stderr=log
            )
        wait_until(lambda: ready.exists() or self.process.poll() is not None, 30)
        assert ready.exists(), self.log.read_text()
        self.address = ready.read_text().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)


def fedhelp(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``fedhelp ARGUMENTS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def closed_port() -> int:
    """A port on 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
