"""The demo's end: the auditor collects the evidence, reports, signs and verifies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from fedhelp_secure.charter import open_charter
from fedhelp_secure.demo.federation import DemoFederation
from fedhelp_secure.demo.options import DataSource, DemoOptions
from fedhelp_secure.demo.processes import ProcessFailed, ProcessGroup
from fedhelp_secure.evidence.bundle import Sources, export_bundle
from fedhelp_secure.evidence.entries import parse_entry
from fedhelp_secure.evidence.verify import StepFailed
from fedhelp_secure.foundation_model import KIND as CALL_KIND
from fedhelp_secure.report.build import read_results
from fedhelp_secure.report.complete import complete_bundle
from fedhelp_secure.report.model import CustodiansInUse, DemoResult
from fedhelp_secure.report.signed import write_report
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.evidence_pb2 import ListEntriesRequest, LogEntry
from fedhelp_secure.wire.v1.evidence_pb2_grpc import EvidenceStub

AUDIT_REPORT = "evidence-report"
"""Folder of the auditor's report of the bundle, beside it."""

_RECORD_TRIES = 60
_RECORD_PAUSE_SECONDS = 0.5


def conclude(
    options: DemoOptions,
    federation: DemoFederation,
    processes: ProcessGroup,
    *,
    source: DataSource,
    aggregator: str,
    seconds: Callable[[], float],
) -> DemoResult:
    """Export the evidence to ``<out>/evidence``, report, sign, and verify it offline.

    Raises a FedHelpError if a part is missing; a bundle that does not verify is a result.
    """
    auditor = StateDirectory.open(federation.state("auditor"), Role.AUDITOR)
    bundle = options.out / "evidence"
    sources = Sources(
        aggregator=aggregator,
        charter=federation.charter,
        ledgers=_collect(options, "ledgers"),
        receipts=_collect(options, "receipts"),
    )
    _await_record_of_the_call(auditor, aggregator, sources.charter)
    export_bundle(auditor, sources, bundle)
    about = {
        "dataset": source.dataset,
        "dataset_sentence": source.sentence,
        "seed": options.seed,
        "seconds": round(seconds(), 1),
    }
    report = complete_bundle(
        bundle, auditor, read_results(_collect(options, "results")), about=about
    )
    verified = _verified(processes, bundle, auditor, options.out / AUDIT_REPORT)
    return DemoResult(
        **dict(report),
        evidence_verified=verified,
        custodians=CustodiansInUse(unmaskers=options.unmaskers),
    )


def _await_record_of_the_call(auditor: StateDirectory, address: str, charter_file: Path) -> None:
    """The broker submits its record in its own time; a bundle made before would lack it."""
    charter = open_charter(charter_file.read_bytes(), auditor.governance_key())
    expected = Identity(charter.federation, Role.AGGREGATOR, charter.aggregator.name)
    with open_channel(auditor, address, expected=expected) as channel, translated_errors():
        for _ in range(_RECORD_TRIES):
            listed = EvidenceStub(channel).ListEntries(ListEntriesRequest(), timeout=30)
            if any(_tells_of_the_call(parse_entry(item.entry)) for item in listed):
                return
            time.sleep(_RECORD_PAUSE_SECONDS)
    raise ProcessFailed("the broker's record did not reach the log; see logs/broker.log.")


def _tells_of_the_call(entry: LogEntry) -> bool:
    return entry.statement_submitted.kind == CALL_KIND


def _collect(options: DemoOptions, kind: Literal["ledgers", "receipts", "results"]) -> Path:
    """What the hospitals hand to the auditor, in one folder."""
    folder = options.out / "collected" / kind
    folder.mkdir(parents=True, mode=0o700)
    for name in options.hospitals:
        hospital = options.out / "hospitals" / name
        if kind == "ledgers":
            shutil.copyfile(hospital / "ledger.jsonl", folder / f"{name}.jsonl")
        elif kind == "results":
            _copy_result(options, name, folder / f"{name}.json")
        else:
            # A hospital that sat every round out has none.
            for receipt in sorted((hospital / "receipts").glob("*.bin")):
                shutil.copyfile(receipt, folder / receipt.name)
    return folder


def _copy_result(options: DemoOptions, name: str, copy: Path) -> None:
    try:
        shutil.copyfile(options.out / "hospitals" / name / "result.json", copy)
    except OSError as error:
        raise ProcessFailed(f"{name} left no result; its log is in {options.out}/logs.") from error


def _verified(
    processes: ProcessGroup, bundle: Path, auditor: StateDirectory, audit_report: Path
) -> bool:
    """Whether the verifier, as a process of its own, accepts the bundle and the auditor's report.

    The report is made here; there is none of a bundle that does not verify.
    """
    key = ("--governance-key", str(auditor.governance_key_path))
    report: tuple[str, ...] = ("--audit-report", str(audit_report))
    try:
        write_report(bundle, audit_report, auditor=auditor)
    except StepFailed:
        # The verifier says in its own log which step it was.
        report = ()
    try:
        processes.run("verify", "audit", "verify", str(bundle), *key, *report)
    except ProcessFailed:
        return False
    return report != ()
