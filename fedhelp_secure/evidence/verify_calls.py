"""Step 11 of the verifier: the foundation model was asked at most once, about public images."""

from __future__ import annotations

from fedhelp_secure.charter import Charter
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_log import Record, submitted
from fedhelp_secure.foundation_model import KIND, CallRecord, host_of, open_record
from fedhelp_secure.transport.identity import Identity, Role

_FINAL = frozenset({"answered", "refused", "abandoned"})
"""Outcomes after which a broker never calls again."""


def check_calls(record: Record) -> int:
    """Step 11: the number of calls to the foundation model, 0 or 1.

    Its record must be final, signed by the charter's broker, and about the charter's purpose,
    model, host and public proxy set.
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
        _check_call(open_record(envelope, charter.broker.verifying_key()), charter)
    return len(calls)


def _check_call(call: CallRecord, charter: Charter) -> None:
    agreed = charter.foundation_model
    pairs = (
        ("charter", call.charter, charter.digest),
        ("proxy_digest", call.proxy_digest, charter.proxy.digest),
        ("purpose", call.purpose, agreed.purpose),
        ("model", call.model, agreed.model),
        ("host", call.host, host_of(charter)),
    )
    for field, recorded, pinned in pairs:
        if recorded != pinned:
            raise BundleRefused(
                f"the call to the foundation model has another {field} than agreed."
            )
    if call.outcome not in _FINAL:
        raise BundleRefused("the call to the foundation model has no final outcome yet.")
