"""Step 11 of the verifier: the foundation model was asked at most once, about public images."""

from __future__ import annotations

from fedhelp_secure.charter import Charter
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_log import Record, submitted
from fedhelp_secure.foundation_model import (
    EMBEDDING_WIDTH,
    KIND,
    CallRecord,
    batch_sizes,
    cost_of,
    idempotency_key,
    open_record,
    repeatable,
    request_digest_of,
    seconds_of,
)
from fedhelp_secure.transport.identity import Identity, Role

_FINAL = frozenset({"answered", "refused", "abandoned"})
"""Outcomes after which a broker never calls again."""


def check_calls(record: Record) -> int:
    """Step 11: the number of calls to the foundation model, 0 or 1.

    Its record must be final, signed by the charter's broker, about the charter's purpose, provider,
    model, host and public proxy set, asked for by one of its parties, in the charter's batches,
    none of them sent twice unless its provider guarantees that this is harmless.
    """
    charter = record.charter
    calls = [statement for statement in submitted(record) if statement.kind == KIND]
    if len(calls) > 1:
        raise BundleRefused(f"the log has {len(calls)} calls to the foundation model, not one.")
    broker = Identity(charter.federation, Role.BROKER, charter.broker.name)
    for call in calls:
        if call.submitter != broker.uri:
            raise BundleRefused("a call to the foundation model is not the charter's broker's.")
        envelope = record.objects[call.envelope_digest]
        check_call(open_record(envelope, charter.broker.verifying_key()), charter)
    return len(calls)


def check_call(call: CallRecord, charter: Charter) -> None:
    """Raises BundleRefused unless ``call`` is a whole, final call as ``charter`` allows it."""
    agreed = charter.foundation_model
    pairs = (
        ("charter", call.charter, charter.digest),
        ("proxy_digest", call.proxy_digest, charter.proxy.digest),
        ("purpose", call.purpose, agreed.purpose),
        ("provider", call.provider, agreed.provider),
        ("model", call.model, agreed.model),
        ("host", call.host, agreed.host),
        ("idempotency_key", call.idempotency_key, idempotency_key(charter)),
        ("request_digest", call.request_digest, request_digest_of(call.batches)),
        ("seconds", call.seconds, seconds_of(call.batches)),
        ("cost", call.cost, cost_of(call.batches)),
    )
    for field, recorded, pinned in pairs:
        if recorded != pinned:
            raise BundleRefused(
                f"the call to the foundation model has another {field} than agreed."
            )
    if call.outcome not in _FINAL:
        raise BundleRefused("the call to the foundation model has no final outcome yet.")
    _check_who_and_when(call, charter)
    _check_batches(call, charter)
    _check_answer(call, charter)


def _check_who_and_when(call: CallRecord, charter: Charter) -> None:
    parties = [
        *(Identity(charter.federation, Role.HOSPITAL, party.name) for party in charter.hospitals),
        *(Identity(charter.federation, Role.AUDITOR, party.name) for party in charter.auditors),
    ]
    if call.requested_by not in {party.uri for party in parties}:
        raise BundleRefused("the call to the foundation model was asked for by no party.")
    # In this form moments are ordered as texts.
    moments = [call.called_at, *(batch.sent_at for batch in call.batches), call.recorded_at]
    if moments != sorted(moments):
        raise BundleRefused("the call to the foundation model has its moments out of order.")


def _check_batches(call: CallRecord, charter: Charter) -> None:
    """What was sent is the charter's division of the proxy set, or a beginning of it."""
    sizes = [batch.images for batch in call.batches]
    if not sizes or sizes != batch_sizes(charter)[: len(sizes)]:
        raise BundleRefused("the call to the foundation model has other batches than agreed.")
    local = charter.foundation_model.provider == "local-onnx"
    for batch in call.batches:
        if local != (batch.address is None) or local != (batch.tls_key is None):
            raise BundleRefused("a batch to the foundation model does not say where it went.")
        if batch.attempts > 1 and not repeatable(charter):
            raise BundleRefused("a batch to the foundation model was sent more than once.")
    # Only the last one sent can be without an answer: nothing is sent after a batch that was lost.
    if any(batch.answer_digest is None for batch in call.batches[:-1]):
        raise BundleRefused("a batch to the foundation model was sent after one without answer.")


def _check_answer(call: CallRecord, charter: Charter) -> None:
    answered = call.outcome == "answered"
    shape = (charter.proxy.count, EMBEDDING_WIDTH)
    complete = len(call.batches) == len(batch_sizes(charter))
    has_all = complete and call.batches[-1].answer_digest is not None
    if answered and not (has_all and call.answer_digest and call.answer_shape == shape):
        raise BundleRefused("the call to the foundation model says answered, but is not.")
    if not answered and (call.answer_digest is not None or call.answer_shape is not None):
        raise BundleRefused("the call to the foundation model has an answer that it denies.")
