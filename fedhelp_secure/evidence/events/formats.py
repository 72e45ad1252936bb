"""Events as text, in each format."""

from __future__ import annotations

from collections.abc import Iterable

from fedhelp_secure.canonical import canonical_json
from fedhelp_secure.evidence.events import fhir, lines, syslog
from fedhelp_secure.evidence.events.event import AuditEvent
from fedhelp_secure.evidence.events.options import EventFormat


def written(
    events: Iterable[AuditEvent],
    chosen: EventFormat,
    *,
    enterprise: int = syslog.EXAMPLE_ENTERPRISE,
) -> str:
    """One line an event; of a FHIR Bundle, one line altogether."""
    match chosen:
        case EventFormat.FHIR_NDJSON:
            found = [canonical_json(fhir.resource(event)).decode() for event in events]
        case EventFormat.FHIR_BUNDLE:
            found = [canonical_json(fhir.bundle(events)).decode()]
        case EventFormat.RFC5424:
            found = [syslog.message(event, enterprise=enterprise) for event in events]
        case EventFormat.JSON_LINES:
            found = [canonical_json(lines.document(event)).decode() for event in events]
    return "".join(f"{line}\n" for line in found)
