"""Answers and records as bytes: what a hospital accepts, and the form of what is signed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.charters import CharterKit, make_charter_kit

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import MAXIMUM_BATCHES, parse_charter
from fedhelp_secure.errors import MalformedMessage, SignatureRefused
from fedhelp_secure.foundation_model import (
    EMBEDDING_WIDTH,
    MAXIMUM_EARLIER,
    REASON_LIMIT,
    RECORD_LIMIT_BYTES,
    AnswerNotPinned,
    Batch,
    CallRecord,
    EarlierCall,
    decode_answer,
    encode_answer,
    idempotency_key,
    open_answer,
    open_record,
    request_digest_of,
    sign_record,
)
from fedhelp_secure.signing import SigningKey

COUNT = 8
KIT: CharterKit = make_charter_kit()
CHARTER = KIT.charter()
KEY = KIT.keys["broker"]


def embeddings(count: int = COUNT) -> NDArray[np.float32]:
    numbers = np.arange(count * EMBEDDING_WIDTH, dtype=np.float32)
    return numbers.reshape(count, EMBEDDING_WIDTH) / np.float32(7)


BODY = encode_answer(embeddings())


BATCH = Batch(
    images=COUNT,
    request_digest=digest(b"request"),
    request_bytes=7,
    sent_at="2026-01-01T00:00:00Z",
    attempts=1,
    address="127.0.0.1:9000",
    tls_key=digest(b"key"),
    answer_digest=digest(b"message"),
    seconds=8.5,
    cost=None,
)


def record(**changes: object) -> CallRecord:
    """The record of an answered call; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "charter": CHARTER.digest,
        "purpose": "proxy-embeddings",
        "proxy_digest": CHARTER.proxy.digest,
        "provider": "open-inference-http",
        "host": "127.0.0.1:9000",
        "model": "dinov2-small",
        "requested_by": "spiffe://testfed/hospital/small-1",
        "called_at": "2026-01-01T00:00:00Z",
        "recorded_at": "2026-01-01T00:00:09Z",
        "seconds": 8.5,
        "request_digest": request_digest_of((BATCH,)),
        "answer_digest": digest(BODY),
        "answer_shape": (COUNT, EMBEDDING_WIDTH),
        "outcome": "answered",
        "reason": "",
        "idempotency_key": idempotency_key(CHARTER),
        "cost": None,
        "batches": (BATCH,),
        "earlier": (),
    }
    return CallRecord(**(fields | changes))


def test_a_recorded_answer_is_opened() -> None:
    opened, signed = open_answer(CHARTER, record=sign_record(record(), KEY), body=BODY)
    np.testing.assert_array_equal(opened, embeddings())
    assert opened.dtype == np.float32
    assert signed == record()


@given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.integers(-30, 30))
def test_answers_survive_their_bytes(count: int, seed: int, exponent: int) -> None:
    shape = (count, EMBEDDING_WIDTH)
    numbers = np.random.default_rng(seed).standard_normal(shape) * 10.0**exponent
    array = numbers.astype(np.float32)
    data = encode_answer(array)
    np.testing.assert_array_equal(decode_answer(data, count=count), array)
    np.testing.assert_array_equal(np.load(io.BytesIO(data), allow_pickle=False), array)


def _numpy_file(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _with_nan() -> NDArray[np.float32]:
    array = embeddings()
    array[3, 3] = np.nan
    return array


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        BODY[:-1],
        BODY + b"\0",
        BODY.replace(b"<f4", b">f4"),
        BODY.replace(b"False", b"True "),
        encode_answer(embeddings(COUNT - 1)),
        encode_answer(_with_nan()),
        _numpy_file(embeddings().astype(np.float64)),
        _numpy_file(embeddings().reshape(COUNT * 2, -1)),
        _numpy_file(np.asfortranarray(embeddings())),
        _numpy_file(np.array([{"an": "object"}], dtype=object)),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_answer(data, count=COUNT)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("charter", digest(b"another")),
        ("purpose", "captions"),
        ("proxy_digest", digest(b"private images")),
        ("provider", "openai-embeddings"),
        ("host", "127.0.0.1:9001"),
        ("model", "another"),
        ("outcome", "refused"),
        ("answer_shape", (COUNT, 384)),
        ("idempotency_key", "0" * 64),
    ],
)
def test_a_record_about_something_else_is_refused(field: str, value: object) -> None:
    envelope = sign_record(record(**{field: value}), KEY)
    with pytest.raises(AnswerNotPinned, match=field):
        open_answer(CHARTER, record=envelope, body=BODY)


def test_another_answer_than_the_recorded_one_is_refused() -> None:
    other = encode_answer(embeddings() + np.float32(1))
    with pytest.raises(AnswerNotPinned, match="not the one"):
        open_answer(CHARTER, record=sign_record(record(), KEY), body=other)


def test_a_record_by_another_key_is_refused() -> None:
    envelope = sign_record(record(), SigningKey.generate())
    with pytest.raises(SignatureRefused):
        open_answer(CHARTER, record=envelope, body=BODY)


def test_a_signed_document_that_is_no_record_is_refused() -> None:
    document = record().model_dump(mode="json")
    for changed in (
        document | {"extra": 1},
        {**document, "seconds": "8"},
        {"version": 1},
        {**document, "version": 1},
    ):
        envelope = KEY.sign_document("foundation-model-call", changed)
        with pytest.raises(MalformedMessage, match="form"):
            open_record(envelope, KEY.public)


def test_the_longest_record_fits_its_limit() -> None:
    earlier = EarlierCall(
        called_at="2026-01-01T00:00:00Z",
        resolved_at="2026-01-01T00:00:00Z",
        reason="\N{LATIN SMALL LETTER E WITH ACUTE}" * REASON_LIMIT,
    )
    longest = record(
        host="h" * 500,
        requested_by="s" * 500,
        reason=earlier.reason,
        earlier=(earlier,) * MAXIMUM_EARLIER,
        batches=(BATCH.model_copy(update={"address": "a" * 60, "cost": "9" * 19}),)
        * MAXIMUM_BATCHES,
        purpose="p" * 63,
        model="m" * 63,
    )
    assert len(sign_record(longest, KEY)) <= RECORD_LIMIT_BYTES


def test_the_key_names_charter_purpose_and_proxy_set() -> None:
    charters = [
        CHARTER,
        KIT.charter(name="other"),
        KIT.charter(foundation_model={"purpose": "captions"}),
        KIT.charter(proxy={"digest": digest(b"others")}),
    ]
    assert len({idempotency_key(charter) for charter in charters}) == len(charters)
    assert idempotency_key(CHARTER) == idempotency_key(parse_charter(CHARTER.document()))


def test_an_entry_at_its_default_is_not_in_the_charters_document() -> None:
    """Charters from before these entries keep their digests, and the call its key."""
    said = CHARTER.document()["foundation_model"]
    assert said.keys() == {"purpose", "url", "model"}
    explicit = KIT.charter(foundation_model={"batch_images": 64, "idempotent": False})
    assert explicit.document()["foundation_model"] == said
    other = KIT.charter(foundation_model={"batch_images": 63})
    assert other.document()["foundation_model"] == said | {"batch_images": 63}


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://fm.example", "fm.example:443"),
        ("https://FM.example:8443/base", "fm.example:8443"),
        ("https://[::1]:9000", "::1:9000"),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert KIT.charter(foundation_model={"url": url}).foundation_model.host == host
