"""The one command line, ``fedhelp``.

The core owns it; each installed role adds its group through the entry point group
``fedhelp.commands``. A group that is not installed is simply not there.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.errors import FedHelpError

ENTRY_POINT_GROUP = "fedhelp.commands"


def build(arguments: list[str]) -> typer.Typer:
    """The application for ``arguments``, with the commands of the installed roles."""
    app = typer.Typer(
        name="fedhelp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(_root)
    for entry in _wanted(arguments):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=entry.name)
        else:
            app.command(name=entry.name)(loaded)
    return app


def main() -> None:
    """Run the command line; a FedHelpError becomes its sentence and exit status 1."""
    try:
        build(sys.argv[1:])()
    except FedHelpError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
            f"fedhelp: {error}"
        )
        sys.exit(1)


def _wanted(arguments: list[str]) -> list[EntryPoint]:
    """The group that is called, alone: no role needs another role's packages to load. Else all."""
    entries = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    called = [entry for entry in entries if arguments and entry.name == arguments[0]]
    return called or entries


def _print_version(wanted: bool) -> None:
    if wanted:
        Console(highlight=False).print(f"fedhelp {version('fedhelp-secure')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Hospitals learn from one another without showing patients to anyone."""
