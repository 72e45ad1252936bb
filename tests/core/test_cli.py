"""An installed role adds commands to a group that another package owns."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest
import typer
from typer.testing import CliRunner

from fedhelp_secure import cli
from fedhelp_secure.cli import CommandTaken, extended
from fedhelp_secure.keystore import passphrase

MODULE = "commands_of_a_role"


def own_group() -> typer.Typer:
    app = typer.Typer()

    @app.callback()
    def group() -> None:
        """A group."""

    @app.command()
    def own_command() -> None:
        typer.echo("own")

    @app.command("named")
    def other() -> None:
        typer.echo("named")

    return app


def entry(name: str, module: str = MODULE) -> EntryPoint:
    return EntryPoint(name=name, value=f"{module}:added", group="fedhelp.commands.group")


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(MODULE)

    def added(size: int = 1) -> None:
        typer.echo(f"added {size}")

    module.added = added  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)


@pytest.mark.usefixtures("role")
def test_an_added_command_runs_in_the_group_beside_its_own() -> None:
    group = own_group()
    for called, said in (("added-one", "added 3"), ("own-command", "own"), ("named", "named")):
        app = extended(group, [entry("added-one")], [called])
        options = ["--size", "3"] if called == "added-one" else []
        result = CliRunner().invoke(app, [called, *options])
        assert (result.exit_code, result.output.strip()) == (0, said)
    assert [command.name for command in group.registered_commands] == [None, "named"]


@pytest.mark.usefixtures("role")
def test_help_lists_every_command() -> None:
    app = extended(own_group(), [entry("added-one"), entry("added-two")], ["--help"])
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in ("own-command", "named", "added-one", "added-two"):
        assert name in shown


@pytest.mark.usefixtures("role")
def test_only_what_is_called_is_loaded() -> None:
    absent = entry("absent", "a_package_that_is_not_there")
    for called in ("own-command", "named", "added-one"):
        extended(own_group(), [absent, entry("added-one")], [called])
    with pytest.raises(ModuleNotFoundError):
        extended(own_group(), [absent], ["absent"])


@pytest.mark.usefixtures("role")
def test_options_before_the_command_change_nothing_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A passphrase given does not make the program load roles that are not called."""
    installed = {
        cli.ENTRY_POINT_GROUP: [
            EntryPoint("absent", "a_package_that_is_not_there:app", ""),
            EntryPoint("bench", "fedhelp_secure.bench.commands:app", ""),
        ],
        f"{cli.ENTRY_POINT_GROUP}.bench": [
            entry("absent", "a_package_that_is_not_there"),
            entry("added-one"),
        ],
    }
    monkeypatch.setattr(cli, "entries", lambda group: installed.get(group, []))
    for options in (["--passphrase-fd", "3"], ["--passphrase-fd=3"], ["--ask-passphrase"]):
        called = [*options, "bench", "added-one"]
        result = CliRunner().invoke(cli.build(called), called)
        assert (result.exit_code, result.output.strip()) == (0, "added 1")
        assert passphrase.current().given


@pytest.mark.parametrize("names", [["own-command"], ["named"], ["twice", "twice"]])
@pytest.mark.usefixtures("role")
def test_a_command_that_is_taken_is_refused(names: list[str]) -> None:
    with pytest.raises(CommandTaken, match=names[0]):
        extended(own_group(), [entry(name) for name in names], [])


@pytest.mark.usefixtures("role")
def test_the_command_line_takes_them_from_the_installed_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {
        cli.ENTRY_POINT_GROUP: [EntryPoint("bench", "fedhelp_secure.bench.commands:app", "")],
        f"{cli.ENTRY_POINT_GROUP}.bench": [entry("added-one")],
    }
    monkeypatch.setattr(cli, "entries", lambda group: installed.get(group, []))
    called = ["bench", "added-one", "--size", "2"]
    result = CliRunner().invoke(cli.build(called), called)
    assert (result.exit_code, result.output.strip()) == (0, "added 2")
