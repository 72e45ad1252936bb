"""``fedhelp audit dp-sgd``."""

from __future__ import annotations

from typing import Annotated

import typer


def audit(
    epsilon: Annotated[
        list[str] | None, typer.Option(help="Budget; may be given again. Default: 1 and 3.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100, help="Of each training.")] = 4,
    sampling_rate: Annotated[str, typer.Option(help="q; the sharp bound needs 1.")] = "1",
    runs: Annotated[int, typer.Option(min=1, help="Trainings in each of two worlds.")] = 400,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999, help="Of a bound.")] = 0.99,
) -> None:
    """Attack the installed DP-SGD training with a canary patient, as 'audit privacy' does others.

    Exit status 1 if the canary is found more often than the ledger's claim allows.
    """
    from rich.console import Console
    from rich.table import Table

    from fedhelp_client.dp_sgd_audit.attack import DpSgdOptions, audit_dp_sgd
    from fedhelp_secure.privacy_audit.audit import check_findings

    options = DpSgdOptions(steps, sampling_rate, runs, confidence)
    findings = [
        finding for value in epsilon or ["1", "3"] for finding in audit_dp_sgd(value, options)
    ]
    table = Table(
        title=f"dp_sgd: lower bounds at {confidence:.4g} confidence; {steps} steps, q = "
        f"{sampling_rate}, {runs} trainings in each world"
    )
    for heading in ("epsilon", "bound for", "claimed", "lower bound"):
        table.add_column(heading, justify="left" if heading == "bound for" else "right")
    for finding in findings:
        mark = " !" if finding.refuted else ""
        table.add_row(
            finding.epsilon,
            finding.method,
            f"{float(finding.claim):.3f}",
            f"{finding.lower_bound:.3f}{mark}",
        )
    Console(width=100).print(table)
    check_findings(findings)
