"""Step 13 of the verifier: this is the history that the witnesses saw, and enough of them did.

A hospital cosigns after every sum that it opened. More hospitals than may collude must have
cosigned a tree that includes the last opened round, so that at least one honest one has. If those
who cosigned are so many that no other history can have as many (any two such sets of hospitals
share more than may collude), nobody can have been shown another; with fewer it is said so.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_secure.charter import Charter
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.cosignature import Cosigned, open_cosigned
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify_log import Record
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import CLOCK_SKEW


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Who cosigned this history."""

    hospitals: tuple[str, ...]
    """Of a tree that includes the last opened round."""
    auditors: tuple[str, ...]
    size: int
    """Of the largest tree that is cosigned; 0 if none is."""
    exclusive: bool
    """Whether another history cannot have been cosigned by as many hospitals."""

    @property
    def warning(self) -> str | None:
        """What only a person can judge."""
        if self.exclusive:
            return None
        return (
            f"only {len(self.hospitals)} hospitals cosigned the whole log: others may have been "
            "shown another one. Ask them for STATE/hospital/charters/*/witnessed.txt."
        )


def check_witnesses(files: BundleFiles, record: Record) -> Witnesses:
    """Step 13: every cosignature is of this log, and more hospitals than may collude gave one."""
    cosigned = [
        _checked(record, Identity(record.charter.federation, role, name), note)
        for (role, name), note in layout.cosigned(files).items()
    ]
    last = _last_opened(record)
    hospitals = [
        item.witness.name
        for item in cosigned
        if item.witness.role is Role.HOSPITAL and item.checkpoint.size > last
    ]
    auditors = [item.witness.name for item in cosigned if item.witness.role is Role.AUDITOR]
    colluders = record.charter.cohort.colluders
    if last >= 0 and len(hospitals) <= colluders:
        raise BundleRefused(
            f"{len(hospitals)} hospitals cosigned the log with its last opened round, and "
            f"{colluders} may collude; ask the hospitals what log they were shown."
        )
    return Witnesses(
        hospitals=tuple(hospitals),
        auditors=tuple(auditors),
        size=max((item.checkpoint.size for item in cosigned), default=0),
        exclusive=last < 0 or len(hospitals) >= exclusive_quorum(record.charter),
    )


def exclusive_quorum(charter: Charter) -> int:
    """So many hospitals that any two such sets share more than ``colluders``, or all of them."""
    hospitals = len(charter.hospitals)
    return min(hospitals, (hospitals + charter.cohort.colluders) // 2 + 1)


def _checked(record: Record, witness: Identity, note: bytes) -> Cosigned:
    item = open_cosigned(note, charter=record.charter, witness=witness)
    tree, size = record.tree.hashes, item.checkpoint.size
    if size > tree.size or tree.root(size) != item.checkpoint.root:
        raise BundleRefused(
            f"{witness} cosigned another log than this one, and the aggregator signed both: it has "
            "shown two histories. Keep the bundle; it proves that."
        )
    made = record.entries[size - 1].unix_milliseconds // 1000 if size else 0
    if item.unix_seconds + CLOCK_SKEW.total_seconds() < made:
        raise BundleRefused(f"{witness} cosigned entries before they were made; check its clock.")
    return item


def _last_opened(record: Record) -> int:
    """Index of the entry that opened the last sum; -1 if there is none."""
    opened = (index for index, entry in enumerate(record.entries) if entry.HasField("round_summed"))
    return max(opened, default=-1)
