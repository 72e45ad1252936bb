"""FHIR resources, against the models that fhir.resources makes of the specification.

AuditEvent and Bundle are the same in R4 and R4B, which changed other resources.
"""

from __future__ import annotations

import json

import pytest
from fhir.resources.R4B.auditevent import AuditEvent as Resource
from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from fedhelp_secure.evidence.events import fhir
from fedhelp_secure.evidence.events.event import AuditEvent
from fedhelp_secure.evidence.events.formats import written
from fedhelp_secure.evidence.events.options import EventFormat
from fedhelp_secure.evidence.events.vocabulary import DICOM


def test_every_line_is_an_audit_event(events: list[AuditEvent]) -> None:
    text = written(events, EventFormat.FHIR_NDJSON)
    resources = [Resource.model_validate_json(line) for line in text.splitlines()]
    assert [one.id for one in resources] == [str(event.identifier) for event in events]
    for one, event in zip(resources, events, strict=True):
        assert one.type.system == DICOM
        assert one.recorded == event.recorded
        # Nothing was dropped; only the time is spelled otherwise.
        read = json.loads(one.model_dump_json(exclude_none=True))
        assert read | {"recorded": ""} == fhir.resource(event) | {"recorded": ""}
        # Constraint sev-1, which the models do not check: a name or a query.
        assert all("name" in entity and "query" not in entity for entity in read["entity"])


def test_the_bundle_puts_each_event_at_its_own_id(events: list[AuditEvent]) -> None:
    model = Bundle.model_validate_json(written(events, EventFormat.FHIR_BUNDLE))
    read = json.loads(model.model_dump_json(exclude_none=True))
    assert read["type"] == "batch"
    requests = [entry["request"] for entry in read["entry"]]
    assert requests == [
        {"method": "PUT", "url": f"AuditEvent/{event.identifier}"} for event in events
    ]
    for entry, event in zip(read["entry"], events, strict=True):
        assert entry["fullUrl"] == f"urn:uuid:{event.identifier}"
        assert entry["resource"]["id"] == str(event.identifier)


@pytest.mark.parametrize("missing", ["type", "recorded", "agent", "source"])
def test_the_models_do_refuse(events: list[AuditEvent], missing: str) -> None:
    broken = fhir.resource(events[0])
    del broken[missing]
    with pytest.raises(ValidationError):
        Resource.model_validate(broken)
    with pytest.raises(ValidationError):
        Resource.model_validate(fhir.resource(events[0]) | {"person": "Jane Doe"})


def test_digests_can_be_found_by_their_digits(events: list[AuditEvent]) -> None:
    event = events[2]
    entities = fhir.resource(event)["entity"]
    named = {one["name"]: one["what"]["identifier"]["value"] for one in entities}
    assert named["manifest"] == f"nih:sha-256;{1:064x}"
    assert named["log-entry"] == event.leaf.replace("sha256:", "nih:sha-256;")
