"""A true evidence bundle of a small federation, and the means to make false ones.

`tell` runs the federation's rounds with product code only: real ledgers, contributions, custodians'
answers, log entries. A `Story` is what happened; changing it before `Story.write` is what a
dishonest aggregator does, since the log, its checkpoint and (unless kept) its receipts are made of
it with the aggregator's key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.federation import Federation
from support.keys import keys_of_stores, stated_by_stores
from support.secure_sum import ask_decryptor, ask_unmaskers
from support.sums import contribute, summed

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.epochs import EpochStore
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.evidence.checkpoint import Checkpoint, sign_checkpoint
from fedhelp_secure.evidence.cosignature import cosign, witnesses
from fedhelp_secure.evidence.entries import serialise_entry
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.foundation_model import (
    EMBEDDING_WIDTH,
    Batch,
    CallRecord,
    batch_sizes,
    cost_of,
    idempotency_key,
    request_digest_of,
    seconds_of,
)
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.report.build import privacy_terms, secure_sum_cost
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.secure_sum.epochs import BEGUN_KIND, DESTROYED_KIND, EPOCH_KIND
from fedhelp_secure.secure_sum.opening import Answers
from fedhelp_secure.secure_sum.round_keys import custodian_parties
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.wire.v1.evidence_pb2 import (
    CharterAdopted,
    ContributionAccepted,
    LogEntry,
    Receipt,
    RoundClosed,
    RoundOpened,
    RoundSummed,
    StatementSubmitted,
)


@dataclass
class Story:
    """What happened, in the order of the log."""

    federation: Federation
    entries: list[LogEntry] = field(default_factory=list)
    objects: list[bytes] = field(default_factory=list)
    ledgers: dict[str, bytes] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    receipts: dict[tuple[str, int], bytes] | None = None
    """What the hospitals hold; None for receipts of the log as it is told."""
    begun: int = field(default_factory=lambda: int(time.time()))
    """When the log begins, Unix seconds: the parties' certificates are of now."""
    cosigned: dict[Identity, bytes] | None = None
    """What each witness has cosigned; None for the whole log by all of them."""

    @property
    def charter(self) -> Charter:
        return self.federation.charter

    def add(self, entry: LogEntry) -> None:
        """Log ``entry`` next."""
        entry.unix_milliseconds = 1000 * self.begun + len(self.entries)
        self.entries.append(entry)

    def copy(self) -> Story:
        """Another telling, to be changed."""
        entries = [LogEntry.FromString(entry.SerializeToString()) for entry in self.entries]
        report = json.loads(json.dumps(self.report))
        receipts = None if self.receipts is None else dict(self.receipts)
        cosigned = None if self.cosigned is None else dict(self.cosigned)
        return Story(
            self.federation,
            entries,
            list(self.objects),
            dict(self.ledgers),
            report,
            receipts,
            self.begun,
            cosigned,
        )

    def of(self, event: str, round_number: int | None = None) -> list[Any]:
        """The events of one kind (of one round), which may be changed in place."""
        events = [
            getattr(entry, event) for entry in self.entries if entry.WhichOneof("event") == event
        ]
        return [one for one in events if round_number is None or one.round == round_number]

    def index(self, event: str, place: int = 0) -> int:
        """Index in the log of the ``place``-th entry of one kind."""
        return [at for at, entry in enumerate(self.entries) if entry.WhichOneof("event") == event][
            place
        ]

    def write(self, out: Path) -> Path:
        """The bundle, its report citing the whole log unless it cites one already, signed."""
        files = dict(self._files())
        for path, data in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(data)
        sign_index(out, self.federation.state(Role.AUDITOR))
        return out

    def _files(self) -> Iterator[tuple[str, bytes]]:
        leaves = [serialise_entry(entry) for entry in self.entries]
        tree = MerkleTree(leaves)
        if self.receipts is None:
            self.receipts = {
                (entry.contribution_accepted.hospital, entry.contribution_accepted.round): (
                    self._receipt(tree, leaves, index)
                )
                for index, entry in enumerate(self.entries)
                if entry.HasField("contribution_accepted")
            }
        log = {"size": tree.size, "root": tree.root().hex()}
        report = {"log": log, "secure_sum": self._secure_sum_cost()} | self.report
        yield layout.CHARTER, self.federation.charter_envelope
        key = self.federation.governance_key.public
        yield layout.GOVERNANCE_KEY, f"{key.to_base64()}\n".encode()
        lines = [layout.entry_line(index, leaf) for index, leaf in enumerate(leaves)]
        yield layout.ENTRIES, b"".join(lines)
        yield layout.CHECKPOINT, self._checkpoint(tree, tree.size)
        if self.cosigned is None:
            self.cosigned = {
                witness: self.cosigned_by(witness, self._checkpoint(tree, tree.size))
                for witness in witnesses(self.charter)
            }
        yield from self._certificates()
        for witness, note in self.cosigned.items():
            yield layout.cosigned_path(witness), note
        for envelope in self.objects:
            yield layout.object_path(digest(envelope)), envelope
        for name, ledger in self.ledgers.items():
            yield layout.ledger_path(name), ledger
        for (name, number), receipt in self.receipts.items():
            yield layout.receipt_path(name, number), receipt
        yield layout.REPORT_JSON, json.dumps(report, indent=2).encode()
        yield layout.REPORT_HTML, b"<!doctype html>"

    def _secure_sum_cost(self) -> dict[str, Any]:
        """As far as the story holds together: of one that does not, no report is ever read."""
        objects = {digest(envelope): envelope for envelope in self.objects}
        try:
            return secure_sum_cost(self.charter, self.entries, objects).model_dump()
        except MalformedMessage:
            return {}

    def cosigned_by(self, witness: Identity, note: bytes, *, after: int = 100) -> bytes:
        """``note`` with the cosignature of a party of the federation, ``after`` seconds."""
        now = self.begun + after
        key = self.federation.state(witness.name).signing_key()
        return cosign(note, charter=self.charter, witness=witness, key=key, now=now)

    def _certificates(self) -> Iterator[tuple[str, bytes]]:
        """As the aggregator has seen them: of all parties that bring something, and its own."""
        charter = self.charter
        names = [hospital.name for hospital in charter.hospitals]
        names += [auditor.name for auditor in charter.auditors]
        for name in (*names, Role.BROKER.value, Role.AGGREGATOR.value):
            chain = self.federation.state(name).tls_certificate_path.read_bytes()
            yield layout.certificate_path(digest(chain)), chain
        held = TrustStore(self.federation.state(Role.AGGREGATOR)).path.read_bytes()
        yield layout.trust_list_path(digest(held)), held

    def _checkpoint(self, tree: MerkleTree, size: int) -> bytes:
        head = Checkpoint(log_origin(self.charter), size, tree.root(size))
        return sign_checkpoint(head, self.federation.state(Role.AGGREGATOR).signing_key())

    def _receipt(self, tree: MerkleTree, leaves: list[bytes], index: int) -> bytes:
        """As the log gives it at once: under the checkpoint that the entry made."""
        receipt = Receipt(
            entry=leaves[index],
            index=index,
            path=tree.inclusion_proof(index, index + 1),
            checkpoint=self._checkpoint(tree, index + 1),
        )
        return receipt.SerializeToString(deterministic=True)


def tell(federation: Federation, scratch: Path) -> Story:
    """Every round of the federation's charter, every hospital taking part, one call to the FM."""
    story = Story(federation)
    charter = federation.charter
    story.add(LogEntry(charter_adopted=CharterAdopted(charter_digest=charter.digest)))
    names = [hospital.name for hospital in charter.hospitals]
    ledgers = {
        name: Ledger.open(
            scratch / f"{name}.sqlite",
            hospital=name,
            signing_key=federation.state(name).signing_key(),
        )
        for name in names
    }
    submit(story, Role.BROKER, "foundation-model-call", call_record(charter))
    for number in range(1, charter.rounds.count + 1):
        _round(story, number, ledgers, scratch / f"round-{number}")
        # Each round is under keys of its own.
        for party in custodian_parties(charter):
            EpochStore(federation.state(party.identity.name)).rotate()
    for name, ledger in ledgers.items():
        ledger.export(scratch / f"{name}.jsonl")
        story.ledgers[name] = (scratch / f"{name}.jsonl").read_bytes()
    story.report = report_of(charter, ledgers)
    return story


def _round(story: Story, number: int, ledgers: dict[str, Ledger], scratch: Path) -> None:
    federation, charter = story.federation, story.charter
    scratch.mkdir()
    begin(story, number)
    parts: dict[str, Contribution] = {}
    for name, ledger in ledgers.items():
        part = contribute(
            federation,
            name,
            scratch / name,
            release=np.arange(charter.secure_sum.values, dtype=np.int64),
            round_number=number,
            round_keys=keys_of_stores(federation, charter, number),
            ledger_entry_digest=ledger.reserve(charter, number).digest,
        )
        parts[name] = part
        story.objects.append(part.manifest)
        ciphertext = part.ciphertext.read_bytes()
        accepted = ContributionAccepted(
            charter_digest=charter.digest,
            round=number,
            hospital=name,
            manifest_digest=digest(part.manifest),
            ciphertext_digest=digest(ciphertext),
            ciphertext_bytes=len(ciphertext),
        )
        story.add(LogEntry(contribution_accepted=accepted))
    closed = RoundClosed(charter_digest=charter.digest, round=number, hospitals=sorted(parts))
    story.add(LogEntry(round_closed=closed))
    total = summed(charter, parts)
    answers = _answers(federation, number, parts, total)
    unmasked = [answer.statement for answer in answers.unmaskers]
    story.objects += [answers.decryptor.statement, *unmasked]
    for name, part in parts.items():
        contribution = digest(part.manifest)
        ledgers[name].record(charter, number, "sent", contribution_digest=contribution)
        ledgers[name].record(
            charter,
            number,
            "opened",
            contribution_digest=contribution,
            contributors=sorted(parts),
            sum_digest=digest(b"the opened sum of round %d" % number),
        )
    summed_round = RoundSummed(
        charter_digest=charter.digest,
        round=number,
        sum_digest=digest(total),
        decryptor_statement_digest=digest(answers.decryptor.statement),
        unmasker_statement_digests=[digest(statement) for statement in unmasked],
    )
    story.add(LogEntry(round_summed=summed_round))


def begin(story: Story, number: int) -> None:
    """Every custodian begins a round; what is new of its statements is logged, then the round."""
    stated = stated_by_stores(story.federation, story.charter, number)
    for party, keys in zip(custodian_parties(story.charter), stated, strict=True):
        name = party.identity.name
        for envelope in keys.key_epochs:
            state(story, name, EPOCH_KIND, envelope)
        for envelope in keys.destroyed:
            state(story, name, DESTROYED_KIND, envelope)
        state(story, name, BEGUN_KIND, keys.round_begun)
    opened = RoundOpened(
        charter_digest=story.charter.digest,
        round=number,
        round_begun_digests=[digest(keys.round_begun) for keys in stated],
    )
    story.add(LogEntry(round_opened=opened))


def state(story: Story, party: str, kind: str, envelope: bytes) -> None:
    """Log a statement of ``party``, unless it is there."""
    if envelope in story.objects:
        return
    story.objects.append(envelope)
    statement = StatementSubmitted(
        submitter=story.federation.state(party).identity.uri,
        kind=kind,
        envelope_digest=digest(envelope),
    )
    story.add(LogEntry(statement_submitted=statement))


def _answers(
    federation: Federation, number: int, parts: dict[str, Contribution], total: bytes
) -> Answers:
    """The custodians' own answers, by services on their states."""
    charter = federation.charter
    decryptor = DecryptorService(federation.state("decryptor"))
    unmaskers = {
        one.name: UnmaskerService(federation.state(one.name))
        for one in charter.custodians.unmaskers
    }
    try:
        return Answers(
            ask_decryptor(decryptor, charter, total, round_number=number),
            ask_unmaskers(federation, unmaskers, charter, parts, round_number=number),
        )
    finally:
        decryptor.close()


def report_of(charter: Charter, ledgers: dict[str, Ledger]) -> dict[str, Any]:
    """What a report must say, and a little more; log and costs are added as it is written."""
    spent = {name: ledger.spent(charter) for name, ledger in ledgers.items()}
    return {
        "federation": charter.federation,
        "task": charter.task,
        "dataset": "phantom",
        "seed": 0,
        "seconds": 1.5,
        "charter": charter.digest,
        "privacy": privacy_terms(charter).model_dump(),
        "foundation_model_calls": 1,
        "rounds": charter.rounds.count,
        "hospitals": [
            {
                "name": hospital.name,
                "group": hospital.group,
                "metric": "accuracy",
                "alone": 0.5,
                "distilled": 0.75,
                "epsilon_aggregate": float(spent[hospital.name].epsilon_aggregate),
                "epsilon_collusion": float(spent[hospital.name].epsilon_collusion),
            }
            for hospital in charter.hospitals
        ],
    }


def submit(
    story: Story,
    role: Role,
    kind: str,
    document: dict[str, Any],
    *,
    party: str | None = None,
    key: SigningKey | None = None,
) -> None:
    """Log a statement of ``role``, signed by its own key unless another is given."""
    state = story.federation.state(party or role)
    envelope = (key or state.signing_key()).sign_document(kind, document)
    story.objects.append(envelope)
    statement = StatementSubmitted(
        submitter=state.identity.uri, kind=kind, envelope_digest=digest(envelope)
    )
    story.add(LogEntry(statement_submitted=statement))


def call_record(charter: Charter) -> dict[str, Any]:
    """What the broker signs about its one call."""
    batches = tuple(
        Batch(
            images=images,
            request_digest=digest(b"request %d" % number),
            request_bytes=1000,
            sent_at="2026-01-01T00:00:00Z",
            attempts=1,
            address="127.0.0.1:9000",
            tls_key=digest(b"key"),
            answer_digest=digest(b"message %d" % number),
            seconds=0.25,
            cost="0.5",
        )
        for number, images in enumerate(batch_sizes(charter))
    )
    record = CallRecord(
        charter=charter.digest,
        purpose=charter.foundation_model.purpose,
        proxy_digest=charter.proxy.digest,
        provider=charter.foundation_model.provider,
        host=charter.foundation_model.host,
        model=charter.foundation_model.model,
        requested_by=f"spiffe://{charter.federation}/hospital/small-1",
        called_at="2026-01-01T00:00:00Z",
        recorded_at="2026-01-01T00:00:01Z",
        seconds=seconds_of(batches),
        request_digest=request_digest_of(batches),
        answer_digest=digest(b"answer"),
        answer_shape=(charter.proxy.count, EMBEDDING_WIDTH),
        outcome="answered",
        reason="",
        idempotency_key=idempotency_key(charter),
        cost=cost_of(batches),
        batches=batches,
        earlier=(),
    )
    return record.model_dump(mode="json")
