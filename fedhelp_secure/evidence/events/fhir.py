"""Audit events as FHIR R4 ``AuditEvent`` resources (https://hl7.org/fhir/R4/auditevent.html).

R4 (4.0.1) and R4B (4.3.0) have the same resource; R5 has another, with ``code`` and ``category``.
A batch Bundle puts every event at its own id, so that sending it twice leaves one of each. Digests
are RFC 6920 URIs in the form for people (``nih:sha-256;<hex>``), in which the digits can be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedhelp_secure.evidence.events.event import AuditEvent, Object
from fedhelp_secure.evidence.events.vocabulary import DICOM, Coding

_URI = "urn:ietf:rfc:3986"
_OBJECT_TYPE = {
    "system": "http://terminology.hl7.org/CodeSystem/audit-entity-type",
    "code": "2",
    "display": "System Object",
}
_OBJECT_ROLE = {
    "system": "http://terminology.hl7.org/CodeSystem/object-role",
    "code": "13",
    "display": "Security Resource",
}
_SOURCE_TYPE = {
    "system": "http://terminology.hl7.org/CodeSystem/security-source-type",
    "code": "4",
    "display": "Application Server",
}
_APPLICATION = Coding(DICOM, "110150", "Application")


def resource(event: AuditEvent) -> dict[str, Any]:
    """The ``AuditEvent`` resource, as JSON."""
    return {
        "resourceType": "AuditEvent",
        "id": str(event.identifier),
        "type": _coding(event.meaning.type),
        "subtype": [_coding(one) for one in event.meaning.codings],
        "action": event.meaning.action,
        "recorded": event.recorded.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "outcome": str(event.meaning.outcome.value),
        "outcomeDesc": event.meaning.sentence,
        "agent": [_agent(uri, requestor=place == 0) for place, uri in enumerate(event.agents)],
        "source": {
            "site": event.log,
            "observer": _identified(event.observer),
            "type": [_SOURCE_TYPE],
        },
        "entity": [
            _entry_entity(event),
            *(_entity(one) for one in event.objects),
        ],
    }


def bundle(events: Iterable[AuditEvent]) -> dict[str, Any]:
    """A ``Bundle`` of type batch that puts every event at its own id."""
    return {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [_put(event) for event in events],
    }


def _put(event: AuditEvent) -> dict[str, Any]:
    return {
        "fullUrl": f"urn:uuid:{event.identifier}",
        "resource": resource(event),
        "request": {"method": "PUT", "url": f"AuditEvent/{event.identifier}"},
    }


def _coding(coding: Coding) -> dict[str, str]:
    return {"system": coding.system, "code": coding.code, "display": coding.display}


def _agent(uri: str, *, requestor: bool) -> dict[str, Any]:
    return {
        "type": {"coding": [_coding(_APPLICATION)]},
        "who": _identified(uri),
        "requestor": requestor,
    }


def _identified(uri: str) -> dict[str, Any]:
    if not uri.startswith("spiffe:"):
        # Withheld: what stands in its place is no URI.
        return {"identifier": {"value": uri}, "display": uri}
    return {"identifier": {"system": _URI, "value": uri}, "display": uri}


def _entry_entity(event: AuditEvent) -> dict[str, Any]:
    named = [("log", event.log), ("index", str(event.index)), *event.details]
    return _entity(Object("log-entry", event.leaf)) | {
        "detail": [{"type": name, "valueString": value} for name, value in named]
    }


def _entity(named: Object) -> dict[str, Any]:
    return {
        "what": {"identifier": _digest_identifier(named.digest)},
        "type": _OBJECT_TYPE,
        "role": _OBJECT_ROLE,
        "name": named.what,
    }


def _digest_identifier(text: str) -> dict[str, str]:
    if text.startswith("sha256:"):
        return {"system": _URI, "value": text.replace("sha256:", "nih:sha-256;")}
    return {"value": text}
