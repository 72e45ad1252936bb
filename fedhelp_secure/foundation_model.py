"""The one answer of the foundation model: its bytes, the broker's record of the call, its fetching.

The answer holds one embedding [768] of every public proxy image. It travels as the bytes of a NumPy
``.npy`` array; the record, signed by the broker, names them by digest and says when, where and for
whom the foundation model was called.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import Charter, CharterRefused, Digest, Label
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

RECORD_LIMIT_BYTES = 16 * 1024
REASON_LIMIT = 300
"""Characters; with MAXIMUM_EARLIER of them a record still fits its limit."""
MAXIMUM_EARLIER = 4
FETCH_SECONDS = 660.0
"""The broker itself waits up to 600 s for the foundation model."""

Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
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


class CallRecord(_Document):
    """What the broker signs about the call; digests instead of contents."""

    version: Literal[1] = 1
    charter: Digest
    purpose: Label
    proxy_digest: Digest
    host: str = Field(max_length=500)
    """Host and port of the charter's URL: where the call went."""
    model: Label
    requested_by: str = Field(max_length=500)
    """Identity (URI) of the party whose request led to the call."""
    called_at: Moment
    recorded_at: Moment
    seconds: float = Field(ge=0)
    request_digest: Digest
    answer_digest: Digest | None
    """Of the ``.npy`` bytes; null unless the outcome is ``answered``."""
    answer_shape: tuple[int, int] | None
    outcome: Outcome
    reason: str = Field(max_length=REASON_LIMIT)
    """Why, unless answered: an error's code, or the operator's words."""
    idempotency_key: str = Field(pattern=r"^[0-9a-f]{64}$")
    earlier: tuple[EarlierCall, ...] = Field(max_length=MAXIMUM_EARLIER)


def idempotency_key(charter: Charter) -> str:
    """64 hexadecimal digits that name the charter's one call, whoever makes it and how often."""
    question = {
        "charter": charter.digest,
        "purpose": charter.foundation_model.purpose,
        "proxy_digest": charter.proxy.digest,
    }
    return digest(canonical_json(question)).removeprefix("sha256:")


def host_of(charter: Charter) -> str:
    """``host:port`` of the foundation model, as records name it.

    Raises CharterRefused if the URL's host or port is none.
    """
    try:
        parts = urlsplit(charter.foundation_model.url)
        return f"{parts.hostname}:{parts.port or 443}"
    except ValueError as error:
        raise CharterRefused(
            "the charter's foundation_model.url is not a URL; ask the registrar for another."
        ) from error


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
        "host": host_of(charter),
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
