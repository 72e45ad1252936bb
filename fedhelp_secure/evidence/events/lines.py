"""Audit events as JSON lines, for tools that speak neither FHIR nor syslog."""

from __future__ import annotations

from typing import Any

from fedhelp_secure.evidence.events.event import AuditEvent


def document(event: AuditEvent) -> dict[str, Any]:
    """One event as a flat JSON object; numbers from the log are text, for they may have 64 bits."""
    meaning = event.meaning
    return {
        "id": str(event.identifier),
        "log": event.log,
        "index": event.index,
        "leaf": event.leaf,
        "recorded": event.recorded.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": meaning.kind,
        "sentence": meaning.sentence,
        "type": meaning.type.code,
        "subtypes": [one.code for one in meaning.codings],
        "action": meaning.action,
        "outcome": meaning.outcome.value,
        "severity": meaning.severity.value,
        "observer": event.observer,
        "agents": list(event.agents),
        "objects": [{"what": one.what, "digest": one.digest} for one in event.objects],
        "details": dict(event.details),
    }
