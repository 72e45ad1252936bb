"""``fedhelp ROLE enrol``: one command, which each role's group registers for its own roles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedhelp_secure.enrolment.token import JoinToken
    from fedhelp_secure.state import StateDirectory

_TOKEN_FILE_BYTES = 4096


def add_enrol_command(app: typer.Typer, *roles: str) -> None:
    """Give ``app`` the command ``enrol`` for tokens of ``roles`` (values of `Role`)."""
    app.command("enrol")(_command(roles))


def _command(roles: tuple[str, ...]) -> Callable[..., None]:
    def enrol(
        *,
        ca_fingerprint: Annotated[
            str, typer.Option(help="The registrar's root, as sha256:HEX; comes with the token.")
        ],
        token: Annotated[str | None, typer.Option(help="The registrar's one-time token.")] = None,
        source: Annotated[
            str | None,
            typer.Option(
                "--token-file", help="Read the token from this file; - is standard input."
            ),
        ] = None,
        registrar: Annotated[
            str | None, typer.Option(help="HOST:PORT to join at, if the token does not say it.")
        ] = None,
        state: Annotated[
            Path | None, typer.Option(help="This party's state directory; else named after it.")
        ] = None,
    ) -> None:
        """Join a federation with a one-time token: make keys here, get a certificate for them."""
        from fedhelp_secure.enrolment.token import JoinToken

        parsed = JoinToken.parse(_token_text(token, source))
        directory = state if state is not None else Path(parsed.identity.name)
        _join(parsed, roles, directory, registrar or parsed.address, ca_fingerprint)

    return enrol


def _join(
    token: JoinToken, roles: tuple[str, ...], root: Path, address: str | None, expected: str
) -> None:
    from fedhelp_secure.canonical import digest
    from fedhelp_secure.enrolment.joining import JoinOptions, fetch_root, join

    if token.identity.role.value not in roles:
        raise JoinOptions(
            f"this token is for a party of role {token.identity.role.value}; "
            "use that role's own 'enrol' command."
        )
    if address is None:
        raise JoinOptions("give --registrar HOST:PORT: this token does not say where to join.")
    certificate = fetch_root(address, expected)
    directory = _state(root, token)
    trusted = join(directory, token, address, certificate)
    typer.echo(f"{directory.identity} is enrolled; its state is {root}.")
    typer.echo(f"Governance key {digest(trusted.raw)}, from the registrar with root {expected}.")


def _state(root: Path, token: JoinToken) -> StateDirectory:
    from fedhelp_secure.enrolment.joining import JoinOptions
    from fedhelp_secure.state import StateDirectory

    if not (root / "identity.json").exists():
        return StateDirectory.create(root, token.identity)
    directory = StateDirectory.open(root)
    if directory.identity != token.identity:
        raise JoinOptions(
            f"{root} belongs to {directory.identity}, and the token is for {token.identity}; "
            "choose another --state directory."
        )
    return directory


def _token_text(token: str | None, source: str | None) -> str:
    from fedhelp_secure.enrolment.joining import JoinOptions

    if token is not None and source is None:
        return token
    if token is not None or source is None:
        raise JoinOptions("give the token by --token or by --token-file, and not by both.")
    try:
        if source == "-":
            return sys.stdin.read(_TOKEN_FILE_BYTES)
        with Path(source).open(encoding="ascii") as file:
            return file.read(_TOKEN_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise JoinOptions(f"{source} cannot be read as a token; check the path.") from error
