"""The Open Inference Protocol over gRPC: hostile servers over real TLS, and hostile messages."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.broker import COUNT, MODEL, BrokerWorld, embeddings_of_server, wait_until

from fedhelp_secure.wire.v1.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from fedhelp_server.broker.credentials import Credential
from fedhelp_server.broker.provider import AnswerRefused, CallLost, CallNotSent
from fedhelp_server.broker.providers.open_inference_grpc import METHOD, OpenInferenceGrpc
from fedhelp_server.foundation_model.certificate import make_certificate

KEY = "0" * 64 + "-0001"
Context = grpc.ServicerContext


def message(raw: bytes | None = None, **changes: object) -> bytes:
    values = embeddings_of_server()
    contents = InferTensorContents(fp32_contents=values.ravel().tolist())
    fields: dict[str, Any] = {
        "name": "embeddings",
        "datatype": "FP32",
        "shape": [COUNT, 768],
        "contents": None if raw is not None else contents,
    }
    output = ModelInferResponse.InferOutputTensor(**(fields | changes))
    return ModelInferResponse(
        model_name=MODEL, outputs=[output], raw_output_contents=[] if raw is None else [raw]
    ).SerializeToString()


class Server(grpc.GenericRpcHandler):
    """A TLS server whose ``act`` answers; keeps what it was sent."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.act: Callable[[bytes, Context], bytes] = lambda body, context: message()
        self.bodies: list[bytes] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.certificate = certificate
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method != METHOD:
            return None

        def answer(body: bytes, context: Context) -> bytes:
            self.bodies.append(body)
            self.metadata.append(dict(context.invocation_metadata()))
            return self.act(body, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=bytes, response_serializer=bytes
        )

    def stop(self) -> None:
        self._server.stop(0).wait(10)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(*make_certificate(tmp_path_factory.mktemp("grpc")))
    yield server
    server.stop()


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.bodies.clear()
    shared_server.metadata.clear()
    shared_server.act = lambda body, context: message()
    return shared_server


def make(
    world: BrokerWorld,
    server: Server,
    credential: Credential | None = None,
    **rules: Any,  # noqa: ANN401
) -> OpenInferenceGrpc:
    named = world.variant(provider="open-inference-grpc", url=f"https://127.0.0.1:{server.port}")
    changes = {"ca": server.certificate} | rules
    return OpenInferenceGrpc(named.federation.charter, world.rules(**changes), credential)


def ask(provider: OpenInferenceGrpc, world: BrokerWorld) -> Any:  # noqa: ANN401
    connection = provider.connect()
    try:
        body = provider.request(world.public_set.images)
        return connection.ask(body, count=COUNT, key=KEY)
    finally:
        connection.close()


def test_the_bytes_are_the_protocols(world: BrokerWorld, server: Server) -> None:
    reply = ask(make(world, server, Credential("token")), world)
    np.testing.assert_array_equal(reply.embeddings, embeddings_of_server())
    request = ModelInferRequest.FromString(server.bodies[0])
    assert request.model_name == MODEL
    assert list(request.inputs[0].shape) == [COUNT]
    assert server.metadata[0]["idempotency-key"] == KEY
    assert server.metadata[0]["authorization"] == "Bearer token"


def test_raw_contents_are_read_too(world: BrokerWorld, server: Server) -> None:
    server.act = lambda body, context: message(raw=embeddings_of_server().tobytes())
    np.testing.assert_array_equal(
        ask(make(world, server), world).embeddings, embeddings_of_server()
    )


RAW = embeddings_of_server().tobytes()
NAN = np.full((COUNT, 768), np.nan, np.float32).tobytes()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\xff\xff", "answer-form"),
        (b"", "answer-model"),
        (ModelInferResponse(model_name=MODEL).SerializeToString(), "answer-form"),
        (message(name="labels"), "answer-form"),
        (message(datatype="FP64"), "answer-form"),
        (message(shape=[COUNT, 384]), "answer-shape"),
        (message(shape=[-COUNT, -768]), "answer-shape"),
        (message(shape=[COUNT * 768]), "answer-shape"),
        (message(contents=None), "answer-shape"),
        (message(raw=RAW[:-1]), "answer-form"),
        (message(raw=RAW[:-4]), "answer-shape"),
        (message(raw=RAW + RAW), "answer-shape"),
        (message(raw=NAN), "answer-values"),
        (message(raw=bytes(len(RAW))), "answer-values"),
    ],
)
def test_other_answers_are_refused(
    world: BrokerWorld, server: Server, answer: bytes, reason: str
) -> None:
    server.act = lambda body, context: answer
    with pytest.raises(AnswerRefused) as caught:
        ask(make(world, server), world)
    assert caught.value.reason == reason


def test_an_oversized_or_compressed_answer_is_not_unfolded(
    world: BrokerWorld, server: Server
) -> None:
    def bomb(body: bytes, context: Context) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return bytes(3_000_000)

    server.act = bomb
    with pytest.raises((AnswerRefused, CallLost)):
        ask(make(world, server, answer_bytes=1_000_000), world)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, AnswerRefused, "status-unauthenticated"),
        (grpc.StatusCode.INVALID_ARGUMENT, AnswerRefused, "status-invalid-argument"),
        (grpc.StatusCode.UNAVAILABLE, CallLost, "connection"),
        (grpc.StatusCode.INTERNAL, CallLost, "connection"),
    ],
)
def test_a_status_is_an_answer_or_a_loss_and_is_not_quoted(
    world: BrokerWorld,
    server: Server,
    code: grpc.StatusCode,
    kind: type[AnswerRefused | CallLost],
    reason: str,
) -> None:
    def fail(body: bytes, context: Context) -> bytes:
        context.abort(code, "words of the server")

    server.act = fail
    with pytest.raises(kind) as caught:
        ask(make(world, server), world)
    assert isinstance(caught.value, AnswerRefused | CallLost)
    assert caught.value.reason == reason
    assert "words" not in str(caught.value)
    assert len(server.bodies) == 1  # gRPC's own retries are off


def test_closing_ends_a_running_call(world: BrokerWorld, server: Server) -> None:
    release = threading.Event()

    def hold(body: bytes, context: Context) -> bytes:
        release.wait(20)
        return message()

    server.act = hold
    provider = make(world, server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, provider, world)
        wait_until(lambda: server.bodies)
        provider.close()
        with pytest.raises(CallLost) as caught:
            waiting.result(timeout=10)
    release.set()
    assert caught.value.reason == "stopped"
    with pytest.raises(CallNotSent):
        provider.connect()


def test_grpc_trusts_the_certificate_that_was_checked_and_no_other(
    world: BrokerWorld, server: Server, tmp_path: Path
) -> None:
    """Whoever takes the server's place between the check and gRPC's own connection gets nothing."""
    provider = make(world, server)
    other, _ = make_certificate(tmp_path)
    address = f"127.0.0.1:{server.port}"
    for certificate, trusted in ((server.certificate, True), (other, False)):
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        with provider._open_channel(address, der) as channel:
            ready = grpc.channel_ready_future(channel)
            if trusted:
                ready.result(10)
            else:
                with pytest.raises(grpc.FutureTimeoutError):
                    ready.result(1.0)
                ready.cancel()


def test_a_server_that_speaks_no_grpc_is_not_called(world: BrokerWorld) -> None:
    provider = world.variant(provider="open-inference-grpc").provider(
        world.rules(connect_seconds=1.0)
    )
    with pytest.raises(CallNotSent, match="gRPC"):
        provider.connect()
    assert world.server.requests == []
