"""``fedhelp custodian``: prepare and serve a decryptor or an unmasker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role

app = typer.Typer(
    name="custodian",
    help="Run a custodian of the secure sum: the decryptor or an unmasker.",
    no_args_is_help=True,
)

_State = Annotated[Path, typer.Option("--state", help="This custodian's state directory.")]


@app.command()
def prepare(state: _State) -> None:
    """Make what the role needs before it can be enrolled: CKKS keys for a decryptor."""
    directory = StateDirectory.open(state, Role.DECRYPTOR, Role.UNMASKER)
    console = Console(highlight=False, soft_wrap=True)
    if directory.identity.role is Role.UNMASKER:
        console.print("An unmasker needs no further keys: its sealing key is in its state.")
        return
    from fedhelp_keys.custodian import key_files

    console.print(f"public context {key_files.prepare(directory)}")


@app.command()
def serve(
    state: _State,
    listen: Annotated[str, typer.Option(help="Address to listen on, for example 127.0.0.1:7010.")],
    ready_file: Annotated[
        Path | None, typer.Option(help="Written with host:port once the service listens.")
    ] = None,
) -> None:
    """Serve the role of this state until SIGTERM or SIGINT."""
    directory = StateDirectory.open(state, Role.DECRYPTOR, Role.UNMASKER)
    from fedhelp_keys.custodian.service import serve_custodian

    serve_custodian(directory, listen, ready_file=ready_file)
