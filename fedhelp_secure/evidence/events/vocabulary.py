"""What each kind of log entry is called in the vocabularies of hospitals' audit repositories.

Types are DICOM audit event IDs (PS3.16 CID 400), subtypes DICOM's (CID 401) or the record lifecycle
events of ISO 21089, where one fits; both are in FHIR R4's value sets for AuditEvent (the binding of
subtypes is extensible). Every event also has its exact kind as a subtype in a code system of our
own. Outcomes are FHIR's ``audit-event-outcome``: 4 if a request was refused, 8 if something that
had begun came to nothing. As DICOM PS3.15 A.5.3.11 has it, a security alert with outcome 0 informs.
Severities are RFC 5424's (section 6.2.1).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedhelp_secure.secure_sum.epochs import BEGUN_KIND, DESTROYED_KIND, EPOCH_KIND

DICOM = "http://dicom.nema.org/resources/ontology/DCM"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
OWN = "urn:uuid:8bbd1c36-1c0b-4d43-9d0a-6b1f8d1d5f0e"
"""The code system of `Meaning.kind`; a random UUID, since no URN namespace is registered for it."""


class Outcome(enum.IntEnum):
    """FHIR's ``audit-event-outcome``."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


class Severity(enum.IntEnum):
    """RFC 5424, table 2."""

    ALERT = 1
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFORMATIONAL = 6


@dataclass(frozen=True, slots=True)
class Coding:
    """One code of one system."""

    system: str
    code: str
    display: str


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one kind of entry says, whoever it is about."""

    kind: str
    """At most 32 characters: it is the MSGID of RFC 5424."""
    sentence: str
    type: Coding
    subtypes: tuple[Coding, ...] = ()
    action: str = "E"
    """FHIR's ``audit-event-action``: C, R, U, D or E (execute)."""
    outcome: Outcome = Outcome.SUCCESS
    severity: Severity = Severity.INFORMATIONAL

    @property
    def codings(self) -> tuple[Coding, ...]:
        """The subtypes, the exact kind last."""
        return (*self.subtypes, Coding(OWN, self.kind, self.sentence))


_ACTIVITY = Coding(DICOM, "110100", "Application Activity")
_EXPORT = Coding(DICOM, "110106", "Export")
_IMPORT = Coding(DICOM, "110107", "Import")
_ALERT = Coding(DICOM, "110113", "Security Alert")
_NODE_AUTHENTICATION = Coding(DICOM, "110126", "Node Authentication")
_SECURITY_CONFIGURATION = Coding(DICOM, "110129", "Security Configuration")
_ATTEST = Coding(LIFECYCLE, "attest", "Attest Record Lifecycle Event")
_DESTROY = Coding(LIFECYCLE, "destroy", "Destroy/Delete Record Lifecycle Event")
_DISCLOSE = Coding(LIFECYCLE, "disclose", "Disclose Record Lifecycle Event")
_RECEIVE = Coding(LIFECYCLE, "receive", "Receive/Retain Record Lifecycle Event")
_TRANSMIT = Coding(LIFECYCLE, "transmit", "Transmit Record Lifecycle Event")

EVENTS: Mapping[str, Meaning] = MappingProxyType(
    {
        "charter_adopted": Meaning(
            *("charter-adopted", "a charter was adopted", _ALERT, (_SECURITY_CONFIGURATION,), "U"),
            severity=Severity.NOTICE,
        ),
        "round_opened": Meaning("round-opened", "a round was opened", _ACTIVITY),
        "contribution_accepted": Meaning(
            *("contribution-accepted", "a contribution was accepted", _IMPORT, (_RECEIVE,), "C")
        ),
        "contribution_rejected": Meaning(
            *("contribution-rejected", "a contribution was refused", _IMPORT, (_RECEIVE,), "C"),
            outcome=Outcome.MINOR_FAILURE,
            severity=Severity.WARNING,
        ),
        "round_closed": Meaning("round-closed", "a round was closed", _ACTIVITY),
        "round_summed": Meaning(
            *("round-summed", "the sum of a round was opened", _EXPORT, (_DISCLOSE,)),
            severity=Severity.NOTICE,
        ),
        "round_failed": Meaning(
            *("round-failed", "a round failed", _ACTIVITY),
            outcome=Outcome.SERIOUS_FAILURE,
            severity=Severity.ERROR,
        ),
        "session_taken_over": Meaning(
            "session-taken-over",
            "two processes took part as one hospital",
            *(_ALERT, (_NODE_AUTHENTICATION,)),
            outcome=Outcome.SERIOUS_FAILURE,
            severity=Severity.ALERT,
        ),
    }
)
"""By the name of the event in ``LogEntry``; of statements, see `STATEMENTS`."""

STATEMENTS: Mapping[str, Meaning] = MappingProxyType(
    {
        "foundation-model-call": Meaning(
            "foundation-model-call",
            "the foundation model was called",
            *(_EXPORT, (_TRANSMIT,)),
            severity=Severity.NOTICE,
        ),
        "ledger-head": Meaning(
            "ledger-head", "a privacy ledger was attested", _ACTIVITY, (_ATTEST,)
        ),
        "report": Meaning("report", "a report was attested", _ACTIVITY, (_ATTEST,)),
        BEGUN_KIND: Meaning(
            BEGUN_KIND, "a custodian attested the beginning of a round", _ACTIVITY, (_ATTEST,)
        ),
        EPOCH_KIND: Meaning(
            *(EPOCH_KIND, "a custodian began a key epoch", _ALERT, (_SECURITY_CONFIGURATION,)),
            severity=Severity.NOTICE,
        ),
        DESTROYED_KIND: Meaning(
            DESTROYED_KIND,
            "a custodian destroyed the key of an epoch",
            *(_ALERT, (_SECURITY_CONFIGURATION, _DESTROY), "D"),
            severity=Severity.NOTICE,
        ),
    }
)
"""By the kind of the statement that was submitted."""

UNKNOWN_STATEMENT = Meaning(
    *("statement-unknown", "a statement of an unknown kind was submitted", _ACTIVITY, (_ATTEST,)),
    severity=Severity.WARNING,
)
