"""Step 9 of the verifier: the custodians' key epochs, and that every round kept to them.

Whatever a custodian states of its keys is in the log under its own signature, in the order in which
the aggregator was told. So a round that was opened under a key that had been destroyed, or two
beginnings of one round, would be seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.layout import BundleRefused
from fedhelp_secure.evidence.verify_log import Record
from fedhelp_secure.evidence.verify_rounds import Accepted
from fedhelp_secure.secure_sum.epochs import (
    BEGUN_KIND,
    DESTROYED_KIND,
    EPOCH_KIND,
    CustodianParty,
    RoundBegun,
    open_begun,
    open_destroyed,
)
from fedhelp_secure.secure_sum.round_keys import custodian_parties, open_chain, round_keys_digest
from fedhelp_secure.wire.v1.evidence_pb2 import StatementSubmitted

KEY_KINDS = frozenset({EPOCH_KIND, BEGUN_KIND, DESTROYED_KIND})
"""What custodians state of their keys; it is the DSSE kind too."""


@dataclass(frozen=True, slots=True)
class Epochs:
    """What the step proves."""

    rounds: int
    """Rounds that were begun, each under one epoch of every custodian."""
    epochs: int
    """Stated by all custodians together."""
    destroyed: int


@dataclass(slots=True)
class _Custodian:
    """What one custodian has stated so far, in the log's order."""

    party: CustodianParty
    chain: list[bytes] = field(default_factory=list)
    """Envelopes of its epochs."""
    begun: dict[int, RoundBegun] = field(default_factory=dict)
    envelopes: dict[int, bytes] = field(default_factory=dict)
    """Of `begun`."""
    summed: set[int] = field(default_factory=set)
    destroyed: set[int] = field(default_factory=set)

    def number(self, statement: str) -> int:
        """The number of the epoch whose statement has this digest; BundleRefused if none has."""
        for place, envelope in enumerate(self.chain):
            if digest(envelope) == statement:
                return self.party.first_epoch + place
        raise BundleRefused(
            f"{self.party.identity.name} refers to a key epoch that it has not stated."
        )


def check_epochs(record: Record, accepted: tuple[Accepted, ...]) -> Epochs:
    """Step 9: every round was begun by every custodian under an epoch that follows from the
    charter's keys, every manifest of it names just that, and nothing was opened under a key after
    the record that it was destroyed.
    """
    custodians = {
        party.identity.uri: _Custodian(party) for party in custodian_parties(record.charter)
    }
    opened: dict[int, str] = {}
    for index, entry in enumerate(record.entries):
        match entry.WhichOneof("event"):
            case "statement_submitted" if entry.statement_submitted.kind in KEY_KINDS:
                _state(record, index, custodians, entry.statement_submitted)
            case "round_opened":
                begun = list(entry.round_opened.round_begun_digests)
                number = entry.round_opened.round
                opened[number] = _opened(number, begun, list(custodians.values()))
            case "round_summed":
                _summed(entry.round_summed.round, custodians.values())
    _check_no_stray_beginning(opened, custodians.values())
    for item in accepted:
        if item.manifest.round_keys_digest != opened.get(item.event.round):
            raise BundleRefused(
                f"entry {item.index}: the manifest was made for other keys than the custodians "
                "bound its round to."
            )
    return Epochs(
        rounds=len(opened),
        epochs=sum(len(one.chain) for one in custodians.values()),
        destroyed=sum(len(one.destroyed) for one in custodians.values()),
    )


def _state(
    record: Record, index: int, custodians: dict[str, _Custodian], event: StatementSubmitted
) -> None:
    custodian = custodians.get(event.submitter)
    if custodian is None:
        raise BundleRefused(f"entry {index}: a key statement is by no custodian of the charter.")
    envelope = record.objects[event.envelope_digest]
    name = custodian.party.identity.name
    if event.kind == EPOCH_KIND:
        # The whole chain again: it is short, and there is one check of chains.
        custodian.chain.append(envelope)
        open_chain(custodian.party, custodian.chain)
    elif event.kind == BEGUN_KIND:
        begun = open_begun(custodian.party, envelope)
        _check_begun(record, custodian, begun, index)
        custodian.begun[begun.round], custodian.envelopes[begun.round] = begun, envelope
    else:
        gone = open_destroyed(custodian.party, envelope)
        number = custodian.number(gone.epoch_statement)
        bound = {one.round for one in custodian.begun.values() if one.epoch == number}
        latest = custodian.party.first_epoch + len(custodian.chain) - 1
        if gone.epoch != number or number in custodian.destroyed or number == latest:
            raise BundleRefused(
                f"entry {index}: {name} states the end of epoch {gone.epoch} wrongly."
            )
        if not gone.abandoned and not bound <= custodian.summed:
            raise BundleRefused(
                f"entry {index}: {name} says that every round of epoch {number} was answered, but "
                "the log has one that was not opened."
            )
        custodian.destroyed.add(number)


def _check_begun(record: Record, custodian: _Custodian, begun: RoundBegun, index: int) -> None:
    name = custodian.party.identity.name
    if begun.charter != record.charter.digest:
        raise BundleRefused(f"entry {index}: {name} began a round of another charter.")
    if begun.round in custodian.begun:
        raise BundleRefused(f"entry {index}: {name} began round {begun.round} a second time.")
    if begun.epoch != custodian.number(begun.epoch_statement):
        raise BundleRefused(f"entry {index}: {name} began a round under an epoch of another name.")
    if begun.epoch in custodian.destroyed:
        raise BundleRefused(
            f"entry {index}: {name} began round {begun.round} under epoch {begun.epoch}, which it "
            "had destroyed."
        )
    if any(begun.epoch < earlier.epoch for earlier in custodian.begun.values()):
        raise BundleRefused(f"entry {index}: {name} went back to an earlier epoch.")
    if any(begun.nonce == earlier.nonce for earlier in custodian.begun.values()):
        raise BundleRefused(f"entry {index}: {name} used a nonce twice.")


def _opened(number: int, begun: list[str], custodians: list[_Custodian]) -> str:
    """The digest that manifests of the round must name."""
    envelopes = [one.envelopes.get(number, b"") for one in custodians]
    if begun != [digest(envelope) for envelope in envelopes]:
        raise BundleRefused(
            f"round {number} was opened before every custodian had begun it, or with other "
            "statements than theirs."
        )
    return round_keys_digest(envelopes)


def _summed(number: int, custodians: Iterable[_Custodian]) -> None:
    for custodian in custodians:
        begun = custodian.begun.get(number)
        if begun is not None and begun.epoch in custodian.destroyed:
            raise BundleRefused(
                f"round {number} was opened under epoch {begun.epoch} of "
                f"{custodian.party.identity.name}, which it had destroyed."
            )
        custodian.summed.add(number)


def _check_no_stray_beginning(opened: dict[int, str], custodians: Iterable[_Custodian]) -> None:
    for custodian in custodians:
        for number in custodian.begun.keys() - opened.keys():
            raise BundleRefused(
                f"{custodian.party.identity.name} began round {number}, which was never opened."
            )
