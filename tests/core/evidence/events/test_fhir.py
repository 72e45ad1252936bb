"""FHIR resources, against the models that fhir.resources makes of the specification.

AuditEvent and Bundle are the same in R4 and R4B, which changed other resources. The models hold
neither the required bindings nor the codes of the code systems: those are tables here.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from fhir.resources.auditevent import AuditEvent as R5Resource
from fhir.resources.R4B.auditevent import AuditEvent as Resource
from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from fedhelp_secure.evidence.events import fhir
from fedhelp_secure.evidence.events.event import AuditEvent
from fedhelp_secure.evidence.events.formats import written
from fedhelp_secure.evidence.events.options import EventFormat
from fedhelp_secure.evidence.events.vocabulary import DICOM, OWN

DCM = "http://dicom.nema.org/resources/ontology/DCM"
HL7 = "http://terminology.hl7.org/CodeSystem/"
CODES = {
    # DICOM PS3.16: CID 400 (type), CID 401 (subtype), CID 402 (who).
    (DCM, "110100"): "Application Activity",
    (DCM, "110106"): "Export",
    (DCM, "110107"): "Import",
    (DCM, "110113"): "Security Alert",
    (DCM, "110126"): "Node Authentication",
    (DCM, "110129"): "Security Configuration",
    (DCM, "110150"): "Application",
    (HL7 + "iso-21089-lifecycle", "attest"): "Attest Record Lifecycle Event",
    (HL7 + "iso-21089-lifecycle", "destroy"): "Destroy/Delete Record Lifecycle Event",
    (HL7 + "iso-21089-lifecycle", "disclose"): "Disclose Record Lifecycle Event",
    (HL7 + "iso-21089-lifecycle", "receive"): "Receive/Retain Record Lifecycle Event",
    (HL7 + "iso-21089-lifecycle", "transmit"): "Transmit Record Lifecycle Event",
    (HL7 + "audit-entity-type", "2"): "System Object",
    (HL7 + "object-role", "13"): "Security Resource",
    (HL7 + "security-source-type", "4"): "Application Server",
}
"""Codes and displays as https://hl7.org/fhir/R4/terminologies-systems.html and DICOM have them."""


def codings(value: object) -> list[dict[str, str]]:
    """Every Coding anywhere in a resource."""
    if isinstance(value, list):
        return [one for item in value for one in codings(item)]
    if not isinstance(value, dict):
        return []
    if value.keys() == {"system", "code", "display"}:
        return [value]
    return [one for item in value.values() for one in codings(item)]


def test_codes_are_those_of_their_systems(events: list[AuditEvent]) -> None:
    used = [one for event in events for one in codings(fhir.resource(event))]
    told = {(one["system"], one["code"]): one["display"] for one in used if one["system"] != OWN}
    assert told == CODES
    assert {one["system"] for one in used} == {OWN, *(system for system, _ in CODES)}


def test_what_r4_binds_and_how_it_writes_times(events: list[AuditEvent]) -> None:
    for event in events:
        read = fhir.resource(event)
        assert read["action"] in ("C", "R", "U", "D", "E")
        assert read["outcome"] in ("0", "4", "8", "12")
        # The primitive types id and instant (https://hl7.org/fhir/R4/datatypes.html).
        assert re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", read["id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read["recorded"])
        assert [one["requestor"] for one in read["agent"]].count(True) == 1


def test_it_is_r4_and_not_r5(events: list[AuditEvent]) -> None:
    """R5, the default of fhir.resources, has another resource of this name."""
    with pytest.raises(ValidationError):
        R5Resource.model_validate(fhir.resource(events[0]))


def test_a_withheld_name_is_not_called_a_uri(events: list[AuditEvent]) -> None:
    withheld = f"withheld:sha256:{'0' * 64}"
    made = fhir.resource(dataclasses.replace(events[0], agents=(withheld,)))
    assert made["agent"][0]["who"] == {"identifier": {"value": withheld}, "display": withheld}
    Resource.model_validate(made)
    plain = fhir.resource(events[0])["agent"][0]["who"]["identifier"]
    assert plain["system"] == "urn:ietf:rfc:3986"


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
