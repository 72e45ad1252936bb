"""``fedhelp server``: the aggregator on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def server() -> None:
    """The aggregator: adds what it cannot read, and logs every step."""


@app.command()
def run(
    *,
    state: Annotated[Path, typer.Option(help="The aggregator's state directory.")],
    charter: Annotated[Path, typer.Option(help="The signed charter.")],
    listen: Annotated[str, typer.Option(help="Address to serve on, as host:port.")],
    decryptor: Annotated[str, typer.Option(help="Custodian A's address, as host:port.")],
    unmasker: Annotated[
        list[str],
        typer.Option(
            help="A custodian B's address, as host:port; once for each, in the charter's order."
        ),
    ],
    blobs: Annotated[
        str | None,
        typer.Option(
            help="URL of an object store for ciphertexts and answers, for fsspec; otherwise they "
            "are kept in the state directory."
        ),
    ] = None,
    registrar: Annotated[
        str | None, typer.Option(help="The registrar's address, as host:port, to keep up with it.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written with host:port once the server listens.")
    ] = None,
) -> None:
    """Serve one charter's rounds until SIGTERM or SIGINT; start it again to go on."""
    # Here, not above: every `fedhelp` start loads this module.
    from fedhelp_server.aggregator.custodians import CustodianAddresses
    from fedhelp_server.aggregator.process import serve

    serve(
        state,
        charter,
        CustodianAddresses(decryptor, tuple(unmasker)),
        listen=listen,
        ready_file=ready_file,
        registrar=registrar,
        blobs_url=blobs,
    )
