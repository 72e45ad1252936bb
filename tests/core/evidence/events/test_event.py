"""The mapping of every kind of entry, and that nothing but plain forms gets through it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import uuid

import pytest
from core.evidence.events.conftest import event_of
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import Story
from support.federation import Federation
from support.structured_data import read

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.evidence.entries import serialise_entry
from fedhelp_secure.evidence.events import fhir, lines, syslog
from fedhelp_secure.evidence.events.event import MAXIMUM_LISTED, AuditEvent
from fedhelp_secure.evidence.events.formats import written
from fedhelp_secure.evidence.events.options import EventFormat
from fedhelp_secure.evidence.events.vocabulary import EVENTS, STATEMENTS, Outcome, Severity
from fedhelp_secure.evidence.merkle import leaf_hash
from fedhelp_secure.evidence.verify_log import STATEMENT_KINDS
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1 import evidence_pb2 as wire

PLAIN = re.compile(
    r"(withheld:)?sha256:[0-9a-f]{64}|[a-z0-9-]+|[0-9]+|spiffe://[a-z0-9-]+/[a-z]+/[a-z0-9-]+"
)
HOSTILE = st.text() | st.sampled_from(
    [
        'x"] [forged@1 a="b"]',
        "small-1\n<104>1 - - - - - forged",
        "small-1\r\nforged",
        "\\",
        '\\"',
        "]",
        "\x00",
        "\x1b[31m",
        "Jane Doe, born 1970-01-01",
        "../../etc/passwd",
        "small-1/../large-1",
        "\u2028forged",
        "small-1\n",
        "sha256:" + "0" * 64 + "\n",
    ]
)


def test_every_kind_of_entry_has_a_meaning_of_its_own() -> None:
    kinds = {field.name for field in wire.LogEntry.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert kinds == {*EVENTS, "statement_submitted"}
    assert set(STATEMENTS) == STATEMENT_KINDS
    meanings = [*EVENTS.values(), *STATEMENTS.values()]
    assert len({meaning.kind for meaning in meanings}) == len(meanings)
    assert all(re.fullmatch(r"[a-z-]{1,32}", meaning.kind) for meaning in meanings)


def test_what_went_wrong_is_no_success(events: list[AuditEvent]) -> None:
    failed = {
        event.meaning.kind: (event.meaning.outcome, event.meaning.severity)
        for event in events
        if event.meaning.outcome is not Outcome.SUCCESS
    }
    assert failed == {
        "contribution-rejected": (Outcome.MINOR_FAILURE, Severity.WARNING),
        "round-failed": (Outcome.SERIOUS_FAILURE, Severity.ERROR),
        "session-taken-over": (Outcome.SERIOUS_FAILURE, Severity.ALERT),
    }


def test_an_event_says_who_and_what(federation: Federation, entries: list[wire.LogEntry]) -> None:
    event = event_of(federation, 2, entries[2])
    name = federation.charter.federation
    assert event.agents == (f"spiffe://{name}/hospital/small-1",)
    assert event.observer.startswith(f"spiffe://{name}/aggregator/")
    assert event.leaf == f"sha256:{leaf_hash(serialise_entry(entries[2])).hex()}"
    assert event.recorded.isoformat() == "2023-11-14T22:13:20.002000+00:00"
    assert [(one.what, one.digest) for one in event.objects] == [
        ("charter", federation.charter.digest),
        ("manifest", f"sha256:{1:064x}"),
        ("ciphertext", f"sha256:{2:064x}"),
    ]
    assert event.details == (("round", "3"), ("bytes", str(2**64 - 1)))


def test_the_identifier_is_the_log_its_charter_and_the_index(events: list[AuditEvent]) -> None:
    charter = f"sha256:{'ab' * 32}"
    made = dataclasses.replace(events[0], log="testfed/aggregator/log", charter=charter, index=7)
    # RFC 9562 section 5.5 by hand: an identifier that changes is an event that is counted twice.
    assert made.identifier == uuid.UUID("496c85d8-03e7-5c68-8f8c-5ac3a0b59c94")
    assert dataclasses.replace(made, leaf=events[1].leaf).identifier == made.identifier
    others = [
        dataclasses.replace(made, index=8),
        dataclasses.replace(made, log="other/a/log"),
        dataclasses.replace(made, charter=events[0].charter),
    ]
    assert len({made.identifier, *(one.identifier for one in others)}) == 4
    assert len({event.identifier for event in events}) == len(events)


def test_an_impossible_time_is_refused(federation: Federation) -> None:
    entry = wire.LogEntry(
        unix_milliseconds=253_402_300_800_000, round_failed=wire.RoundFailed(round=1)
    )
    with pytest.raises(MalformedMessage, match="entry 5 of the log has an impossible time"):
        event_of(federation, 5, entry)
    entry.unix_milliseconds -= 1
    assert event_of(federation, 5, entry).recorded.year == 9999


def test_a_long_list_is_counted(federation: Federation) -> None:
    names = [f"h-{number}" for number in range(5000)]
    event = event_of(federation, 0, wire.LogEntry(round_closed=wire.RoundClosed(hospitals=names)))
    withheld = "withheld:" + digest("\n".join(names).encode())
    assert event.details[1:] == (("hospitals", withheld), ("hospitals-count", "5000"))
    assert len(syslog.message(event)) < 8192


def test_the_longest_list_fits_a_message(federation: Federation) -> None:
    names = [f"{number:02}{'x' * 61}" for number in range(MAXIMUM_LISTED)]
    digests = [f"sha256:{number:064x}" for number in range(MAXIMUM_LISTED)]
    for entry in (
        wire.LogEntry(round_closed=wire.RoundClosed(round=2**32 - 1, hospitals=names)),
        wire.LogEntry(round_opened=wire.RoundOpened(round=1, round_begun_digests=digests)),
        wire.LogEntry(round_summed=wire.RoundSummed(unmasker_statement_digests=digests)),
    ):
        text = syslog.message(event_of(federation, 0, entry))
        assert names[-1] in text or digests[-1] in text
        assert len(text) < 8192


def text_fields(event: Message) -> list[tuple[str, bool]]:
    """Name of every text field, and whether it is a list."""
    fields = event.DESCRIPTOR.fields
    return [(one.name, one.is_repeated) for one in fields if one.type == one.TYPE_STRING]


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=20))
def test_hostile_text_adds_no_line_and_no_element(
    federation: Federation, entries: list[wire.LogEntry], texts: list[str]
) -> None:
    drawn = itertools.cycle(texts)
    for index, original in enumerate(entries):
        entry = wire.LogEntry.FromString(original.SerializeToString())
        event = getattr(entry, str(entry.WhichOneof("event")))
        for name, repeated in text_fields(event):
            if repeated:
                del getattr(event, name)[:]
                getattr(event, name).append(next(drawn))
            else:
                setattr(event, name, next(drawn))
        check_plain(event_of(federation, index, entry), texts)


def check_plain(event: AuditEvent, texts: list[str]) -> None:
    values = [event.observer, *event.agents, *(one.digest for one in event.objects)]
    values += [part for _, value in event.details for part in value.split(" ")]
    assert all(PLAIN.fullmatch(value) or value == "" for value in values)
    hidden = [text for text in texts if len(text) > 5 and not PLAIN.fullmatch(text)]
    for chosen in EventFormat:
        text = written([event], chosen)
        assert text.isascii()
        assert text.count("\n") == 1
        assert text.isprintable() or text[:-1].isprintable()
        assert not any(one in text for one in hidden)
    _, name, parameters, said = read(syslog.message(event))
    assert name == "fedhelp@32473"
    assert parameters["index"] == str(event.index)
    assert parameters["agent"] == " ".join(event.agents)
    assert said == event.meaning.sentence


def test_no_secret_and_no_content_of_an_object_is_in_an_event(
    federation: Federation, true_story: Story
) -> None:
    """Events are made of entries alone: whatever parties hold or signed stays where it is."""
    made = [event_of(federation, index, one) for index, one in enumerate(true_story.entries)]
    shown = "".join(written(made, chosen) for chosen in EventFormat).encode()
    secrets = [
        line
        for state in (federation.state("small-1"), federation.state("decryptor"))
        for path in (state.signing_key_path, state.tls_key_path)
        for line in path.read_bytes().splitlines()
        if not line.startswith(b"-----")
    ]
    payloads = [json.loads(envelope)["payload"].encode() for envelope in true_story.objects]
    assert len(secrets) > 4
    assert len(payloads) > 4
    assert not any(one in shown for one in [*secrets, *payloads, *true_story.ledgers.values()])
    for event in made:
        check_plain(event, [])
        for uri in event.agents:
            Identity.from_uri(uri)


def test_the_formats_agree(events: list[AuditEvent]) -> None:
    for event in events:
        flat, resource = lines.document(event), fhir.resource(event)
        _, _, parameters, _ = read(syslog.message(event))
        assert flat["id"] == resource["id"] == parameters["id"] == str(event.identifier)
        assert flat["recorded"] == resource["recorded"]
        assert str(flat["outcome"]) == resource["outcome"] == parameters["outcome"]
        assert flat["agents"] == [one["who"]["identifier"]["value"] for one in resource["agent"]]
        assert canonical_json(flat).decode() + "\n" == written([event], EventFormat.JSON_LINES)
