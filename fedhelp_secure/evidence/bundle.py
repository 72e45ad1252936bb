"""Making a bundle: an auditor fetches what the aggregator has, adds what the hospitals give.

`export_bundle` fetches and writes; report files are then put under ``report/``; `sign_index` closes
the bundle with the auditor's signature. The layout is in `fedhelp_secure.evidence.layout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_signature,
    split_note,
)
from fedhelp_secure.evidence.cosignature import open_cosigned
from fedhelp_secure.evidence.entries import named_objects, parse_entry
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.evidence.witness import LogWitness
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.charters import open_own_charter
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.wire.v1.coordinator_pb2 import GetCharterRequest
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub
from fedhelp_secure.wire.v1.evidence_pb2 import (
    GetCheckpointRequest,
    ListCertificatesRequest,
    ListEntriesRequest,
    ListObjectsRequest,
)
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

_CALL_SECONDS = 120.0
_PEER = "the aggregator"
_FILE_MODE = 0o644
"""A bundle is made to be handed on: nothing in it is secret."""


class BundleExists(ConfigurationError):
    """The directory for a bundle is not empty."""

    code = "bundle-exists"


class NotAnAuditor(PolicyError):
    """The charter does not name this party among its auditors."""

    code = "not-an-auditor"


class OtherCharter(PolicyError):
    """The aggregator runs another charter than the one given."""

    code = "bundle-other-charter"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a bundle comes from."""

    aggregator: str
    """host:port of the aggregator."""
    charter: Path
    """File with the charter's envelope."""
    ledgers: Path
    """Directory with ``<hospital>.jsonl``, as the hospitals exported them."""
    receipts: Path
    """Directory with ``<hospital>-<round>.bin``, as the hospitals keep them."""


def export_bundle(state: StateDirectory, sources: Sources, out: Path) -> None:
    """Write everything but the report and the index to ``out``, which must be empty or new.

    ``state`` is an auditor's, who cosigns the log. Raises BundleExists, NotAnAuditor, OtherCharter,
    BundleRefused if the aggregator's entries are not those of its checkpoint, HistoryRefused if its
    log does not continue the one that this auditor saw before, and whatever the calls raise.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleExists(f"{out} is not an empty directory; choose another --out.")
    envelope = state.read(sources.charter)
    opened = open_own_charter(state, envelope)
    charter, governance_key = opened.charter, opened.signer
    auditor_key(state, charter)
    files = {
        layout.CHARTER: envelope,
        layout.GOVERNANCE_KEY: f"{governance_key.to_base64()}\n".encode(),
        **layout.matching_files(sources.ledgers, "ledgers"),
        **layout.matching_files(sources.receipts, "receipts"),
        **_fetched(state, sources.aggregator, charter, envelope),
    }
    for path, data in files.items():
        write_atomically(out / path, data, mode=_FILE_MODE)


def sign_index(directory: Path, state: StateDirectory) -> None:
    """Write ``index.json`` over every other file of the bundle, signed by this auditor.

    An earlier index is replaced. Raises BundleRefused for files that have no place in a bundle, and
    NotAnAuditor if the bundle's charter does not name this auditor.
    """
    files = dict(layout.read_files(directory))
    files.pop(layout.INDEX, None)
    charter = open_own_charter(state, layout.required(files, layout.CHARTER)).charter
    document = {"files": {path: digest(data) for path, data in files.items()}}
    envelope = auditor_key(state, charter).sign_document(layout.INDEX_KIND, document)
    write_atomically(directory / layout.INDEX, envelope, mode=_FILE_MODE)


def auditor_key(state: StateDirectory, charter: Charter) -> SigningKey:
    """This auditor's key that ``charter`` names, also a former one; raises NotAnAuditor."""
    named = [auditor.verifying_key() for auditor in charter.auditors]
    for own in state.verifying_keys():
        if own in named:
            return state.signing_key_for(own)
    raise NotAnAuditor(
        "the charter does not name this auditor; ask the registrar for one that does."
    )


def _fetched(
    state: StateDirectory, address: str, charter: Charter, envelope: bytes
) -> dict[str, bytes]:
    aggregator = Identity(charter.federation, Role.AGGREGATOR, charter.aggregator.name)
    with open_channel(state, address, expected=aggregator) as channel, translated_errors(_PEER):
        reply = CoordinatorStub(channel).GetCharter(GetCharterRequest(), timeout=_CALL_SECONDS)
        if reply.envelope != envelope:
            raise OtherCharter("the aggregator runs another charter; give that one's file.")
        stub = EvidenceStub(channel)
        # First: a bundle must not be made of a log that was another one at the last export.
        LogWitness(state, charter).cosign_newest(stub)
        held = TrustStore(state).path.read_bytes()
        return {
            layout.trust_list_path(digest(held)): held,
            **_certificates(stub, charter),
            **_log_files(stub, charter),
        }


def _log_files(stub: EvidenceStub, charter: Charter) -> dict[str, bytes]:
    reply = stub.GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_SECONDS)
    note = reply.checkpoint
    head = open_checkpoint(note, origin=log_origin(charter), key=charter.aggregator.verifying_key())
    request = ListEntriesRequest(start=0, end=head.size)
    listed = list(stub.ListEntries(request, timeout=_CALL_SECONDS))
    leaves = [item.entry for item in listed]
    _check_entries([item.index for item in listed], leaves, head)
    lines = [layout.entry_line(index, leaf) for index, leaf in enumerate(leaves)]
    named = {name for leaf in leaves for name in named_objects(parse_entry(leaf))}
    return {
        layout.CHECKPOINT: note,
        layout.ENTRIES: b"".join(lines),
        **_cosigned(list(reply.cosigned), charter),
        **_objects(stub, charter, named),
    }


def _cosigned(notes: list[bytes], charter: Charter) -> dict[str, bytes]:
    """Checked, and under the name of their witness; the verifier compares them with the log."""
    found = {}
    for note in notes:
        name = parse_signature(split_note(note)[1][-1])[0]
        witness = Identity.from_uri(name)
        open_cosigned(note, charter=charter, witness=witness)
        found[layout.cosigned_path(witness)] = note
    return found


def _certificates(stub: EvidenceStub, charter: Charter) -> dict[str, bytes]:
    """What the aggregator has kept; the verifier finds out what it is worth."""
    request = ListCertificatesRequest(charter_digest=charter.digest)
    found = {}
    for item in stub.ListCertificates(request, timeout=_CALL_SECONDS):
        found[layout.certificate_path(digest(item.chain))] = item.chain
        found[layout.trust_list_path(digest(item.trust_list))] = item.trust_list
    return found


def _objects(stub: EvidenceStub, charter: Charter, named: set[str]) -> dict[str, bytes]:
    request = ListObjectsRequest(charter_digest=charter.digest)
    listed = stub.ListObjects(request, timeout=_CALL_SECONDS)
    held = {digest(item.envelope): item.envelope for item in listed}
    if not named <= held.keys():
        raise BundleRefused(
            "the aggregator does not give every object that its log names; keep its checkpoint as "
            "evidence and tell the federation."
        )
    # What the log does not name (yet) is not evidence: a round may be going on.
    return {layout.object_path(name): held[name] for name in named}


def _check_entries(indices: list[int], entries: list[bytes], head: Checkpoint) -> None:
    complete = indices == list(range(head.size))
    if not complete or MerkleTree(entries).root() != head.root:
        raise BundleRefused(
            "the aggregator's entries are not those that its checkpoint signs; keep the "
            "checkpoint as evidence and tell the federation."
        )
