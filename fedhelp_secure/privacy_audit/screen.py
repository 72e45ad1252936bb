"""What ``fedhelp audit privacy`` shows and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from fedhelp_secure.privacy_audit.audit import Finding, Options

_COLUMNS = tuple(
    (test, method) for test in ("two worlds", "one run") for method in ("any noise", "Gaussian")
)


def findings_table(findings: Sequence[Finding], options: Options) -> Table:
    """One row an epsilon, mechanism and view: the claim, then every lower bound beside it."""
    path = "masked, encrypted and opened" if options.encrypt else "added in the clear"
    table = Table(
        title=f"lower bounds on epsilon at {options.confidence:.4g} confidence; {options.rounds} "
        f"rounds, {options.runs} runs a world, {options.canaries} canaries; sums {path}"
    )
    for heading in ("epsilon", "mechanism", "view", "claimed"):
        left = heading in ("mechanism", "view")
        table.add_column(heading, justify="left" if left else "right")
    for test, method in _COLUMNS:
        table.add_column(f"{test}\n{method}", justify="right")
    rows: dict[tuple[str, str, str], dict[tuple[str, str], Finding]] = {}
    for finding in findings:
        row = rows.setdefault((finding.epsilon, finding.mechanism, finding.view), {})
        row[finding.test, finding.method] = finding
    for (epsilon, mechanism, view), row in rows.items():
        claim = next(iter(row.values())).claim
        cells = [_cell(row[column]) if column in row else "" for column in _COLUMNS]
        table.add_row(epsilon, mechanism, view, f"{float(claim):.3f}", *cells)
    return table


def audit_document(findings: Sequence[Finding], options: Options) -> dict[str, Any]:
    """The JSON that docs/auditor.md describes."""
    return {
        "version": 1,
        "options": asdict(options),
        "findings": [finding.document() for finding in findings],
        "refuted": any(finding.refuted for finding in findings),
    }


def _cell(finding: Finding) -> str:
    mark = " !" if finding.refuted else ""
    return f"{finding.lower_bound:.3f}{mark}"
