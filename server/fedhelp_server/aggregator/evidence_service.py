"""The Evidence service: the Merkle log, and what others may add to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage, PolicyError
from fedhelp_secure.evidence.cosignature import open_cosigned
from fedhelp_secure.signing import open_document
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.transport.server import caller
from fedhelp_secure.wire.v1 import evidence_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2 import AnswerHeader
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceServicer
from fedhelp_server.aggregator.certificates import Certificates
from fedhelp_server.aggregator.journal import Journal, unix_milliseconds, write_entry
from fedhelp_server.aggregator.limits import CALLS_EACH, CallLimit, Capacity
from fedhelp_server.aggregator.membership import check_charter_digest, custodians_of, member_key
from fedhelp_server.aggregator.store import StoredSubmission

MAXIMUM_ENVELOPE_BYTES = 256 * 1024

KIND_OF_ROLE = {
    Role.BROKER: "foundation-model-call",
    Role.AUDITOR: "report",
    Role.HOSPITAL: "ledger-head",
}
"""The one kind of statement that each role may submit; it is the DSSE kind too."""

SUBMISSIONS_PER_ROUND = 8
SUBMISSIONS_BESIDES = 16


class KindRefused(PolicyError):
    """A statement of a kind that the caller's role does not submit."""

    code = "submission-kind"


class TooManySubmissions(PolicyError):
    """A party has submitted as many statements as the log takes from one."""

    code = "too-many-submissions"


class OutsideLog(MalformedMessage):
    """Entries were asked for that the log does not have."""

    code = "outside-log"


class CosignedElsewhere(MalformedMessage):
    """A cosigned checkpoint is not one of this log."""

    code = "cosigned-elsewhere"


class Evidence(EvidenceServicer):
    """Checkpoints, proofs, entries, submissions, objects."""

    def __init__(
        self, charter: Charter, journal: Journal, *, certificates: Certificates, room: Capacity
    ) -> None:
        self._charter = charter
        self._charter_digest = charter.digest
        self._journal = journal
        self._certificates = certificates
        self._store = journal.store
        self._log = journal.log
        self._downloads = CallLimit(each=CALLS_EACH, total=room.downloads)
        self._most = SUBMISSIONS_PER_ROUND * charter.rounds.count + SUBMISSIONS_BESIDES

    def GetCheckpoint(  # noqa: N802
        self, request: wire.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> wire.GetCheckpointResponse:
        """The newest signed checkpoint, and what time it is here."""
        # Before the checkpoint: none is then of a larger tree than that.
        cosigned = self._store.cosigned()
        return wire.GetCheckpointResponse(
            checkpoint=self._log.checkpoint(),
            unix_milliseconds=unix_milliseconds(),
            cosigned=cosigned,
        )

    def Cosign(  # noqa: N802
        self, request: wire.CosignRequest, context: grpc.ServicerContext
    ) -> wire.CosignResponse:
        """Keep the caller's cosignature, in the place of one of a smaller tree."""
        who = caller(context)
        member_key(self._charter, who)
        checkpoint = open_cosigned(
            request.checkpoint, charter=self._charter, witness=who
        ).checkpoint
        size = checkpoint.size
        if size > self._log.size or self._log.root(size) != checkpoint.root:
            # It has our signature, so that this log was restored, or our key signs another one.
            raise CosignedElsewhere(
                "this checkpoint is not of the log that is kept here; keep it, and tell an auditor."
            )
        with self._journal.change() as change:
            change.set_cosigned(who.uri, size, request.checkpoint)
        self._certificates.remember(context)
        return wire.CosignResponse()

    def GetInclusionProof(  # noqa: N802
        self, request: wire.GetInclusionProofRequest, context: grpc.ServicerContext
    ) -> wire.GetInclusionProofResponse:
        """RFC 6962 audit path."""
        path = self._log.inclusion_proof(request.index, request.tree_size)
        return wire.GetInclusionProofResponse(path=path)

    def GetConsistencyProof(  # noqa: N802
        self, request: wire.GetConsistencyProofRequest, context: grpc.ServicerContext
    ) -> wire.GetConsistencyProofResponse:
        """RFC 6962 consistency proof."""
        path = self._log.consistency_proof(request.first_size, request.second_size)
        return wire.GetConsistencyProofResponse(path=path)

    def ListEntries(  # noqa: N802
        self, request: wire.ListEntriesRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListEntriesResponse]:
        """Entries from ``start`` to before ``end``; 0 means the present size."""
        size = self._log.size
        end = request.end or size
        if not request.start <= end <= size:
            raise OutsideLog(f"the log has {size} entries; ask for a range within them.")
        with self._downloads.slot(caller(context).uri):
            for index in range(request.start, end):
                yield wire.ListEntriesResponse(index=index, entry=self._log.entry(index))

    def Submit(  # noqa: N802
        self, request: wire.SubmitRequest, context: grpc.ServicerContext
    ) -> wire.SubmitResponse:
        """Log a statement that the caller signed; equal bytes again give the same receipt."""
        who = caller(context)
        self._check_statement(who, request)
        position = self._submitted(who, request)
        self._certificates.remember(context)
        return wire.SubmitResponse(receipt=self._journal.receipt(position))

    def ListObjects(  # noqa: N802
        self, request: wire.ListObjectsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListObjectsResponse]:
        """The signed envelopes that log entries name by digest, round by round."""
        with self._download(request.charter_digest, context):
            for stored in self._store.rounds():
                yield from self._objects_of_round(stored.number)
            for submission in self._store.submissions():
                yield wire.ListObjectsResponse(kind="submitted", envelope=submission.envelope)

    def ListCertificates(  # noqa: N802
        self, request: wire.ListCertificatesRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListCertificatesResponse]:
        """What `Certificates` has kept."""
        with self._download(request.charter_digest, context):
            for chain, trust_list in self._store.certificates():
                yield wire.ListCertificatesResponse(chain=chain, trust_list=trust_list)

    @contextlib.contextmanager
    def _download(self, charter_digest: str, context: grpc.ServicerContext) -> Iterator[None]:
        """One download of a member of the charter, which must be the one that is meant."""
        who = caller(context)
        check_charter_digest(charter_digest, self._charter_digest)
        member_key(self._charter, who)
        with self._downloads.slot(who.uri):
            yield

    def _objects_of_round(self, number: int) -> Iterator[wire.ListObjectsResponse]:
        for contribution in self._store.contributions(number):
            yield wire.ListObjectsResponse(kind="manifest", envelope=contribution.manifest)
        for custodian in custodians_of(self._charter):
            answer = self._store.answer(number, custodian)
            if answer is not None:
                yield wire.ListObjectsResponse(
                    kind=f"{custodian.role.value}-statement",
                    envelope=AnswerHeader.FromString(answer.header).statement,
                )

    def _check_statement(self, who: Identity, request: wire.SubmitRequest) -> None:
        key = member_key(self._charter, who)
        kind = KIND_OF_ROLE[who.role]
        if request.kind != kind:
            raise KindRefused(f"a {who.role.value} submits statements of the kind {kind} only.")
        if not 0 < len(request.envelope) <= MAXIMUM_ENVELOPE_BYTES:
            raise MalformedMessage("a statement has 1 byte to 256 KiB; submit a shorter one.")
        open_document(kind, request.envelope, key)

    def _submitted(self, who: Identity, request: wire.SubmitRequest) -> int:
        """Index of the log entry for the statement, made now unless it is there already."""
        envelope_digest = digest(request.envelope)
        with self._journal.lock:
            earlier = self._store.submission(who.uri, request.kind, envelope_digest)
            if earlier is not None:
                return earlier.position
            if self._store.submissions_by(who.uri) >= self._most:
                raise TooManySubmissions(
                    f"the log takes {self._most} statements of one party; keep the rest yourself."
                )
            event = wire.StatementSubmitted(
                submitter=who.uri, kind=request.kind, envelope_digest=envelope_digest
            )
            with self._journal.change() as change:
                position = write_entry(change, wire.LogEntry(statement_submitted=event))
                change.add_submission(
                    StoredSubmission(
                        submitter=who.uri,
                        kind=request.kind,
                        envelope_digest=envelope_digest,
                        envelope=request.envelope,
                        position=position,
                    )
                )
            return position
