"""The last step of a bundle: its report is made from it, and an auditor signs it all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.bundle import sign_index
from fedhelp_secure.report.build import federation_report
from fedhelp_secure.report.html import render
from fedhelp_secure.report.model import NodeResult, Report
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.trust.charters import open_own_charter

_FILE_MODE = 0o644
"""As of the rest of a bundle."""


def complete_bundle(
    directory: Path,
    state: StateDirectory,
    results: Mapping[str, NodeResult],
    *,
    about: Mapping[str, object] | None = None,
) -> Report:
    """Write the report of the bundle in ``directory`` into it, and sign its index.

    ``results`` by hospital, as far as they were given; ``about``: further fields of the report.
    May be done again, for example when a ledger or a receipt came late. Raises NotAnAuditor,
    ResultRefused, or a FedHelpError where the evidence does not hold: then nothing is signed.
    """
    files = layout.read_files(directory)
    charter = open_own_charter(state, layout.required(files, layout.CHARTER)).charter
    report = federation_report(files, charter, results).model_copy(update=dict(about or {}))
    document = report.model_dump_json(indent=2).encode() + b"\n"
    write_atomically(directory / layout.REPORT_JSON, document, mode=_FILE_MODE)
    write_atomically(directory / layout.REPORT_HTML, render(report).encode(), mode=_FILE_MODE)
    sign_index(directory, state)
    return report
