from __future__ import annotations

import pytest
from support.federation import Federation

from fedhelp_secure.evidence.entries import serialise_entry
from fedhelp_secure.evidence.events.event import AuditEvent, audit_event
from fedhelp_secure.evidence.events.vocabulary import EVENTS, STATEMENTS
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import evidence_pb2 as wire


@pytest.fixture(scope="session")
def entries(federation: Federation) -> list[wire.LogEntry]:
    """One entry of every kind, and one statement of every kind and of none."""
    digests = [f"sha256:{number:064x}" for number in range(4)]
    charter = federation.charter.digest
    broker = federation.state(Role.BROKER).identity.uri
    accepted = wire.ContributionAccepted(
        charter_digest=charter,
        round=3,
        hospital="small-1",
        manifest_digest=digests[1],
        ciphertext_digest=digests[2],
        ciphertext_bytes=2**64 - 1,
    )
    rejected = wire.ContributionRejected(
        charter_digest=charter, round=3, hospital="small-1", code="not-enrolled"
    )
    closed = wire.RoundClosed(charter_digest=charter, round=3, hospitals=["large-1", "small-1"])
    summed = wire.RoundSummed(
        charter_digest=charter,
        round=3,
        sum_digest=digests[0],
        decryptor_statement_digest=digests[1],
        unmasker_statement_digests=digests[2:],
    )
    statements = [
        wire.StatementSubmitted(submitter=broker, kind=kind, envelope_digest=digests[3])
        for kind in (*STATEMENTS, "of-nobody")
    ]
    opened = wire.RoundOpened(charter_digest=charter, round=3, round_begun_digests=digests)
    found = [
        wire.LogEntry(charter_adopted=wire.CharterAdopted(charter_digest=charter)),
        wire.LogEntry(round_opened=opened),
        wire.LogEntry(contribution_accepted=accepted),
        wire.LogEntry(contribution_rejected=rejected),
        wire.LogEntry(round_closed=closed),
        wire.LogEntry(round_summed=summed),
        wire.LogEntry(
            round_failed=wire.RoundFailed(charter_digest=charter, round=3, code="cohort")
        ),
        wire.LogEntry(
            session_taken_over=wire.SessionTakenOver(
                charter_digest=charter, hospital="small-1", times=2
            )
        ),
        *(wire.LogEntry(statement_submitted=statement) for statement in statements),
    ]
    for number, entry in enumerate(found):
        entry.unix_milliseconds = 1_700_000_000_000 + number
    assert {str(entry.WhichOneof("event")) for entry in found} == {*EVENTS, "statement_submitted"}
    return found


@pytest.fixture(scope="session")
def events(federation: Federation, entries: list[wire.LogEntry]) -> list[AuditEvent]:
    return [event_of(federation, index, entry) for index, entry in enumerate(entries)]


def event_of(federation: Federation, index: int, entry: wire.LogEntry) -> AuditEvent:
    charter = federation.charter
    return audit_event(charter, log_origin(charter), index, serialise_entry(entry), entry)
