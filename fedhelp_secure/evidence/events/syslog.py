"""Syslog messages with structured data (RFC 5424), and their framing for TLS (RFC 5425 4.3).

The standard library's handlers write the older form and no TLS; a message is a line of text, so
this page writes it. The structured data has one element, named with a private enterprise number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.evidence.events.event import AuditEvent
from fedhelp_secure.evidence.events.vocabulary import Severity

EXAMPLE_ENTERPRISE = 32473
"""The number that RFC 5612 keeps for examples: deployments give their own."""

LOG_AUDIT = 13
"""The facility "log audit" (RFC 5424, table 1)."""

_NAME = re.compile(r"[!#-<>-\\^-~]{1,32}")
"""SD-NAME: printable ASCII but ``=``, ``]``, quotes and spaces."""
_SPECIAL = re.compile(r'(["\\\]])')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class SyslogNameMalformed(ConfigurationError):
    """A name of structured data, or a header field, has characters that RFC 5424 does not allow."""

    code = "syslog-name"


def escaped(value: str) -> str:
    """``value`` as PARAM-VALUE (section 6.3.3): quote, backslash and bracket behind a backslash.

    The RFC allows control characters there; receivers that write lines do not survive them, so
    each becomes U+FFFD.
    """
    return _SPECIAL.sub(r"\\\1", _CONTROL.sub("�", value))


def element(name: str, parameters: Iterable[tuple[str, str]]) -> str:
    """One SD-ELEMENT (section 6.3); raises SyslogNameMalformed for a bad name."""
    pairs = [f'{_checked_name(key)}="{escaped(value)}"' for key, value in parameters]
    return f"[{' '.join([_checked_name(name), *pairs])}]"


def header(
    *,
    severity: Severity,
    time: datetime,
    host: str,
    message_id: str,
    facility: int = LOG_AUDIT,
    application: str = "fedhelp",
) -> str:
    """HEADER (section 6.2) with version 1, ``time`` in UTC to the millisecond, and no PROCID."""
    for field, limit in ((host, 255), (message_id, 32)):
        if not re.fullmatch(rf"[!-~]{{1,{limit}}}", field):
            raise SyslogNameMalformed("a host or message name is not printable ASCII; rename it.")
    priority = facility * 8 + severity
    stamp = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"<{priority}>1 {stamp} {host} {application} - {message_id}"


def message(event: AuditEvent, *, enterprise: int = EXAMPLE_ENTERPRISE) -> str:
    """The event as one SYSLOG-MSG of ASCII without line breaks, below 8,192 octets.

    MSG is ASCII and so needs no byte order mark, which is for MSG in other UTF-8 (section 6.4); the
    structured data never has one. RFC 5425 section 4.3.1: receivers should take 8,192 octets.
    """
    meaning = event.meaning
    head = header(
        severity=meaning.severity,
        time=event.recorded,
        host=event.observer.rpartition("/")[2],
        message_id=meaning.kind,
    )
    data = element(f"fedhelp@{enterprise}", _parameters(event))
    return f"{head} {data} {meaning.sentence}"


def frame(text: str) -> bytes:
    """Octet counting: the length in octets, a space, the message."""
    octets = text.encode()
    return b"%d %s" % (len(octets), octets)


def _parameters(event: AuditEvent) -> Iterable[tuple[str, str]]:
    meaning = event.meaning
    yield "id", str(event.identifier)
    yield "log", event.log
    yield "index", str(event.index)
    yield "leaf", event.leaf
    yield "kind", meaning.kind
    yield "type", meaning.type.code
    yield "subtype", " ".join(one.code for one in meaning.subtypes)
    yield "action", meaning.action
    yield "outcome", str(meaning.outcome.value)
    yield "observer", event.observer
    yield "agent", " ".join(event.agents)
    by_kind: dict[str, list[str]] = {}
    for one in event.objects:
        by_kind.setdefault(one.what, []).append(one.digest)
    yield from ((what, " ".join(digests)) for what, digests in by_kind.items())
    yield from event.details


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SyslogNameMalformed("a name of structured data is not one of RFC 5424; rename it.")
    return name
