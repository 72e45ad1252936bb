"""The one command line, ``fedhelp``.

The core owns it; each installed role adds its group through the entry point group
``fedhelp.commands``. A group that is not installed is simply not there.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer
from rich.console import Console

from fedhelp_secure.errors import FedHelpError

ENTRY_POINT_GROUP = "fedhelp.commands"


def build() -> typer.Typer:
    """The application with every installed role's commands."""
    app = typer.Typer(
        name="fedhelp",
        help="Hospitals learn from one another without showing patients to anyone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=entry.name)
        else:
            app.command(name=entry.name)(loaded)
    return app


def main() -> None:
    """Run the command line; a FedHelpError becomes its sentence and exit status 1."""
    try:
        build()()
    except FedHelpError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
            f"fedhelp: {error}"
        )
        sys.exit(1)
