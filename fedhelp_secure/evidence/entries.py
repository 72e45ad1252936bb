"""Log entries as bytes: one message, one byte form."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.wire.v1.evidence_pb2 import LogEntry

MAXIMUM_ENTRY_BYTES = 1 << 20


def serialise_entry(entry: LogEntry) -> bytes:
    """The leaf's bytes; raises MalformedMessage if the entry has no event or is over 1 MiB."""
    data = entry.SerializeToString(deterministic=True)
    if entry.WhichOneof("event") is None or len(data) > MAXIMUM_ENTRY_BYTES:
        raise MalformedMessage("a log entry needs one event and at most 1 MiB.")
    return data


def parse_entry(data: bytes) -> LogEntry:
    """The entry in ``data``; raises MalformedMessage unless it is exactly what `serialise_entry`
    makes: unknown fields, absent events and other encodings of the same message are refused.
    """
    entry = LogEntry()
    try:
        entry.ParseFromString(data)
    except DecodeError as error:
        raise MalformedMessage("a log entry is not a LogEntry message.") from error
    entry.DiscardUnknownFields()
    if serialise_entry(entry) != data:
        raise MalformedMessage("a log entry is not in its one byte form.")
    return entry


def named_objects(entry: LogEntry) -> tuple[str, ...]:
    """Digests of the signed envelopes that ``entry`` names: a manifest, statements."""
    summed = entry.round_summed
    match entry.WhichOneof("event"):
        case "contribution_accepted":
            return (entry.contribution_accepted.manifest_digest,)
        case "round_summed":
            return (summed.decryptor_statement_digest, *summed.unmasker_statement_digests)
        case "statement_submitted":
            return (entry.statement_submitted.envelope_digest,)
        case _:
            return ()
