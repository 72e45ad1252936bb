"""Step 10 of the verifier: the foundation model was asked at most once, about public images."""

from __future__ import annotations

from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_log import Record, submitted
from fedhelp_secure.signing import open_document
from fedhelp_secure.transport.identity import Identity, Role

CALL_KIND = "foundation-model-call"


def check_calls(record: Record) -> int:
    """Step 10: the number of calls to the foundation model, 0 or 1.

    The record must be the charter's broker's, signed by it, and about the charter's proxy set.
    """
    charter = record.charter
    calls = [statement for statement in submitted(record) if statement.kind == CALL_KIND]
    if len(calls) > 1:
        raise BundleRefused(f"the log has {len(calls)} calls to the foundation model, not one.")
    broker = Identity(charter.federation, Role.BROKER, charter.broker.name)
    for call in calls:
        if call.submitter != broker.uri:
            raise BundleRefused("a call to the foundation model is not the charter's broker's.")
        envelope = record.objects[call.envelope_digest]
        document = open_document(CALL_KIND, envelope, charter.broker.verifying_key())
        if document.get("charter") != charter.digest:
            raise BundleRefused("a call to the foundation model was for another charter.")
        if document.get("proxy_digest") != charter.proxy.digest:
            raise BundleRefused("a call to the foundation model was about other images.")
    return len(calls)
