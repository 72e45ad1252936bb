"""The Open Inference Protocol v2 over gRPC, which must be TLS.

gRPC makes its own connection and shows nothing of the server's certificate. So `Egress` makes one
first, to the checked address, with every check; gRPC then connects to that address and trusts that
one certificate and no other.
"""

from __future__ import annotations

import ssl
import threading

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.wire.v1.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from fedhelp_server.broker.credentials import Credential
from fedhelp_server.broker.egress import Egress, EgressRules
from fedhelp_server.broker.pictures import png
from fedhelp_server.broker.provider import (
    AnswerRefused,
    CallLost,
    CallNotSent,
    Contact,
    Reply,
    Stopping,
    checked_embeddings,
)
from fedhelp_server.broker.providers.open_inference_http import INPUT, OUTPUT
from fedhelp_server.broker.tunnel import ProxyMisconfigured

METHOD = "/inference.GRPCInferenceService/ModelInfer"

_LOST = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""After these nobody can say what the server did; every other status is its answer."""
_IDENTITY_ONLY = 1
"""Of grpc.compression_enabled_algorithms_bitset: an answer cannot unfold to more than its bytes."""


class OpenInferenceGrpc:
    """``inference.GRPCInferenceService/ModelInfer``, once on a channel of its own."""

    def __init__(
        self, charter: Charter, rules: EgressRules, credential: Credential | None = None
    ) -> None:
        """Raises EgressMisconfigured, ProxyMisconfigured or CharterRefused."""
        self._model = charter.foundation_model
        self._credential = credential
        if rules.proxy is not None:
            raise ProxyMisconfigured(
                "gRPC does not go through --proxy; use open-inference-http, or no proxy."
            )
        self._egress = Egress(charter, rules)
        self._guard = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._closed = False

    @property
    def repeatable(self) -> bool:
        """As the charter says."""
        return self._model.idempotent

    def request(self, images: NDArray[np.uint8]) -> bytes:
        """A serialised ModelInferRequest: one BYTES tensor of PNGs that are made here."""
        tensor = ModelInferRequest.InferInputTensor(
            name=INPUT,
            datatype="BYTES",
            shape=[len(images)],
            contents=InferTensorContents(bytes_contents=[png(image) for image in images]),
        )
        message = ModelInferRequest(
            model_name=self._model.model,
            inputs=[tensor],
            outputs=[ModelInferRequest.InferRequestedOutputTensor(name=OUTPUT)],
        )
        return message.SerializeToString(deterministic=True)

    def connect(self) -> GrpcConnection:
        """Raises CallNotSent or EgressRefused."""
        line = self._egress.connect()
        contact, certificate = line.contact, line.certificate()
        line.close()
        channel = self._open_channel(contact.address, certificate)
        with self._guard:
            if self._closed:
                channel.close()
                raise Stopping
            self._channel = channel
        try:
            grpc.channel_ready_future(channel).result(self._egress.rules.connect_seconds)
        except (grpc.FutureTimeoutError, ValueError) as error:
            channel.close()
            raise CallNotSent(
                "the foundation model does not speak gRPC where the charter says; nothing was sent."
            ) from error
        return GrpcConnection(self, channel, contact)

    def close(self) -> None:
        """End what is running and allow no other connection."""
        self._egress.close()
        with self._guard:
            self._closed = True
            if self._channel is not None:
                self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def seconds(self) -> float:
        """How long a call may take."""
        return self._egress.rules.seconds

    def metadata(self, key: str) -> tuple[tuple[str, str], ...]:
        """Of a call with the idempotency key ``key``."""
        metadata: tuple[tuple[str, str], ...] = (("idempotency-key", key),)
        if self._credential is not None:
            metadata += (("authorization", self._credential.authorization()),)
        return metadata

    def read(self, message: bytes, *, count: int) -> Reply:
        """What a serialised ModelInferResponse says; raises AnswerRefused."""
        try:
            response = ModelInferResponse.FromString(message)
        except DecodeError as error:
            raise _no_tensor() from error
        if response.model_name != self._model.model:
            raise AnswerRefused("answer-model", "another model than the charter's has answered.")
        outputs, raw = list(response.outputs), list(response.raw_output_contents)
        if len(outputs) != 1 or len(raw) > 1:
            raise _no_tensor()
        output = outputs[0]
        if output.name != OUTPUT or output.datatype != "FP32" or (raw and len(raw[0]) % 4):
            raise _no_tensor()
        values = (
            np.frombuffer(raw[0], dtype="<f4")
            if raw
            else np.array(output.contents.fp32_contents, dtype=np.float32)
        )
        embeddings = checked_embeddings(values, tuple(output.shape), count=count)
        return Reply(embeddings, digest(message), None)

    def _open_channel(self, address: str, certificate: bytes) -> grpc.Channel:
        family = "ipv6" if address.startswith("[") else "ipv4"
        trusted = ssl.DER_cert_to_PEM_cert(certificate).encode("ascii")
        return grpc.secure_channel(
            f"{family}:{address}",
            grpc.ssl_channel_credentials(root_certificates=trusted),
            options=[
                ("grpc.ssl_target_name_override", self._egress.host),
                ("grpc.default_authority", self._egress.authority),
                ("grpc.max_receive_message_length", self._egress.rules.answer_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
                ("grpc.enable_retries", 0),
                ("grpc.enable_http_proxy", 0),
                ("grpc.service_config_disable_resolution", 1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )


class GrpcConnection:
    """A channel on which one call may be made."""

    def __init__(
        self, provider: OpenInferenceGrpc, channel: grpc.Channel, contact: Contact
    ) -> None:
        self._provider = provider
        self._channel = channel
        self.contact: Contact | None = contact

    def ask(self, body: bytes, *, count: int, key: str) -> Reply:
        """See `fedhelp_server.broker.provider.Connection`."""
        call = self._channel.unary_unary(
            METHOD, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            message: bytes = call(
                body, timeout=self._provider.seconds, metadata=self._provider.metadata(key)
            )
        except ValueError as error:  # the channel was closed by another thread
            raise CallLost("stopped") from error
        except grpc.RpcError as error:
            raise self._failed(error) from error
        return self._provider.read(message, count=count)

    def close(self) -> None:
        """Let go of it."""
        self._channel.close()

    def _failed(self, error: grpc.RpcError) -> CallLost | AnswerRefused:
        # The server's own words stay out: they go to the record and to hospitals.
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
        if self._provider.closed:
            return CallLost("stopped")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return CallLost("timeout")
        if code in _LOST:
            return CallLost("connection")
        name = code.name.lower().replace("_", "-")
        return AnswerRefused(
            f"status-{name}", f"the foundation model answered with the status {name}."
        )


def _no_tensor() -> AnswerRefused:
    return AnswerRefused(
        "answer-form", "the foundation model's answer is not an FP32 tensor of embeddings."
    )
