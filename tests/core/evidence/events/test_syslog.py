"""RFC 5424: its own examples, escaping, framing."""

from __future__ import annotations

import datetime
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.structured_data import parameters, read

from fedhelp_secure.evidence.events import syslog
from fedhelp_secure.evidence.events.event import AuditEvent
from fedhelp_secure.evidence.events.syslog import SyslogNameMalformed
from fedhelp_secure.evidence.events.vocabulary import Severity

TIME = datetime.datetime(2003, 10, 11, 22, 14, 15, 3000, tzinfo=datetime.UTC)
EXAMPLE = [("iut", "3"), ("eventSource", "Application"), ("eventID", "1011")]


def test_the_examples_of_the_rfc() -> None:
    """Section 6.5, example 3, and section 6.3.5, examples 1 and 2."""
    first = '[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"]'
    assert syslog.element("exampleSDID@32473", EXAMPLE) == first
    second = syslog.element("examplePriority@32473", [("class", "high")])
    assert second == '[examplePriority@32473 class="high"]'
    head = syslog.header(
        severity=Severity.NOTICE,
        time=TIME,
        host="mymachine.example.com",
        message_id="ID47",
        facility=20,
        application="evntslog",
    )
    expected = "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47"
    assert head == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"', r"\""),
        ("\\", "\\\\"),
        ("]", r"\]"),
        ("[=' ", "[=' "),
        ('\\"]', r"\\\"\]"),
        ("\n\r\x00\x7f\x85\u2028", "������"),
        ("é", "é"),
    ],
)
def test_escaping(value: str, expected: str) -> None:
    """Section 6.3.3."""
    assert syslog.escaped(value) == expected


@given(values=st.lists(st.text(), max_size=4))
def test_any_value_reads_back_and_ends_no_element(values: list[str]) -> None:
    named = [(f"p{place}", value) for place, value in enumerate(values)]
    text = syslog.element("x@32473", named)
    assert len(text.splitlines()) == 1
    found = parameters(text.removeprefix("[x@32473").removesuffix("]"))
    assert list(found) == [name for name, _ in named]
    for name, value in named:
        assert len(found[name]) == len(value)
        assert all(a == b or a == "�" for a, b in zip(found[name], value, strict=True))


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a]", 'a"', "é", "a\n", "x" * 33])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(SyslogNameMalformed):
        syslog.element(name, [])
    with pytest.raises(SyslogNameMalformed):
        syslog.element("x@1", [(name, "value")])


@pytest.mark.parametrize("host", ["", "a b", "a\n", "é", "h" * 256])
def test_a_bad_header_field_is_refused(host: str) -> None:
    with pytest.raises(SyslogNameMalformed):
        syslog.header(severity=Severity.NOTICE, time=TIME, host=host, message_id="x")


def test_a_frame_counts_octets() -> None:
    """RFC 5425 section 4.3, RFC 6587 section 3.4.1: octets, not characters."""
    assert syslog.frame("<104>1 é") == b"9 <104>1 \xc3\xa9"


def test_every_event_is_one_message(events: list[AuditEvent]) -> None:
    for event in events:
        text = syslog.message(event, enterprise=55555)
        # So no byte order mark is due (section 6.4), and none is there.
        assert text.isascii()
        assert text.isprintable()
        # Section 6: TIMESTAMP in UTC with upper-case T and Z, and at most six digits.
        assert re.fullmatch(r"<\d{1,3}>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z .*", text)
        head, name, found, said = read(text)
        priority = 13 * 8 + event.meaning.severity
        assert head[0] == str(priority)
        assert head[2:] == ("aggregator", "fedhelp", "-", event.meaning.kind)
        assert name == "fedhelp@55555"
        assert found["log"] == event.log
        assert found["charter"] == event.objects[0].digest
        assert said == event.meaning.sentence
