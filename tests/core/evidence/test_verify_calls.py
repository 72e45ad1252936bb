"""Every field of the record of the call is changed once: the verifier notices, or cannot know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.charters import make_charter_kit
from support.evidence import call_record

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_calls import check_call
from fedhelp_secure.foundation_model import Batch, CallRecord, request_digest_of

CHARTER = make_charter_kit().charter(foundation_model={"batch_images": 3})
OTHER = digest(b"something else")
RECORD: dict[str, Any] = call_record(CHARTER)


def check(document: dict[str, Any]) -> None:

    check_call(CallRecord.model_validate_json(json.dumps(document)), CHARTER)


def refuse(document: dict[str, Any], match: str) -> None:
    with pytest.raises(BundleRefused, match=match):
        check(document)


def with_batches(batches: list[dict[str, Any]], **changes: object) -> dict[str, Any]:
    """The record with other batches, and with a request digest that fits them."""

    facts = [Batch.model_validate_json(json.dumps(batch)) for batch in batches]
    return RECORD | {"batches": batches, "request_digest": request_digest_of(facts)} | changes


def batch_changed(number: int, **changes: object) -> dict[str, Any]:
    batches = list(RECORD["batches"])
    batches[number] = batches[number] | changes
    return with_batches(batches)


def test_a_true_record_is_accepted() -> None:
    assert [batch["images"] for batch in RECORD["batches"]] == [3, 3, 2]
    check(RECORD)


CHANGES: dict[str, object] = {
    "charter": OTHER,
    "purpose": "patients",
    "proxy_digest": OTHER,
    "provider": "open-inference-grpc",
    "host": "127.0.0.1:9001",
    "model": "other",
    "requested_by": "spiffe://testfed/aggregator/aggregator",
    "called_at": "2026-01-01T00:00:02Z",
    "recorded_at": "2025-12-31T23:59:59Z",
    "seconds": 0.1,
    "request_digest": OTHER,
    "answer_digest": None,
    "answer_shape": [8, 384],
    "outcome": "refused",
    "idempotency_key": "0" * 64,
    "cost": None,
    "batches": RECORD["batches"][:2],
}
BEYOND_THE_VERIFIER = {"version", "reason", "earlier"}
"""The form fixes the first; the others are the operator's words."""


def test_every_field_of_the_record_is_tried() -> None:
    assert CHANGES.keys() | BEYOND_THE_VERIFIER == CallRecord.model_fields.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_a_changed_field_is_noticed(field: str) -> None:
    refuse(RECORD | {field: CHANGES[field]}, "foundation model")


BATCH_CHANGES: dict[str, object] = {
    "images": 4,
    "request_digest": None,
    "sent_at": "2025-12-31T23:59:59Z",
    "attempts": 2,
    "address": None,
    "tls_key": None,
    "answer_digest": None,
    "seconds": 5.0,
    "cost": "0.75",
}
BROKERS_WORD = {"request_bytes"}
"""Nothing else in the evidence says it."""


def test_every_field_of_a_batch_is_tried() -> None:
    assert BATCH_CHANGES.keys() | BROKERS_WORD == Batch.model_fields.keys()


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("field", BATCH_CHANGES)
def test_a_changed_field_of_a_batch_is_noticed(field: str, number: int) -> None:
    value = BATCH_CHANGES[field]
    if field == "request_digest":
        batches = list(RECORD["batches"])
        batches[number] = batches[number] | {field: OTHER}
        refuse(RECORD | {"batches": batches}, "request_digest")
    else:
        refuse(batch_changed(number, **{field: value}), "foundation model")


def test_batches_are_neither_dropped_doubled_nor_exchanged() -> None:
    first, second, last = RECORD["batches"]
    for batches in (
        [],
        [first, second],
        [second, last],
        [first, second, last, last],
        [first, second, second, last],
        [last, second, first],
    ):
        refuse(with_batches(batches), "foundation model")
    # Two of one size in each other's place: what was sent first shows in the request digest.
    refuse(RECORD | {"batches": [second, first, last]}, "request_digest")


def unanswered(*numbers: int) -> list[dict[str, Any]]:
    return [
        batch | ({"answer_digest": None, "cost": None, "seconds": None} if at in numbers else {})
        for at, batch in enumerate(RECORD["batches"])
    ]


REFUSED = {"outcome": "refused", "answer_digest": None, "answer_shape": None}


def test_a_call_that_failed_in_its_second_batch_is_a_true_record() -> None:
    batches = unanswered(1)[:2]
    check(with_batches(batches, **REFUSED, seconds=0.25, cost="0.5"))
    refuse(with_batches(batches, seconds=0.25, cost="0.5"), "says answered")


def test_nothing_is_sent_after_a_batch_without_an_answer() -> None:
    batches = unanswered(1)
    refuse(with_batches(batches, **REFUSED, seconds=0.5, cost="1.0"), "after one without answer")


def test_an_answer_that_is_denied_is_noticed() -> None:
    refuse(RECORD | {"outcome": "refused"}, "denies")
    refuse(RECORD | {"outcome": "refused", "answer_digest": None}, "denies")


@pytest.mark.parametrize(
    "entries",
    [
        {"idempotent": True},
        {"provider": "local-onnx", "url": None, "weights_digest": OTHER},
    ],
)
def test_a_repeated_batch_is_allowed_where_the_charter_says_so(entries: dict[str, object]) -> None:
    charter = make_charter_kit().charter(foundation_model=entries | {"batch_images": 3})
    local = "provider" in entries
    where = {"address": None, "tls_key": None} if local else {}
    record = CallRecord.model_validate(
        CallRecord(**_python(call_record(charter))).model_copy(
            update={
                "batches": tuple(
                    Batch(**(batch | where | {"attempts": 2}))
                    for batch in call_record(charter)["batches"]
                )
            }
        )
    )
    check_call(record, charter)


def _python(document: dict[str, Any]) -> dict[str, Any]:
    return document | {
        "batches": tuple(Batch(**batch) for batch in document["batches"]),
        "answer_shape": tuple(document["answer_shape"]),
        "earlier": (),
    }
