"""The call to the foundation model, keys, incidents, and the tests of the log."""

from __future__ import annotations

from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_epochs import KEY_KINDS
from fedhelp_secure.evidence.verify_log import fingerprint, governance_key_of
from fedhelp_secure.foundation_model import Batch, CallRecord
from fedhelp_secure.report.document import Evidence, Row, Section, Statement, Table
from fedhelp_secure.report.facts import INCIDENTS, Facts, Topic, entry, file, object_, utc
from fedhelp_secure.secure_sum.epochs import (
    BEGUN_KIND,
    EPOCH_KIND,
    CustodianParty,
    open_begun,
    open_destroyed,
    open_epoch,
)
from fedhelp_secure.secure_sum.round_keys import custodian_parties

MOST_INCIDENTS = 200
"""Rows of incidents; the log may hold many refusals, and they are counted beyond."""

_STEP_TOPICS: dict[str, tuple[Topic, ...]] = {
    "charter": ("charter", "governance"),
    "checkpoint": ("checkpoint",),
    "tree": ("log", "checkpoint"),
    "entries": ("log",),
    "manifests": ("contributions",),
    "receipts": ("receipts",),
    "rounds": ("rounds",),
    "key epochs": ("epochs",),
    "ledgers": ("ledgers",),
    "foundation model": ("call",),
    "report": ("results",),
    "witnesses": ("witnesses",),
    "certificates": ("certificates", "trust"),
}


def call(facts: Facts) -> Section:
    """What went out, where, what came back and what it cost."""
    if facts.call is None:
        return Section(
            "call",
            "The call to the foundation model",
            (Statement("Any call to the foundation model.", basis="not-shown"),),
        )
    return Section(
        "call",
        "The call to the foundation model",
        (
            _call_table(facts.call, facts.charter.proxy.count, facts.cite("call")),
            Table(
                "Batches of the one call",
                ("Batch", "Images", "Bytes", "Sent", "Tries", "Sent to", "Cost"),
                tuple(
                    _batch(place, batch, facts.cite("call"))
                    for place, batch in enumerate(facts.call.batches, start=1)
                ),
                (0.8, 0.9, 1.1, 2.2, 0.7, 1.9, 1.0, 2.0),
                numbers=(0, 1, 2, 4, 6),
            ),
            Statement(
                "What the provider did with the images; that no other machine called it.",
                basis="not-shown",
            ),
        ),
    )


def _call_table(record: CallRecord, agreed: int, cite: tuple[Evidence, ...]) -> Table:
    images = sum(batch.images for batch in record.batches)
    facts = (
        ("Purpose", record.purpose),
        ("Provider and model", f"{record.provider}, {record.model}"),
        ("Host", record.host),
        ("Asked for by", record.requested_by),
        ("Called, recorded", f"{record.called_at}, {record.recorded_at}"),
        ("Outcome", record.outcome + (f": {record.reason}" if record.reason else "")),
        ("Images sent", f"{images:,} of the {agreed:,} in the agreed public set"),
        ("Digest of the requests", record.request_digest),
        ("Digest of the answer", record.answer_digest or "none"),
        ("Took", f"{record.seconds:.3f} s"),
        ("Cost", record.cost or "the provider reported none"),
        ("Earlier attempts that never left", str(len(record.earlier))),
    )
    return Table(
        "The broker's signed record",
        ("Fact", "Recorded"),
        tuple(Row(fact, cite) for fact in facts),
        (2.2, 5.2, 1.8),
    )


def _batch(place: int, batch: Batch, cite: tuple[Evidence, ...]) -> Row:
    cells = (
        str(place),
        f"{batch.images:,}",
        f"{batch.request_bytes:,}",
        batch.sent_at,
        str(batch.attempts),
        batch.address or "local",
        batch.cost or "none",
    )
    return Row(cells, cite)


def keys(facts: Facts) -> Section:
    """Key epochs of the custodians; what there is of other keys, and of certificates."""
    return Section(
        "keys",
        "Keys and certificates",
        (
            Statement(
                "The signing key of every party is pinned by the charter; fingerprints are in the "
                "table of parties.",
                facts.cite("charter"),
            ),
            Table(
                "What the custodians stated of their keys, in the order of the log",
                ("Logged", "Custodian", "Statement"),
                tuple(_key_row(facts, index) for index in facts.statements(*KEY_KINDS)),
                (2.3, 2.0, 4.0, 1.9),
            ),
            _certificates(facts),
            *_trust(facts),
            Statement(
                "Certificates of the custodians, which serve the aggregator; that a connection was "
                "made with one of a party's certificates and not with another.",
                basis="not-shown",
            ),
            Statement(
                "That a destroyed key left no copy, and how private keys are kept.",
                basis="not-shown",
            ),
        ),
    )


def _certificates(facts: Facts) -> Table:
    return Table(
        "Certificates of the parties that acted, each of an authority of the trust list",
        ("Party", "Valid from", "Until", "Issuer", "SHA-256 of the certificate"),
        tuple(
            Row(
                (
                    f"{held.identity.role.value} {held.identity.name}",
                    utc(int(held.begins.timestamp())),
                    utc(int(held.ends.timestamp())),
                    held.issuer,
                    _grouped(held.fingerprint),
                ),
                (file(layout.certificate_path(held.digest)),),
            )
            for held in sorted(
                facts.certificates.held, key=lambda held: (held.identity.uri, held.begins)
            )
        ),
        (1.5, 1.5, 1.5, 1.5, 3.2, 2.0),
        code=(4,),
    )


def _grouped(fingerprint: str) -> str:
    """Its hexadecimal digits by eight, where a narrow column may break them."""
    digits = fingerprint.removeprefix("sha256:")
    return " ".join(digits[place : place + 8] for place in range(0, len(digits), 8))


def _trust(facts: Facts) -> tuple[Statement | Table, ...]:
    trusted = facts.certificates.trusted
    cited = (file(layout.trust_list_path(facts.certificates.trusted_digest)),)
    said = Statement(
        f"The newest trust list in the bundle has number {trusted.sequence} and was issued "
        f"{trusted.issued}; authorities: {len(trusted.authorities)}, revoked parties: "
        f"{len(trusted.revocations)}.",
        cited,
    )
    if not trusted.revocations:
        return (said,)
    rows = tuple(
        Row((entry.identity, entry.revoked, entry.reason), cited) for entry in trusted.revocations
    )
    return (
        said,
        Table("Revoked parties", ("Party", "Revoked", "Reason"), rows, (3.6, 2.0, 3.0, 1.6)),
    )


def _key_row(facts: Facts, index: int) -> Row:
    event = facts.record.entries[index].statement_submitted
    party = _custodian(facts, event.submitter)
    envelope = facts.record.objects[event.envelope_digest]
    if event.kind == EPOCH_KIND:
        epoch = open_epoch(party, envelope)
        text = f"epoch {epoch.epoch} begins, its key created {epoch.created}"
    elif event.kind == BEGUN_KIND:
        begun = open_begun(party, envelope)
        text = f"round {begun.round} is bound to epoch {begun.epoch}"
    else:
        gone = open_destroyed(party, envelope)
        text = f"epoch {gone.epoch} destroyed {gone.destroyed}: {gone.reason}"
    cited = (entry(index), object_(event.envelope_digest))
    return Row((facts.moment(index), party.identity.name, text), cited)


def _custodian(facts: Facts, submitter: str) -> CustodianParty:
    for party in custodian_parties(facts.charter):
        if party.identity.uri == submitter:
            return party
    raise BundleRefused("a key statement is by no custodian of the charter.")


def incidents(facts: Facts) -> Section:
    """Takeovers, refusals and failures."""
    found = list(facts.events(*INCIDENTS))
    rows = tuple(_incident(facts, index, name) for index, name in found[:MOST_INCIDENTS])
    blocks: list[Statement | Table] = []
    if not rows:
        blocks.append(
            Statement(
                "The log has no entry of a refused contribution, a failed round or a session that "
                "was taken over.",
                facts.cite("log"),
            )
        )
    else:
        blocks.append(
            Table(
                "Incidents in the order of the log, by the aggregator's word",
                ("Logged", "What", "Party", "Detail"),
                rows,
                (2.3, 2.2, 1.6, 3.2, 1.3),
            )
        )
    if len(found) > MOST_INCIDENTS:
        blocks.append(
            Statement(
                f"{len(found) - MOST_INCIDENTS} more incidents are in the log.", facts.cite("log")
            )
        )
    blocks.append(
        Statement(
            "Incidents that nobody reported to the log: at the hospitals, in their networks, at "
            "the foundation model's provider.",
            basis="not-shown",
        )
    )
    return Section("incidents", "Incidents", tuple(blocks))


def _incident(facts: Facts, index: int, name: str) -> Row:
    event = getattr(facts.record.entries[index], name)
    match name:
        case "contribution_rejected":
            cells = ("contribution refused", event.hospital, f"round {event.round}: {event.code}")
        case "round_failed":
            cells = ("round failed", facts.charter.aggregator.name, f"{event.round}: {event.code}")
        case _:
            cells = ("session taken over", event.hospital, f"{event.times} times")
    return Row((facts.moment(index), *cells), (entry(index),))


def tests_of_the_log(facts: Facts) -> Section:
    """The verifier's steps and what each found."""
    head = facts.record.tree.hashes
    return Section(
        "verification",
        "Tests of the log and the bundle",
        (
            Statement(
                f"The log has {head.size} entries under the root {head.root().hex()}.",
                facts.cite("checkpoint"),
            ),
            Statement(
                "The charter is signed by the governance key with the fingerprint "
                f"{_governance(facts)}; compare it by voice with the registrar's.",
                facts.cite("governance"),
            ),
            Table(
                "Steps of the offline verification; all passed",
                ("Step", "Title", "Finding"),
                tuple(
                    Row(
                        (str(step.number), step.title, step.finding),
                        _step_evidence(facts, step.title),
                    )
                    for step in facts.verdict.steps
                ),
                (0.6, 1.8, 5.0, 1.9),
                numbers=(0,),
            ),
            Statement(
                "That no other history was shown to a party that did not cosign this one; compare "
                "checkpoints with it.",
                basis="not-shown",
            ),
        ),
    )


def _governance(facts: Facts) -> str:
    return fingerprint(governance_key_of(facts.files))


def _step_evidence(facts: Facts, title: str) -> tuple[Evidence, ...]:
    found = tuple(item for topic in _STEP_TOPICS.get(title, ()) for item in facts.cite(topic))
    return found or facts.cite("index")
