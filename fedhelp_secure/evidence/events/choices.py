"""The formats, by the names that the command line has for them."""

from __future__ import annotations

import enum


class EventFormat(enum.Enum):
    """How events are written."""

    FHIR_NDJSON = "fhir-ndjson"
    FHIR_BUNDLE = "fhir-bundle"
    RFC5424 = "rfc5424"
    JSON_LINES = "json-lines"


class ShipFormat(enum.Enum):
    """How events are sent."""

    RFC5424 = "rfc5424"
