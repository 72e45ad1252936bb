"""``fedhelp report``: the audit report of a bundle, for people who file it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    bundle: Annotated[Path, typer.Argument(help="The bundle's directory.")],
    *,
    html: Annotated[bool, typer.Option("--html", help="Write report.html.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write report.pdf (PDF/A-2a).")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write report.json.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory for them; without, BUNDLE-report.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="An auditor's state directory, to sign the report.")
    ] = None,
    governance_key: Annotated[
        Path | None,
        typer.Option(help="The registrar's governance.pub, from another source than the bundle."),
    ] = None,
) -> None:
    """Verify a bundle and write what it shows, with the evidence of every sentence.

    Without --html, --pdf and --json: all three. Offline; nothing but the bundle is read.
    """
    from fedhelp_secure.evidence.commands import read_key
    from fedhelp_secure.report.signed import ALL, Form, write_report
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    wanted: dict[Form, bool] = {"json": json, "html": html, "pdf": pdf}
    forms = tuple(form for form, asked in wanted.items() if asked)
    auditor = None if state is None else StateDirectory.open(state, Role.AUDITOR)
    written = write_report(
        bundle,
        out or bundle.with_name(f"{bundle.resolve().name}-report"),
        forms=forms or ALL,
        auditor=auditor,
        governance_key=None if governance_key is None else read_key(governance_key),
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for path in written.paths:
        console.print(f"written: {path}")
    if not written.signed:
        console.print("not signed: give --state with an auditor's directory to sign it")
