"""The audit report's files, and the auditor's signature over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedhelp_secure.canonical import digest
from fedhelp_secure.evidence.bundle import auditor_key
from fedhelp_secure.report.audit import build_report
from fedhelp_secure.report.document import Document, document_json
from fedhelp_secure.report.facts import Facts, read_facts
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory, write_atomically

Form = Literal["json", "html", "pdf"]

KIND = "audit-report"
"""DSSE kind of the signature."""
SIGNATURE = "report.sig.json"
FILES: Mapping[Form, str] = {"json": "report.json", "html": "report.html", "pdf": "report.pdf"}
ALL: tuple[Form, ...] = tuple(FILES)
_FILE_MODE = 0o644


@dataclass(frozen=True, slots=True)
class Written:
    """What was made."""

    paths: tuple[Path, ...]
    signed: bool


def write_report(
    bundle: Path,
    out: Path,
    *,
    forms: tuple[Form, ...] = ALL,
    auditor: StateDirectory | None = None,
    governance_key: VerifyingKey | None = None,
) -> Written:
    """Verify ``bundle`` and write its audit report to ``out``, signed by ``auditor`` if given.

    An earlier report in ``out`` is replaced, all of it. Raises StepFailed if the bundle does not
    verify, NotAnAuditor if that is none of the charter's auditors: nothing is written then.
    """
    facts = read_facts(bundle, governance_key=governance_key)
    key = None if auditor is None else auditor_key(auditor, facts.charter)
    document = build_report(facts)
    files = {FILES[form]: _renderer(form)(document) for form in forms}
    if key is not None:
        files[SIGNATURE] = key.sign_document(KIND, signed_facts(document, files))
    for name in (SIGNATURE, *FILES.values()):
        (out / name).unlink(missing_ok=True)
    # The signature comes last: what it covers is there.
    for name, data in files.items():
        write_atomically(out / name, data, mode=_FILE_MODE)
    return Written(tuple(out / name for name in files), signed=key is not None)


def signed_facts(document: Document, files: Mapping[str, bytes]) -> dict[str, object]:
    """What the auditor signs: the bundle that the report is of, and every file's digest."""
    return {
        "version": 1,
        "software": document.software,
        "charter": document.charter,
        "bundle": document.bundle,
        "files": {name: digest(data) for name, data in files.items()},
    }


def auditors(facts: Facts) -> list[VerifyingKey]:
    """The keys that may sign a report of this bundle."""
    return [auditor.verifying_key() for auditor in facts.charter.auditors]


def _renderer(form: Form) -> Callable[[Document], bytes]:
    # Each form loads its library only when it is wanted.
    if form == "html":
        from fedhelp_secure.report.audit_html import audit_html

        return audit_html
    if form == "pdf":
        from fedhelp_secure.report.audit_pdf import audit_pdf

        return audit_pdf
    return document_json
