"""What a verified bundle holds, parsed once, and where in it each kind of proof is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, SignedParty
from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.evidence import (
    layout,
    verify_certificates,
    verify_ledgers,
    verify_log,
    verify_rounds,
)
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify import Verdict, verify_bundle
from fedhelp_secure.evidence.verify_certificates import Certificates
from fedhelp_secure.evidence.verify_epochs import KEY_KINDS
from fedhelp_secure.evidence.verify_ledgers import Budget
from fedhelp_secure.evidence.verify_log import Record
from fedhelp_secure.evidence.verify_rounds import Accepted, Rounds
from fedhelp_secure.foundation_model import KIND as CALL_KIND
from fedhelp_secure.foundation_model import CallRecord, open_record
from fedhelp_secure.report.document import Evidence
from fedhelp_secure.secure_sum.epochs import DESTROYED_KIND
from fedhelp_secure.signing import VerifyingKey, open_document

Topic = Literal[
    "charter",
    "governance",
    "adoption",
    "log",
    "checkpoint",
    "contributions",
    "manifests",
    "receipts",
    "rounds",
    "custodians",
    "ledgers",
    "call",
    "epochs",
    "destroyed",
    "incidents",
    "results",
    "index",
    "witnesses",
    "certificates",
    "trust",
]
TOPICS: tuple[Topic, ...] = get_args(Topic)

_FILES: Mapping[Topic, str] = {
    "charter": layout.CHARTER,
    "governance": layout.GOVERNANCE_KEY,
    "log": layout.ENTRIES,
    "checkpoint": layout.CHECKPOINT,
    "results": layout.REPORT_JSON,
    "index": layout.INDEX,
}
_FOLDERS: Mapping[Topic, str] = {
    "receipts": "receipts/",
    "ledgers": "ledgers/",
    "witnesses": "log/cosigned/",
    "certificates": "certificates/",
    "trust": "trust/",
}

INCIDENTS = ("contribution_rejected", "round_failed", "session_taken_over")
"""Events of the log that somebody should look at."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Every part of it was verified before."""

    verdict: Verdict
    files: BundleFiles
    index_digest: str
    index_signer: SignedParty
    """The auditor of the charter who signed the index."""
    record: Record
    accepted: tuple[Accepted, ...]
    rounds: Rounds
    budgets: Mapping[str, tuple[Budget, ...]]
    call: CallRecord | None
    certificates: Certificates

    @property
    def charter(self) -> Charter:
        """What the parties agreed on."""
        return self.record.charter

    @property
    def unix_seconds(self) -> int:
        """Of the log's last entry."""
        return self.record.entries[-1].unix_milliseconds // 1000

    def moment(self, index: int) -> str:
        """When entry ``index`` was made, by the log's clock."""
        return utc(self.record.entries[index].unix_milliseconds // 1000)

    def events(self, *names: str) -> Iterator[tuple[int, str]]:
        """Index and name of the log's events of these kinds."""
        for index, entry in enumerate(self.record.entries):
            name = str(entry.WhichOneof("event"))
            if name in names:
                yield index, name

    def statements(self, *kinds: str) -> tuple[int, ...]:
        """Indices of the entries with statements of these kinds."""
        return tuple(
            index
            for index, _ in self.events("statement_submitted")
            if self.record.entries[index].statement_submitted.kind in kinds
        )

    def cite(self, topic: Topic) -> tuple[Evidence, ...]:
        """Where the bundle has its proofs of ``topic``; empty if it has none."""
        if topic in _FILES:
            return (file(_FILES[topic]),)
        if topic in _FOLDERS:
            return self._cite_files(_FOLDERS[topic])
        match topic:
            case "adoption":
                return (entry(0),)
            case "manifests":
                return tuple(object_(item.event.manifest_digest) for item in self.accepted)
            case _:
                return self._cite_entries(topic)

    def _cite_files(self, folder: str) -> tuple[Evidence, ...]:
        # Not in the file system's order: the same bundle must give the same report.
        return tuple(file(path) for path in sorted(self.files) if path.startswith(folder))

    def _cite_entries(self, topic: Topic) -> tuple[Evidence, ...]:
        match topic:
            case "contributions":
                return tuple(entry(item.index) for item in self.accepted)
            case "rounds":
                return entries(self, "round_closed", "round_summed", "round_failed")
            case "custodians":
                return tuple(
                    object_(name)
                    for index, _ in self.events("round_summed")
                    for event in (self.record.entries[index].round_summed,)
                    for name in (
                        event.decryptor_statement_digest,
                        *event.unmasker_statement_digests,
                    )
                )
            case "call":
                return statement_evidence(self, CALL_KIND)
            case "epochs":
                return tuple(entry(index) for index in self.statements(*KEY_KINDS))
            case "destroyed":
                return tuple(entry(index) for index in self.statements(DESTROYED_KIND))
            case _:
                return entries(self, *INCIDENTS)


def read_facts(directory: Path, *, governance_key: VerifyingKey | None = None) -> Facts:
    """Verify the bundle in ``directory``, every step, and parse it.

    Raises StepFailed if a step fails, BundleRefused if the bundle changed meanwhile.
    """
    before = _index(directory)
    verdict = verify_bundle(directory, governance_key=governance_key)
    files = verify_log.check_index(directory)
    if _index(directory) != before:
        raise BundleRefused("the bundle was changed while it was read; run the command again.")
    charter = verify_log.check_charter(files, governance_key).charter
    tree = verify_log.check_tree(files, verify_log.check_checkpoint(files, charter))
    record = verify_log.check_objects(files, charter, tree)
    accepted = verify_rounds.check_manifests(record)
    rounds = verify_rounds.check_rounds(record, accepted)
    return Facts(
        verdict=verdict,
        files=files,
        index_digest=digest(before),
        index_signer=signer_of(before, charter),
        record=record,
        accepted=accepted,
        rounds=rounds,
        budgets=verify_ledgers.recompute_ledgers(files, charter, accepted, rounds=rounds),
        call=_call(record),
        certificates=verify_certificates.check_certificates(files, record),
    )


def _index(directory: Path) -> bytes:
    return layout.required(layout.read_files(directory), layout.INDEX)


def signer_of(index: bytes, charter: Charter) -> SignedParty:
    """Who of the charter's auditors signed ``index``; raises BundleRefused if none did."""
    for auditor in charter.auditors:
        try:
            open_document(layout.INDEX_KIND, index, auditor.verifying_key())
        except SignatureRefused:
            continue
        return auditor
    raise BundleRefused("index.json is signed by no auditor of the verified charter.")


def _call(record: Record) -> CallRecord | None:
    for statement in verify_log.submitted(record):
        if statement.kind == CALL_KIND:
            envelope = record.objects[statement.envelope_digest]
            return open_record(envelope, record.charter.broker.verifying_key())
    return None


def entry(index: int) -> Evidence:
    """An entry of the log."""
    return Evidence("entry", str(index))


def object_(name: str) -> Evidence:
    """A signed envelope that the log names by digest."""
    return Evidence("object", name)


def file(path: str) -> Evidence:
    """A file of the bundle."""
    return Evidence("file", path)


def entries(facts: Facts, *names: str) -> tuple[Evidence, ...]:
    """The log's events of these kinds."""
    return tuple(entry(index) for index, _ in facts.events(*names))


def statement_evidence(facts: Facts, kind: str) -> tuple[Evidence, ...]:
    """The entries with statements of this kind, each with the statement."""
    return tuple(
        item
        for index in facts.statements(kind)
        for item in (
            entry(index),
            object_(facts.record.entries[index].statement_submitted.envelope_digest),
        )
    )


def utc(unix_seconds: int) -> str:
    """A moment as people write it: 2026-01-31 09:30:00 UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
