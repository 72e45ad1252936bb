"""One log entry as an audit event, before it is written in anybody's format.

Only what has one of five plain forms leaves the log: a label, an identity's URI, a digest, a code,
a number. Any other text is withheld and its digest given instead, so that an event holds nothing
of it whatever was written into the log, and no line or element can be injected.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence.events.vocabulary import (
    EVENTS,
    STATEMENTS,
    UNKNOWN_STATEMENT,
    Meaning,
)
from fedhelp_secure.evidence.merkle import leaf_hash
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry

NAMESPACE = uuid.UUID("8bbd1c36-1c0b-4d43-9d0a-6b1f8d1d5f0e")
"""Of the version 5 UUIDs of events (RFC 9562 section 5.5)."""

MAXIMUM_LISTED = 32
"""Of one entry's hospitals or digests; of more, their number and the digest of all is given."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECOND = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class Object:
    """Something signed or summed that an event is about, by its digest."""

    what: str
    digest: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One entry of one log. No field holds a line break, a quote or anything but ASCII."""

    log: str
    """The log's origin, as in its checkpoints."""
    charter: str
    """Digest of the one charter that the log is of."""
    index: int
    """Of the entry, from 0."""
    leaf: str
    """Digest of the entry as the log's tree has it (RFC 6962), to compare with a proof."""
    recorded: datetime
    """UTC, by the log's clock, to the millisecond."""
    meaning: Meaning
    observer: str
    """Identity URI of the aggregator, which keeps the log."""
    agents: tuple[str, ...]
    """Identity URIs of who did it: parties, never persons."""
    objects: tuple[Object, ...]
    """The charter first."""
    details: tuple[tuple[str, str], ...]
    """Names and values, for example ("round", "3")."""

    @property
    def identifier(self) -> uuid.UUID:
        """The same for the same entry of the same log, whenever and wherever it is made.

        An aggregator keeps a log of one name for each charter, so the charter is part of it.
        """
        return uuid.uuid5(NAMESPACE, f"{self.log}\n{self.charter}\n{self.index}")


def audit_event(charter: Charter, log: str, index: int, leaf: bytes, entry: LogEntry) -> AuditEvent:
    """The event of ``entry``, whose bytes are ``leaf``, at ``index`` of the charter's ``log``.

    Raises MalformedMessage for a time after the year 9999, which no format can carry.
    """
    if entry.unix_milliseconds > _LAST_MILLISECOND:
        raise MalformedMessage(f"entry {index} of the log has an impossible time; ask its keeper.")
    reading = _Reading(charter, entry)
    return AuditEvent(
        log=log,
        charter=charter.digest,
        index=index,
        leaf=f"sha256:{leaf_hash(leaf).hex()}",
        recorded=_EPOCH + timedelta(milliseconds=entry.unix_milliseconds),
        meaning=reading.meaning(),
        observer=reading.aggregator,
        agents=tuple(reading.agents()),
        objects=tuple(reading.objects()),
        details=tuple(reading.details()),
    )


class _Reading:
    """What is read from one entry; `kind` is the entry's event as the wire calls it."""

    def __init__(self, charter: Charter, entry: LogEntry) -> None:
        self.charter = charter
        self.kind = str(entry.WhichOneof("event"))
        self.event = getattr(entry, self.kind)
        self.aggregator = Identity(charter.federation, Role.AGGREGATOR, charter.aggregator.name).uri

    def meaning(self) -> Meaning:
        """From the tables of the vocabulary."""
        if self.kind == "statement_submitted":
            return STATEMENTS.get(self.event.kind, UNKNOWN_STATEMENT)
        return EVENTS[self.kind]

    def agents(self) -> Iterator[str]:
        """The hospital or the submitter; else the aggregator, of its own doing."""
        match self.kind:
            case "statement_submitted":
                yield _identity(self.event.submitter)
            case "contribution_accepted" | "contribution_rejected" | "session_taken_over":
                yield self._hospital(self.event.hospital)
            case _:
                yield self.aggregator

    def objects(self) -> Iterator[Object]:
        """What the entry names by digest."""
        event = self.event
        yield Object("charter", _fitting(_DIGEST, self._charter_digest()))
        match self.kind:
            case "round_opened":
                yield from _named("round-begun", event.round_begun_digests)
            case "contribution_accepted":
                yield from _named("manifest", [event.manifest_digest])
                yield from _named("ciphertext", [event.ciphertext_digest])
            case "contribution_rejected" if event.ciphertext_digest:
                yield from _named("ciphertext", [event.ciphertext_digest])
            case "round_summed":
                yield from _named("sum", [event.sum_digest])
                yield from _named("decryptor-statement", [event.decryptor_statement_digest])
                yield from _named("unmasker-statement", event.unmasker_statement_digests)
            case "statement_submitted":
                yield from _named("statement", [event.envelope_digest])

    def details(self) -> Iterator[tuple[str, str]]:
        """Numbers, codes and names."""
        event = self.event
        if "round" in event.DESCRIPTOR.fields_by_name:
            yield "round", str(event.round)
        match self.kind:
            case "contribution_accepted":
                yield "bytes", str(event.ciphertext_bytes)
            case "contribution_rejected" | "round_failed":
                yield "code", _fitting(_CODE, event.code)
            case "round_closed":
                listed = _listed([_fitting(_CODE, name) for name in event.hospitals])
                yield "hospitals", " ".join(listed)
                yield "hospitals-count", str(len(event.hospitals))
            case "session_taken_over":
                yield "times", str(event.times)
            case "statement_submitted":
                yield "statement-kind", _fitting(_CODE, event.kind)

    def _charter_digest(self) -> str:
        """Statements do not name the charter: the log has only one."""
        return str(getattr(self.event, "charter_digest", self.charter.digest))

    def _hospital(self, name: str) -> str:
        return _identity(f"spiffe://{self.charter.federation}/{Role.HOSPITAL.value}/{name}")


def _identity(uri: str) -> str:
    try:
        return Identity.from_uri(uri).uri
    except MalformedMessage:
        return _withheld(uri)


def _fitting(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else _withheld(text)


def _withheld(text: str) -> str:
    return f"withheld:{digest(text.encode())}"


def _named(what: str, digests: Iterable[str]) -> Iterator[Object]:
    for one in _listed([_fitting(_DIGEST, text) for text in digests]):
        yield Object(what, one)


def _listed(values: list[str]) -> list[str]:
    if len(values) <= MAXIMUM_LISTED:
        return values
    return [_withheld("\n".join(values))]
