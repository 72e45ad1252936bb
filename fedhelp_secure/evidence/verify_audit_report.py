"""The audit report that somebody filed: who signed it, of which bundle, and that it says what the
bundle shows.

The JSON and the HTML are made anew from the bundle and compared byte for byte, if the same version
of this software made them. The PDF is compared with its signed digest alone: another version of its
typesetter may set the same sentences otherwise.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import FedHelpError, SignatureRefused
from fedhelp_secure.evidence.layout import MAXIMUM_FILE_BYTES, BundleRefused
from fedhelp_secure.evidence.verify import Step, StepFailed
from fedhelp_secure.report.audit import build_report
from fedhelp_secure.report.document import document_json
from fedhelp_secure.report.facts import Facts, read_facts
from fedhelp_secure.report.signed import FILES, KIND, SIGNATURE, auditors
from fedhelp_secure.signing import VerifyingKey, open_document

TITLE = "audit report"


def verify_audit_report(
    bundle: Path, directory: Path, *, governance_key: VerifyingKey | None = None
) -> Step:
    """The step after the bundle's own; raises StepFailed, by this step or an earlier one."""
    facts = read_facts(bundle, governance_key=governance_key)
    passed = facts.verdict.steps
    try:
        finding = _check(facts, directory)
    except FedHelpError as error:
        raise StepFailed(len(passed) + 1, TITLE, passed=passed, why=str(error)) from error
    return Step(len(passed) + 1, TITLE, finding)


def _check(facts: Facts, directory: Path) -> str:
    signed = _opened(facts, _read(directory / SIGNATURE))
    listed = signed.get("files")
    if not isinstance(listed, dict) or not listed or not set(listed) <= set(FILES.values()):
        raise BundleRefused(f"{SIGNATURE} does not list a report's files; ask for a new one.")
    pairs = (("charter", facts.charter.digest), ("bundle", facts.index_digest), ("version", 1))
    for field, expected in pairs:
        if signed.get(field) != expected:
            raise BundleRefused(f"the audit report is of another {field} than this bundle.")
    for name in FILES.values():
        if name not in listed and (directory / name).exists():
            raise BundleRefused(f"{name} is not under the auditor's signature.")
    files = {name: _read(directory / name) for name in listed}
    for name, data in files.items():
        if digest(data) != listed[name]:
            raise BundleRefused(f"{name} was changed after the auditor signed it.")
    if signed.get("software") != version("fedhelp-secure"):
        return f"an auditor signed {len(files)} files; another version made them: not made anew"
    _check_anew(facts, files)
    return f"an auditor signed {len(files)} files, and they say what this bundle shows"


def _check_anew(facts: Facts, files: dict[str, bytes]) -> None:
    document = build_report(facts)
    made = {FILES["json"]: document_json(document)}
    if FILES["html"] in files:
        from fedhelp_secure.report.audit_html import audit_html

        made[FILES["html"]] = audit_html(document)
    for name, data in made.items():
        if files.get(name, data) != data:
            raise BundleRefused(f"{name} does not say what the bundle shows; do not file it.")


def _opened(facts: Facts, envelope: bytes) -> dict[str, object]:
    for key in auditors(facts):
        try:
            return open_document(KIND, envelope, key)
        except SignatureRefused:
            continue
    raise SignatureRefused("the audit report is not signed by an auditor of the charter.")


def _read(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise BundleRefused(f"{path.name} of the audit report cannot be read as a plain file.")
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise BundleRefused(f"{path.name} of the audit report cannot be read.") from error
    if len(data) > MAXIMUM_FILE_BYTES:
        raise BundleRefused(f"{path.name} of the audit report is over 256 MiB.")
    return data
