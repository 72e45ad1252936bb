"""Steps 1 to 5 of the verifier: index, charter, checkpoint, tree, entries and their objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import KIND as CHARTER_KIND
from fedhelp_secure.charter import Charter, Hospital, SignedParty, open_charter
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.checkpoint import Checkpoint, open_checkpoint
from fedhelp_secure.evidence.entries import named_objects, parse_entry
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.secure_sum.epochs import BEGUN_KIND, DESTROYED_KIND, EPOCH_KIND
from fedhelp_secure.signing import VerifyingKey, open_document, peek_document
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry, StatementSubmitted

STATEMENT_KINDS = frozenset(
    {"foundation-model-call", "ledger-head", "report", EPOCH_KIND, BEGUN_KIND, DESTROYED_KIND}
)
"""What parties may submit to the log; it is the DSSE kind too."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What step 4 proves: the leaves under the signed checkpoint."""

    leaves: tuple[bytes, ...]
    hashes: MerkleTree


@dataclass(frozen=True, slots=True)
class Record:
    """What step 5 proves: the log's entries, and every signed object that they name."""

    charter: Charter
    tree: Tree
    entries: tuple[LogEntry, ...]
    objects: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class OpenedCharter:
    """What step 2 proves, and what it must leave to a person."""

    charter: Charter
    warning: str | None


def check_index(directory: Path) -> BundleFiles:
    """Step 1: an auditor of the charter signed the digest of every file, and of no other.

    The auditors are read from a charter that only step 2 verifies.
    """
    files = dict(layout.read_files(directory))
    envelope = files.pop(layout.INDEX, None)
    if envelope is None:
        raise BundleRefused("the bundle has no index.json; ask its auditor to sign it.")
    listed = _opened_index(envelope, layout.required(files, layout.CHARTER))
    for path in sorted(files.keys() | listed.keys()):
        if path not in files:
            raise BundleRefused(f"{path!a} is in the index but missing from the bundle.")
        if path not in listed:
            raise BundleRefused(f"{path} is in the bundle but missing from its index.")
        if listed[path] != digest(files[path]):
            raise BundleRefused(f"{path} was changed after the auditor signed the index.")
    return MappingProxyType(files)


def _opened_index(envelope: bytes, charter: bytes) -> Mapping[str, Any]:
    for key in _unverified_auditors(charter):
        try:
            document = open_document(layout.INDEX_KIND, envelope, key)
        except SignatureRefused:
            continue
        listed = document.get("files")
        if set(document) != {"files"} or not isinstance(listed, dict):
            raise BundleRefused("index.json does not list files; ask the auditor to sign again.")
        return listed
    raise SignatureRefused("index.json is not signed by an auditor of the charter.")


def _unverified_auditors(charter: bytes) -> Iterator[VerifyingKey]:
    try:
        for auditor in peek_document(CHARTER_KIND, charter)["auditors"]:
            yield VerifyingKey.from_base64(auditor["signing_key"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleRefused("charter.json does not name auditors; the bundle is broken.") from error


def governance_key_of(files: BundleFiles) -> VerifyingKey:
    """The key in ``governance.pub``; raises BundleRefused for another spelling than its own."""
    written = layout.required(files, layout.GOVERNANCE_KEY)
    try:
        own = VerifyingKey.from_base64(written.decode("ascii").removesuffix("\n"))
    except UnicodeDecodeError as error:
        raise BundleRefused("governance.pub is not base64.") from error
    if written != f"{own.to_base64()}\n".encode():
        raise BundleRefused("governance.pub is not in its one canonical spelling.")
    return own


def check_charter(files: BundleFiles, governance_key: VerifyingKey | None) -> OpenedCharter:
    """Step 2: the governance key signed the charter, and its bounds hold."""
    own = governance_key_of(files)
    if governance_key is not None and governance_key != own:
        raise SignatureRefused("the bundle's governance key is not the one given; do not use it.")
    charter = open_charter(layout.required(files, layout.CHARTER), own)
    warning = None
    if governance_key is None:
        warning = (
            "the governance key is the bundle's own; compare its fingerprint by voice with the "
            f"registrar's: {fingerprint(own)}"
        )
    return OpenedCharter(charter, warning)


def fingerprint(key: VerifyingKey) -> str:
    """128 bits of the key's SHA-256, in eight groups to read aloud."""
    text = digest(key.raw).removeprefix("sha256:")[:32]
    return " ".join(text[place : place + 4] for place in range(0, 32, 4))


def check_checkpoint(files: BundleFiles, charter: Charter) -> Checkpoint:
    """Step 3: the charter's aggregator signed the checkpoint, for this federation's log."""
    return open_checkpoint(
        layout.required(files, layout.CHECKPOINT),
        origin=log_origin(charter),
        key=charter.aggregator.verifying_key(),
    )


def check_tree(files: BundleFiles, head: Checkpoint) -> Tree:
    """Step 4: the root recomputed from all entries is the checkpoint's."""
    leaves = layout.leaves(files)
    hashes = MerkleTree(leaves)
    if hashes.size != head.size:
        raise BundleRefused(
            f"the log has {hashes.size} entries but its checkpoint signs {head.size}."
        )
    if hashes.root() != head.root:
        raise BundleRefused("the entries of the log do not hash to its signed root.")
    return Tree(leaves, hashes)


def check_objects(files: BundleFiles, charter: Charter, tree: Tree) -> Record:
    """Step 5: every entry parses and is of this charter; the log names the objects, all and only.

    Also checks that every submitted statement is signed by the party that the log says.
    """
    entries = tuple(_entry(index, leaf) for index, leaf in enumerate(tree.leaves))
    _check_one_charter(entries, charter)
    held = layout.objects(files)
    for name, envelope in held.items():
        if digest(envelope) != name:
            raise BundleRefused(f"{layout.object_path(name)} does not hash to its name.")
    named = {
        digest_: index for index, entry in enumerate(entries) for digest_ in named_objects(entry)
    }
    for name, index in named.items():
        if name not in held:
            raise BundleRefused(f"entry {index} of the log names an object that is missing.")
    for name in held:
        if name not in named:
            raise BundleRefused(f"{layout.object_path(name)} is named by no entry of the log.")
    record = Record(charter, tree, entries, MappingProxyType(held))
    for statement in submitted(record):
        _check_submitted(record, statement)
    takeovers(record)
    return record


def submitted(record: Record) -> list[StatementSubmitted]:
    """The statements that parties submitted, in the log's order."""
    events = (entry.WhichOneof("event") for entry in record.entries)
    return [
        entry.statement_submitted
        for event, entry in zip(events, record.entries, strict=True)
        if event == "statement_submitted"
    ]


def takeovers(record: Record) -> list[str]:
    """A sentence for each hospital as which two processes took part, by the aggregator's word.

    Raises CharterRefused for a hospital that the charter does not name.
    """
    times: Counter[str] = Counter()
    for entry in record.entries:
        if entry.WhichOneof("event") == "session_taken_over":
            event = entry.session_taken_over
            times[record.charter.hospital(event.hospital).name] += event.times
    return [
        f"two processes took part as {hospital} ({count} times, the aggregator says); ask the "
        "hospital whether both were its own"
        for hospital, count in sorted(times.items())
    ]


def _entry(index: int, leaf: bytes) -> LogEntry:
    try:
        return parse_entry(leaf)
    except FedHelpError as error:
        raise BundleRefused(f"entry {index} of the log cannot be read: {error}") from error


def _check_one_charter(entries: tuple[LogEntry, ...], charter: Charter) -> None:
    events = [entry.WhichOneof("event") for entry in entries]
    if events[:1] != ["charter_adopted"] or events.count("charter_adopted") != 1:
        raise BundleRefused("the log must begin with the adoption of its one charter.")
    for index, (name, entry) in enumerate(zip(events, entries, strict=True)):
        event = getattr(entry, str(name))
        if name != "statement_submitted" and event.charter_digest != charter.digest:
            raise BundleRefused(f"entry {index} of the log is of another charter.")


def _check_submitted(record: Record, statement: StatementSubmitted) -> None:
    if statement.kind not in STATEMENT_KINDS:
        raise BundleRefused("a statement in the log is of a kind that parties do not submit.")
    submitter = Identity.from_uri(statement.submitter)
    if submitter.federation != record.charter.federation:
        raise BundleRefused("a statement in the log is by a party of another federation.")
    key = _key_of(record.charter, submitter)
    open_document(statement.kind, record.objects[statement.envelope_digest], key)


def _key_of(charter: Charter, party: Identity) -> VerifyingKey:
    parties: Mapping[Role, Sequence[Hospital | SignedParty]] = {
        Role.HOSPITAL: charter.hospitals,
        Role.BROKER: (charter.broker,),
        Role.AUDITOR: charter.auditors,
        Role.DECRYPTOR: (charter.custodians.decryptor,),
        Role.UNMASKER: charter.custodians.unmaskers,
    }
    for candidate in parties.get(party.role, ()):
        if candidate.name == party.name:
            return candidate.verifying_key()
    raise BundleRefused("a statement in the log is by a party that the charter does not name.")
