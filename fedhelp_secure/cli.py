"""The one command line, ``fedhelp``.

The core owns it; each installed role adds its group through the entry point group
``fedhelp.commands``, and single commands to another's group ``G`` through ``fedhelp.commands.G``.
What is not installed is simply not there.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.errors import FedHelpError, InternalError
from fedhelp_secure.keystore import passphrase
from fedhelp_secure.keystore.passphrase import PassphraseSource
from fedhelp_secure.logs import configure_logging, one_line

ENTRY_POINT_GROUP = "fedhelp.commands"
_DESCRIPTOR = "--passphrase-fd"
_ASK = "--ask-passphrase"


class CommandTaken(InternalError):
    """Two installed packages bring the same command of a group."""

    code = "command-taken"


def build(arguments: list[str]) -> typer.Typer:
    """The application for ``arguments``, with the commands of the installed roles.

    Raises CommandTaken if an added command is already one of the group's.
    """
    app = typer.Typer(
        name="fedhelp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(_root)
    called = _without_root_options(arguments)
    for entry in _wanted(entries(ENTRY_POINT_GROUP), called[:1]):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            added = entries(f"{ENTRY_POINT_GROUP}.{entry.name}")
            app.add_typer(extended(loaded, added, called[1:2]), name=entry.name)
        else:
            app.command(name=entry.name)(loaded)
    return app


def main() -> None:
    """Run the command line; a FedHelpError becomes its sentence and exit status 1."""
    configure_logging()
    try:
        build(sys.argv[1:])()
    except FedHelpError as error:
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
            f"fedhelp: {one_line(str(error))}"
        )
        sys.exit(1)


def extended(group: typer.Typer, added: Sequence[EntryPoint], called: Sequence[str]) -> typer.Typer:
    """A copy of ``group`` with those of the ``added`` commands that ``called`` needs.

    ``called`` holds the name of the command that is called, if there is one. Raises CommandTaken.
    """
    own = {
        command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        for command in group.registered_commands
    }
    names = [entry.name for entry in added]
    taken = sorted({name for name in names if name in own or names.count(name) > 1})
    if taken:
        raise CommandTaken(
            f"two installed packages bring the command {', '.join(taken)}; remove one of them."
        )
    merged = copy.copy(group)
    merged.registered_commands = list(group.registered_commands)
    # A command of the group's own needs no role's packages.
    for entry in [] if own.intersection(called) else _wanted(added, called):
        merged.command(name=entry.name)(entry.load())
    return merged


def entries(group: str) -> list[EntryPoint]:
    """The installed entry points of ``group``, in order of name."""
    return sorted(entry_points(group=group), key=lambda entry: entry.name)


def _wanted(offered: Sequence[EntryPoint], called: Sequence[str]) -> Sequence[EntryPoint]:
    """The entry that is called, alone: no role needs another role's packages to load. Else all."""
    return [entry for entry in offered if entry.name in called] or offered


def _without_root_options(arguments: list[str]) -> list[str]:
    """``arguments`` from the name of the command on."""
    if arguments and arguments[0] == _DESCRIPTOR:
        return _without_root_options(arguments[2:])
    if arguments and (arguments[0] == _ASK or arguments[0].startswith(f"{_DESCRIPTOR}=")):
        return _without_root_options(arguments[1:])
    return arguments


def _print_version(wanted: bool) -> None:
    if wanted:
        Console(highlight=False).print(f"fedhelp {version('fedhelp-secure')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
    passphrase_fd: Annotated[
        int | None,
        typer.Option(_DESCRIPTOR, min=0, help="Read the keys' passphrase from this descriptor."),
    ] = None,
    ask_passphrase: Annotated[
        bool, typer.Option(_ASK, help="Ask at the terminal for the keys' passphrase.")
    ] = False,
) -> None:
    """Hospitals learn from one another without showing patients to anyone.

    Keys that are encrypted open with a passphrase: from --passphrase-fd, from the systemd
    credential fedhelp-passphrase, or asked for at a terminal. A state that is made while one is
    given is encrypted.
    """
    passphrase.use(PassphraseSource(passphrase_fd, ask=ask_passphrase))
