"""Steps 6 to 8 of the verifier: manifests, receipts, rounds and the custodians' statements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.charter import SignedParty
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.receipts import check_receipt, parse_receipt
from fedhelp_secure.evidence.verify_log import Record
from fedhelp_secure.secure_sum.answers import (
    DECRYPTOR_KIND,
    UNMASKER_KIND,
    DecryptorStatement,
    UnmaskerStatement,
)
from fedhelp_secure.secure_sum.cohort import check_cohort
from fedhelp_secure.secure_sum.contribution import Manifest, open_manifest
from fedhelp_secure.signing import open_document
from fedhelp_secure.wire.v1.evidence_pb2 import ContributionAccepted, RoundSummed

_ENDINGS: Mapping[tuple[str, ...], bool] = {
    ("round_opened", "round_closed", "round_summed"): True,
    ("round_opened", "round_closed", "round_failed"): False,
    ("round_opened", "round_failed"): False,
    ("round_failed",): False,
}
"""Every life of a round that has ended, and whether it ended with a sum."""


_Statement = TypeVar("_Statement", DecryptorStatement, UnmaskerStatement)

_DECRYPTOR = TypeAdapter(DecryptorStatement)
_UNMASKER = TypeAdapter(UnmaskerStatement)


@dataclass(frozen=True, slots=True)
class Accepted:
    """One contribution that the log accepted, its manifest verified."""

    index: int
    event: ContributionAccepted
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Rounds:
    """How the rounds ended: numbers of those with a sum, and of those without."""

    summed: tuple[int, ...]
    failed: tuple[int, ...]
    last_index: int
    """Index in the log of the entry that ended the last of them."""


def check_manifests(record: Record) -> tuple[Accepted, ...]:
    """Step 6: every accepted contribution has a manifest by its hospital that says the same."""
    accepted: list[Accepted] = []
    seen: set[tuple[str, int]] = set()
    for index, entry in enumerate(record.entries):
        if entry.WhichOneof("event") != "contribution_accepted":
            continue
        event = entry.contribution_accepted
        if (event.hospital, event.round) in seen:
            raise BundleRefused(f"entry {index}: a hospital contributed twice to one round.")
        seen.add((event.hospital, event.round))
        accepted.append(Accepted(index, event, _manifest(record, index, event)))
    if not accepted:
        raise BundleRefused("the log has no contribution: there is nothing to verify.")
    return tuple(accepted)


def _manifest(record: Record, index: int, event: ContributionAccepted) -> Manifest:
    try:
        manifest = open_manifest(record.charter, record.objects[event.manifest_digest])
    except FedHelpError as error:
        raise BundleRefused(f"the manifest that entry {index} names is refused: {error}") from error
    pairs = (
        (manifest.hospital, event.hospital),
        (manifest.round, event.round),
        (manifest.ciphertext_digest, event.ciphertext_digest),
        (manifest.ciphertext_bytes, event.ciphertext_bytes),
    )
    if any(said != logged for said, logged in pairs):
        raise BundleRefused(f"entry {index} of the log differs from the manifest that it names.")
    return manifest


def check_receipts(files: BundleFiles, record: Record, accepted: tuple[Accepted, ...]) -> int:
    """Step 7: every accepted contribution has its receipt, and every receipt's tree is this log's.

    A receipt under a checkpoint that this log does not continue shows that the aggregator keeps
    two histories. Returns the number of receipts.
    """
    receipts = layout.receipts(files)
    expected = {(item.event.hospital, item.event.round): item for item in accepted}
    for hospital, number in sorted(expected.keys() | receipts.keys()):
        path = layout.receipt_path(hospital, number)
        if (hospital, number) not in receipts:
            raise BundleRefused(f"{path} is missing, but the log has that contribution.")
        if (hospital, number) not in expected:
            raise BundleRefused(f"{path} is for a contribution that the log does not have.")
        try:
            _check_receipt(record, expected[hospital, number], receipts[hospital, number])
        except FedHelpError as error:
            raise BundleRefused(f"{path} is refused: {error}") from error
    return len(receipts)


def _check_receipt(record: Record, item: Accepted, data: bytes) -> None:
    key, origin = record.charter.aggregator.verifying_key(), log_origin(record.charter)
    receipt = parse_receipt(data)
    check_receipt(receipt, log_key=key, origin=origin)
    head = open_checkpoint(receipt.checkpoint, origin=origin, key=key)
    tree = record.tree
    if head.size > tree.hashes.size or tree.hashes.root(head.size) != head.root:
        raise BundleRefused("its checkpoint is not a beginning of this log.")
    if receipt.index != item.index or receipt.entry != tree.leaves[item.index]:
        raise BundleRefused("it is for another entry.")


def check_rounds(record: Record, accepted: tuple[Accepted, ...]) -> Rounds:
    """Step 8: every round ended, once, over the contributions accepted while it was open.

    A round with a sum has a cohort, and every custodian's own signed statement about exactly that
    set.
    """
    lives = _lives(record)
    numbers = list(lives)
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise BundleRefused("the rounds in the log are not 1, 2, 3 and so on.")
    if len(numbers) > record.charter.rounds.count:
        raise BundleRefused("the log has more rounds than the charter allows.")
    summed = [number for number in numbers if _has_sum(number, lives[number])]
    if summed != numbers[: len(summed)]:
        raise BundleRefused("the log has a sum for a round after one that failed.")
    _check_order(lives)
    for number in numbers:
        members = [item for item in accepted if item.event.round == number]
        _check_members(record, lives[number], members)
        if number in summed:
            _check_statements(record, number, members)
    if {item.event.round for item in accepted} - set(numbers):
        raise BundleRefused("the log has a contribution to a round that was never opened.")
    last = max(index for life in lives.values() for index in life.values())
    return Rounds(tuple(summed), tuple(numbers[len(summed) :]), last)


_Life = dict[str, int]
"""Index in the log by the name of a round's event, in the log's order."""


def _lives(record: Record) -> dict[int, _Life]:
    lives: dict[int, _Life] = {}
    for index, entry in enumerate(record.entries):
        name = entry.WhichOneof("event")
        if name in {"round_opened", "round_closed", "round_summed", "round_failed"}:
            number: int = getattr(entry, str(name)).round
            life = lives.setdefault(number, {})
            if name in life:
                raise BundleRefused(f"entry {index}: round {number} has that event twice.")
            life[str(name)] = index
    return lives


def _has_sum(number: int, life: _Life) -> bool:
    try:
        return _ENDINGS[tuple(life)]
    except KeyError as error:
        raise BundleRefused(
            f"round {number} must be opened, closed and summed, or fail, in that order; the log "
            "has something else, or the round is still running."
        ) from error


def _check_order(lives: dict[int, _Life]) -> None:
    ended = -1
    for number, life in lives.items():
        begun = next(iter(life.values()))
        if begun < ended:
            raise BundleRefused(f"round {number} began before the round before it had ended.")
        ended = list(life.values())[-1]


def _check_members(record: Record, life: _Life, members: list[Accepted]) -> None:
    closed = life.get("round_closed", life.get("round_failed", -1))
    begun = life.get("round_opened", closed)
    for item in members:
        if not begun < item.index < closed:
            raise BundleRefused(
                f"entry {item.index}: a contribution was accepted while its round was not open."
            )
    if "round_closed" in life:
        listed = list(record.entries[closed].round_closed.hospitals)
        if listed != sorted(item.event.hospital for item in members):
            raise BundleRefused(
                f"entry {closed}: the round was closed over another set than was accepted."
            )
        check_cohort(record.charter, listed)


def _check_statements(record: Record, number: int, members: list[Accepted]) -> None:
    summed = next(
        entry.round_summed
        for entry in record.entries
        if entry.WhichOneof("event") == "round_summed" and entry.round_summed.round == number
    )
    decryptor = _opened(
        _DECRYPTOR,
        DECRYPTOR_KIND,
        record,
        record.charter.custodians.decryptor,
        summed.decryptor_statement_digest,
    )
    _check_about(record, number, decryptor)
    if decryptor.sum_digest != summed.sum_digest:
        raise BundleRefused(f"round {number}: the decryptor opened another sum than was logged.")
    _check_unmaskers(record, summed, members)


def _check_unmaskers(record: Record, summed: RoundSummed, members: list[Accepted]) -> None:
    unmaskers, names = record.charter.custodians.unmaskers, summed.unmasker_statement_digests
    if len(names) != len(unmaskers):
        raise BundleRefused(
            f"round {summed.round}: the log names {len(names)} unmaskers' statements, but the "
            f"charter has {len(unmaskers)} unmaskers."
        )
    expected = [
        (item.event.hospital, item.event.manifest_digest, item.event.ciphertext_digest)
        for item in sorted(members, key=lambda item: item.event.hospital)
    ]
    for unmasker, name in zip(unmaskers, names, strict=True):
        statement = _opened(_UNMASKER, UNMASKER_KIND, record, unmasker, name)
        _check_about(record, summed.round, statement)
        if statement.unmasker != unmasker.name:
            raise BundleRefused(
                f"round {summed.round}: a statement that {unmasker.name} signed names another "
                "unmasker."
            )
        listed = [
            (item.hospital, item.manifest_digest, item.ciphertext_digest)
            for item in statement.contributions
        ]
        # Each with the log's: all of them then agree on one set.
        if listed != expected:
            raise BundleRefused(
                f"round {summed.round}: the statement of the unmasker {unmasker.name} lists other "
                "contributions than the log."
            )


def _check_about(
    record: Record, number: int, statement: DecryptorStatement | UnmaskerStatement
) -> None:
    if (statement.charter, statement.round) != (record.charter.digest, number):
        raise BundleRefused(f"a custodian's statement is not about round {number}.")


def _opened(
    adapter: TypeAdapter[_Statement], kind: str, record: Record, party: SignedParty, name: str
) -> _Statement:
    document = open_document(kind, record.objects[name], party.verifying_key())
    try:
        return adapter.validate_json(canonical_json(document))
    except ValidationError as error:
        raise BundleRefused(f"a {kind} has other fields than it must.") from error
