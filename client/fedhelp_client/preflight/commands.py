"""``fedhelp client preflight``: before a node runs, for a change ticket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preflight(
    state: Annotated[Path, typer.Option(help="This hospital's state directory.")],
    charter: Annotated[Path, typer.Option(help="The charter that was reviewed (its envelope).")],
    aggregator: Annotated[str, typer.Option(help="HOST:PORT of the aggregator.")],
    broker: Annotated[str, typer.Option(help="HOST:PORT of the broker.")],
    data: Annotated[Path, typer.Option(help="Folder with labels.csv and the images.")],
    policy: Annotated[Path | None, typer.Option(help="This site's own policy (YAML).")] = None,
    public_set: Annotated[
        Path | None, typer.Option(help="The public set (.npz), to compare with the charter.")
    ] = None,
    context: Annotated[
        Path | None, typer.Option(help="The CKKS context, to compare with the charter.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the findings here.")] = None,
) -> None:
    """Check everything that a node needs before it runs, and change nothing.

    Prints a table for a change ticket: no count of patients, no file name of theirs. Exit status 1
    if a check fails.
    """
    from fedhelp_client.preflight.checks import run_checks
    from fedhelp_client.preflight.site import Site
    from fedhelp_secure.state import write_atomically

    report = run_checks(
        Site(
            root=state,
            charter_file=charter,
            policy_file=policy,
            data=data,
            aggregator_address=aggregator,
            broker_address=broker,
            public_set=public_set,
            context=context,
        )
    )
    if json is not None:
        write_atomically(json, (report.model_dump_json(indent=2) + "\n").encode(), mode=0o644)
    report.print()
    if report.worst == "fail":
        raise typer.Exit(1)
