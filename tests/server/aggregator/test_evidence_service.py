"""The Evidence service over mTLS: proofs that check, submissions, objects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.aggregator import AggregatorServer, charter_of
from support.federation import Federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from fedhelp_secure.evidence.cosignature import cosign
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import check_consistency, check_inclusion, leaf_hash
from fedhelp_secure.evidence.receipts import check_receipt
from fedhelp_secure.transport.client import PeerRefused, translated_errors
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1 import coordinator_pb2
from fedhelp_secure.wire.v1 import evidence_pb2 as wire
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.evidence_service import (
    MAXIMUM_ENVELOPE_BYTES,
    SUBMISSIONS_BESIDES,
    SUBMISSIONS_PER_ROUND,
)


@pytest.fixture
def running(
    federation: Federation, addresses: CustodianAddresses, tmp_path: Path
) -> Iterator[AggregatorServer]:
    charter = charter_of(federation, "evidence", rounds={"count": 1})
    with AggregatorServer(federation, tmp_path, charter, addresses) as server:
        server.party("large-1").wait_for(coordinator_pb2.ROUND_STATE_OPEN)
        yield server


SUBMITTERS = [
    (Role.BROKER, "foundation-model-call"),
    (Role.AUDITOR, "report"),
    ("small-1", "ledger-head"),
]


def _signed(running: AggregatorServer, party: str | Role, kind: str, number: int = 1) -> bytes:
    key = running.federation.state(party).signing_key()
    return key.sign_document(kind, {"number": number})


def test_the_log_can_be_checked_from_outside(running: AggregatorServer) -> None:
    party = running.party("large-1")
    stub = party.evidence
    key, origin = running.charter.aggregator.verifying_key(), log_origin(running.charter)
    first = open_checkpoint(
        stub.GetCheckpoint(wire.GetCheckpointRequest()).checkpoint, origin=origin, key=key
    )
    size = first.size
    party.submit("ledger-head", _signed(running, "large-1", "ledger-head"))
    second = open_checkpoint(
        stub.GetCheckpoint(wire.GetCheckpointRequest()).checkpoint, origin=origin, key=key
    )
    assert second.size == size + 1
    request = wire.GetConsistencyProofRequest(first_size=size, second_size=size + 1)
    check_consistency(
        size,
        size + 1,
        first_root=first.root,
        second_root=second.root,
        path=list(stub.GetConsistencyProof(request).path),
    )
    for item in stub.ListEntries(wire.ListEntriesRequest(start=1, end=size + 1)):
        wanted = wire.GetInclusionProofRequest(index=item.index, tree_size=size + 1)
        proof = stub.GetInclusionProof(wanted)
        check_inclusion(
            leaf_hash(item.entry),
            item.index,
            size=size + 1,
            path=list(proof.path),
            root=second.root,
        )


def _cosigned(running: AggregatorServer, party: str | Role, note: bytes) -> wire.CosignRequest:
    state = running.federation.state(party)
    whole = cosign(
        note,
        charter=running.charter,
        witness=state.identity,
        key=state.signing_key(),
        now=1_800_000_000,
    )
    return wire.CosignRequest(checkpoint=whole)


def _head(running: AggregatorServer, size: int, root: bytes) -> bytes:
    head = Checkpoint(log_origin(running.charter), size, root)
    return sign_checkpoint(head, running.federation.state(Role.AGGREGATOR).signing_key())


def test_the_newest_cosignature_of_each_witness_is_kept(running: AggregatorServer) -> None:
    party = running.party("small-1")
    before = party.evidence.GetCheckpoint(wire.GetCheckpointRequest())
    assert list(before.cosigned) == []
    old = _cosigned(running, "small-1", before.checkpoint)
    party.evidence.Cosign(old)
    party.submit("ledger-head", _signed(running, "small-1", "ledger-head"))
    after = party.evidence.GetCheckpoint(wire.GetCheckpointRequest())
    assert list(after.cosigned) == [old.checkpoint]
    new = _cosigned(running, "small-1", after.checkpoint)
    auditor = _cosigned(running, Role.AUDITOR, after.checkpoint)
    party.evidence.Cosign(new)
    running.party(Role.AUDITOR).evidence.Cosign(auditor)
    # An older one does not come back.
    party.evidence.Cosign(old)
    shown = party.evidence.GetCheckpoint(wire.GetCheckpointRequest())
    assert sorted(shown.cosigned) == sorted([new.checkpoint, auditor.checkpoint])
    assert shown.checkpoint == after.checkpoint


def test_a_wrong_cosignature_is_refused(running: AggregatorServer) -> None:
    stub = running.party("small-1").evidence
    note = stub.GetCheckpoint(wire.GetCheckpointRequest()).checkpoint
    size = len(running.entries())
    others = _cosigned(running, "small-2", note)
    cases = [
        (b"", "malformed"),
        (note, "malformed"),
        (others.checkpoint, "signature"),
        (note + others.checkpoint[len(note) :] * 2, "malformed"),
        # Signed by the aggregator's key, and of another log.
        (
            _cosigned(running, "small-1", _head(running, size, bytes(32))).checkpoint,
            "cosigned-elsewhere",
        ),
        (
            _cosigned(running, "small-1", _head(running, 999, bytes(32))).checkpoint,
            "cosigned-elsewhere",
        ),
    ]
    for checkpoint, code in cases:
        with pytest.raises(PeerRefused) as refused, translated_errors():
            stub.Cosign(wire.CosignRequest(checkpoint=checkpoint))
        assert refused.value.code == code, checkpoint
    with pytest.raises(PeerRefused) as refused, translated_errors():
        running.party(Role.BROKER).evidence.Cosign(_cosigned(running, "small-1", note))
    assert refused.value.code == "access"
    assert list(stub.GetCheckpoint(wire.GetCheckpointRequest()).cosigned) == []


@pytest.mark.parametrize(("start", "end"), [(0, 99), (2, 1), (99, 0)])
def test_entries_beyond_the_log_are_refused(
    running: AggregatorServer, start: int, end: int
) -> None:
    stub = running.party("large-1").evidence
    with pytest.raises(PeerRefused) as refused, translated_errors():
        list(stub.ListEntries(wire.ListEntriesRequest(start=start, end=end)))
    assert refused.value.code == "outside-log"


@pytest.mark.parametrize(("party", "kind"), SUBMITTERS)
def test_each_role_submits_its_own_kind_once(
    running: AggregatorServer, party: str | Role, kind: str
) -> None:
    envelope = _signed(running, party, kind)
    submitter = running.party(party)
    receipt = submitter.submit(kind, envelope)
    entry = check_receipt(
        receipt,
        log_key=running.charter.aggregator.verifying_key(),
        origin=log_origin(running.charter),
    )
    assert entry.statement_submitted.submitter == submitter.state.identity.uri
    assert entry.statement_submitted.kind == kind
    assert entry.statement_submitted.envelope_digest == digest(envelope)
    submitter.submit(kind, _signed(running, party, kind, 2))
    assert submitter.submit(kind, envelope) == receipt
    # After each custodian's epoch, and that it began the round.
    assert len(running.entries()) == 2 + 4 + 2
    assert [kind for kind, _ in running.party(Role.AUDITOR).objects()] == ["submitted"] * 6
    assert running.party(Role.AUDITOR).objects()[4][1] == envelope


@pytest.mark.parametrize(
    ("party", "kind", "signer", "code"),
    [
        (Role.BROKER, "report", Role.BROKER, "submission-kind"),
        ("small-1", "foundation-model-call", "small-1", "submission-kind"),
        ("small-1", "", "small-1", "submission-kind"),
        ("small-1", "ledger-head", "small-2", "signature"),
        (Role.AUDITOR, "report", Role.BROKER, "signature"),
        (Role.DECRYPTOR, "report", Role.DECRYPTOR, "access"),
    ],
)
def test_a_wrong_submission_is_refused(
    running: AggregatorServer, party: str | Role, kind: str, signer: str | Role, code: str
) -> None:
    with pytest.raises(PeerRefused) as refused:
        running.party(party).submit(kind, _signed(running, signer, kind or "ledger-head"))
    assert refused.value.code == code
    assert len(running.entries()) == 2 + 4


@pytest.mark.parametrize("envelope", [b"", b"not an envelope", b"{}"])
def test_bytes_that_are_no_envelope_are_refused(running: AggregatorServer, envelope: bytes) -> None:
    with pytest.raises(PeerRefused) as refused:
        running.party("small-1").submit("ledger-head", envelope)
    assert refused.value.code == "malformed"


def test_a_statement_over_its_size_is_refused(running: AggregatorServer) -> None:
    key = running.federation.state("small-1").signing_key()
    long = key.sign_document("ledger-head", {"text": "x" * MAXIMUM_ENVELOPE_BYTES})
    with pytest.raises(PeerRefused, match="256 KiB"):
        running.party("small-1").submit("ledger-head", long)


def test_a_statement_signed_for_another_kind_is_refused(running: AggregatorServer) -> None:
    with pytest.raises(PeerRefused) as refused:
        running.party("small-1").submit("ledger-head", _signed(running, "small-1", "manifest"))
    assert refused.value.code == "malformed"


def test_one_party_cannot_fill_the_log(running: AggregatorServer) -> None:
    most = SUBMISSIONS_PER_ROUND * running.charter.rounds.count + SUBMISSIONS_BESIDES
    party = running.party("small-1")
    for number in range(most):
        party.submit("ledger-head", _signed(running, "small-1", "ledger-head", number))
    with pytest.raises(PeerRefused) as refused:
        party.submit("ledger-head", _signed(running, "small-1", "ledger-head", most))
    assert refused.value.code == "too-many-submissions"
    # What is there can still be sent again, and others are not affected.
    party.submit("ledger-head", _signed(running, "small-1", "ledger-head", 0))
    running.party("small-2").submit("ledger-head", _signed(running, "small-2", "ledger-head"))


def test_only_auditors_list_objects_and_only_of_this_charter(running: AggregatorServer) -> None:
    with pytest.raises(PeerRefused) as refused:
        running.party("small-1").objects()
    assert refused.value.code == "access"
    request = wire.ListObjectsRequest(charter_digest=digest(b"another"))
    with pytest.raises(PeerRefused) as refused, translated_errors():
        list(running.party(Role.AUDITOR).evidence.ListObjects(request))
    assert refused.value.code == "other-charter"


def test_submissions_survive_a_restart(federation: Federation, tmp_path: Path) -> None:
    nowhere = CustodianAddresses("127.0.0.1:1", ("127.0.0.1:1",))
    charter = charter_of(federation, "submissions", rounds={"count": 1})
    server = AggregatorServer(federation, tmp_path, charter, nowhere)
    with server as running:
        envelope = _signed(running, Role.BROKER, "foundation-model-call")
        receipt = running.party(Role.BROKER).submit("foundation-model-call", envelope)
    with server as running:
        assert running.party(Role.BROKER).submit("foundation-model-call", envelope) == receipt
        assert len(running.entries()) == receipt.index + 1
