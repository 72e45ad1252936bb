"""The one answer of the foundation model: its bytes, the broker's record of the call, its fetching.

The answer holds one embedding [768] of every public proxy image. It travels as the bytes of a NumPy
``.npy`` array; the record, signed by the broker, names them by digest and says when, where and for
whom the foundation model was called.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import MAXIMUM_BATCHES, Charter, Digest, Label, ProviderName
from fedhelp_secure.errors import MalformedMessage, PolicyError
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document

if TYPE_CHECKING:
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Identity
    from fedhelp_secure.wire.v1.broker_pb2 import GetAnswerResponse

KIND = "foundation-model-call"
"""DSSE kind of the record, and its kind in the evidence log."""

EMBEDDING_WIDTH = 768
"""Entries of one embedding."""

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
"""An answer, and the foundation model's message that holds it, is at most this long."""

MAXIMUM_IMAGES = ANSWER_LIMIT_BYTES // (4 * EMBEDDING_WIDTH) - 1
"""Whose embeddings fit an answer, its header included."""

RECORD_LIMIT_BYTES = 96 * 1024
REASON_LIMIT = 300
"""Characters; with MAXIMUM_EARLIER of them a record still fits its limit."""
MAXIMUM_EARLIER = 4
FETCH_SECONDS = 660.0
"""The broker holds a request for up to 600 s while the foundation model is being asked."""

Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Amount = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
"""Of money, as a decimal, in whatever currency the provider reports."""
Outcome = Literal["answered", "refused", "indeterminate", "not-called", "abandoned"]


class AnswerNotPinned(PolicyError):
    """An answer or its record is not about what the charter asks, or does not match the other."""

    code = "foundation-model-record"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EarlierCall(_Document):
    """An earlier attempt of which the broker's operator found that it never left."""

    called_at: Moment
    resolved_at: Moment
    reason: str = Field(max_length=REASON_LIMIT)


class Batch(_Document):
    """One request of the call: what went where, and what came back."""

    images: int = Field(ge=1)
    request_digest: Digest
    """Of the request's body, byte for byte."""
    request_bytes: int = Field(ge=1)
    sent_at: Moment
    attempts: int = Field(ge=1)
    """Above 1 only if the provider guarantees idempotency, or is local."""
    address: str | None = Field(max_length=60)
    """IP address and port that the connection was made to; null for a local model."""
    tls_key: Digest | None
    """Of the server's public key (SubjectPublicKeyInfo); null for a local model."""
    answer_digest: Digest | None
    """Of the message that came back, byte for byte; null if none did, or it was refused."""
    seconds: float | None = Field(ge=0)
    cost: Amount | None
    """As reported by the provider; null if it reported none."""


class CallRecord(_Document):
    """What the broker signs about the call; digests instead of contents."""

    version: Literal[2] = 2
    charter: Digest
    purpose: Label
    proxy_digest: Digest
    provider: ProviderName
    host: str = Field(max_length=500)
    """Host and port of the charter's URL, where the call went; ``local`` for a local model."""
    model: Label
    requested_by: str = Field(max_length=500)
    """Identity (URI) of the party whose request led to the call."""
    called_at: Moment
    recorded_at: Moment
    seconds: float = Field(ge=0)
    """That the batches took, together."""
    request_digest: Digest
    """Over the batches' request digests: see `request_digest_of`."""
    answer_digest: Digest | None
    """Of the ``.npy`` bytes; null unless the outcome is ``answered``."""
    answer_shape: tuple[int, int] | None
    outcome: Outcome
    reason: str = Field(max_length=REASON_LIMIT)
    """Why, unless answered: an error's code, or the operator's words."""
    idempotency_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    cost: Amount | None
    """The sum of what the provider reported; null if it reported none."""
    batches: tuple[Batch, ...] = Field(max_length=MAXIMUM_BATCHES)
    earlier: tuple[EarlierCall, ...] = Field(max_length=MAXIMUM_EARLIER)


def repeatable(charter: Charter) -> bool:
    """Whether a batch that may have arrived can be sent again without harm."""
    model = charter.foundation_model
    return model.idempotent or model.provider == "local-onnx"


def batch_sizes(charter: Charter) -> list[int]:
    """Images in each batch of the charter's call: all full but the last."""
    full, rest = divmod(charter.proxy.count, charter.foundation_model.batch_images)
    return [charter.foundation_model.batch_images] * full + ([rest] if rest else [])


def request_digest_of(batches: Sequence[Batch]) -> str:
    """The digest that stands for all requests of a call."""
    return digest(canonical_json({"requests": [batch.request_digest for batch in batches]}))


def seconds_of(batches: Sequence[Batch]) -> float:
    """That the batches took, together."""
    return round(sum(batch.seconds or 0.0 for batch in batches), 3)


def cost_of(batches: Sequence[Batch]) -> str | None:
    """The sum of the reported costs; None if none was reported."""
    reported = [Decimal(batch.cost) for batch in batches if batch.cost is not None]
    return format(sum(reported, Decimal(0)), "f") if reported else None


def idempotency_key(charter: Charter) -> str:
    """64 hexadecimal digits that name the charter's one call, whoever makes it and how often."""
    question = {
        "charter": charter.digest,
        "purpose": charter.foundation_model.purpose,
        "proxy_digest": charter.proxy.digest,
    }
    return digest(canonical_json(question)).removeprefix("sha256:")


def batch_key(key: str, number: int) -> str:
    """The idempotency key of batch ``number`` (from 1) of the call with ``key``."""
    return f"{key}-{number:04d}"


def sign_record(record: CallRecord, key: SigningKey) -> bytes:
    """The DSSE envelope over ``record``."""
    return key.sign_document(KIND, record.model_dump(mode="json"))


def open_record(envelope: bytes, key: VerifyingKey) -> CallRecord:
    """The record in ``envelope``; raises MalformedMessage or SignatureRefused."""
    document = open_document(KIND, envelope, key)
    try:
        # Through JSON text: strict mode then takes arrays for tuples, and coerces nothing else.
        return CallRecord.model_validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage(
            "the record of the foundation-model call does not have its form; tell the broker."
        ) from error


def encode_answer(embeddings: NDArray[np.float32]) -> bytes:
    """The ``.npy`` bytes of ``embeddings`` [N, 768], little endian, C order."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(embeddings, dtype="<f4"), allow_pickle=False)
    return buffer.getvalue()


def decode_answer(data: bytes, *, count: int) -> NDArray[np.float32]:
    """The embeddings [count, 768] in ``data``.

    Raises MalformedMessage unless they are exactly what `encode_answer` writes, and finite.
    """
    # One byte form, so nothing of NumPy's header parser is exposed to a peer.
    expected = encode_answer(np.zeros((count, EMBEDDING_WIDTH), dtype=np.float32))
    start = len(expected) - 4 * count * EMBEDDING_WIDTH
    if len(data) != len(expected) or data[:start] != expected[:start]:
        raise MalformedMessage(
            f"the answer is not an array of {count} x {EMBEDDING_WIDTH} float32; tell the broker."
        )
    embeddings = np.frombuffer(data[start:], dtype="<f4").reshape(count, EMBEDDING_WIDTH)
    if not np.isfinite(embeddings).all():
        raise MalformedMessage("the answer has values that are not finite; tell the broker.")
    return embeddings.astype(np.float32)


def check_record(record: CallRecord, charter: Charter) -> None:
    """Raises AnswerNotPinned unless ``record`` is about ``charter``'s call, and it was answered."""
    expected = {
        "charter": charter.digest,
        "purpose": charter.foundation_model.purpose,
        "proxy_digest": charter.proxy.digest,
        "provider": charter.foundation_model.provider,
        "host": charter.foundation_model.host,
        "model": charter.foundation_model.model,
        "outcome": "answered",
        "answer_shape": (charter.proxy.count, EMBEDDING_WIDTH),
        "idempotency_key": idempotency_key(charter),
    }
    for field, value in expected.items():
        if getattr(record, field) != value:
            raise AnswerNotPinned(
                f"the broker's record is not about the charter's call ({field}); do not use it."
            )


def open_answer(
    charter: Charter, *, record: bytes, body: bytes
) -> tuple[NDArray[np.float32], CallRecord]:
    """The embeddings in ``body`` and the record, after every check.

    1. the record is signed by the charter's broker; 2. it is about the charter's call, answered;
    3. the body has the record's digest; 4. the body is finite float32 [count, 768]. Raises
    SignatureRefused, MalformedMessage or AnswerNotPinned.
    """
    opened = open_record(record, charter.broker.verifying_key())
    check_record(opened, charter)
    if digest(body) != opened.answer_digest:
        raise AnswerNotPinned("the answer is not the one that the broker recorded; do not use it.")
    return decode_answer(body, count=charter.proxy.count), opened


def fetch_answer(
    state: StateDirectory,
    address: str,
    charter: Charter,
    broker: Identity,
    *,
    timeout_seconds: float = FETCH_SECONDS,
) -> tuple[NDArray[np.float32], bytes]:
    """The embeddings [N, 768] of the proxy images, and the broker's signed record of the call.

    Asks ``broker`` at ``address``; if nobody has asked before, the broker calls the foundation
    model first, so this can take minutes. Raises UnavailablePeer (try again), PeerRefused, and what
    `open_answer` raises.
    """
    from fedhelp_secure.transport.client import open_channel, translated_errors
    from fedhelp_secure.wire.v1.broker_pb2 import GetAnswerRequest
    from fedhelp_secure.wire.v1.broker_pb2_grpc import BrokerStub

    request = GetAnswerRequest(
        charter_digest=charter.digest,
        purpose=charter.foundation_model.purpose,
        proxy_digest=charter.proxy.digest,
    )
    with (
        open_channel(state, address, expected=broker) as channel,
        translated_errors("the broker"),
    ):
        record, body = _collected(BrokerStub(channel).GetAnswer(request, timeout=timeout_seconds))
    embeddings, _ = open_answer(charter, record=record, body=body)
    return embeddings, record


def _collected(stream: Iterator[GetAnswerResponse]) -> tuple[bytes, bytes]:
    """Record and body of the stream; raises MalformedMessage if it is not as the contract says."""
    from fedhelp_secure.transport.chunks import collect

    first = next(stream, None)
    if first is None or first.WhichOneof("part") != "description":
        raise MalformedMessage("the broker's answer does not begin with its description.")
    description = first.description
    if len(description.record) > RECORD_LIMIT_BYTES:
        raise MalformedMessage("the broker's record is too long.")
    if description.body_bytes > ANSWER_LIMIT_BYTES:
        raise MalformedMessage("the broker's answer is too long.")
    body = collect(_chunks(stream), limit=description.body_bytes)
    if len(body) != description.body_bytes:
        raise MalformedMessage("the broker's answer is shorter than it says; fetch it again.")
    return description.record, body


def _chunks(stream: Iterator[GetAnswerResponse]) -> Iterator[bytes]:
    for part in stream:
        if part.WhichOneof("part") != "body_chunk":
            raise MalformedMessage("the broker's answer has two descriptions.")
        yield part.body_chunk
