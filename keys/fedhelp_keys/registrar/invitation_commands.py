"""``fedhelp keys``: invite parties, look at the invitations, withdraw them; the registrar's policy.

Added to the group of `fedhelp_keys.registrar.commands`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role

if TYPE_CHECKING:
    from fedhelp_keys.registrar.policy import RegistrarPolicy

_State = Annotated[Path, typer.Option("--state", help="The registrar's state directory.")]
_Role = Annotated[Role, typer.Option(help="What the party does.")]

_COMMANDS = {
    Role.HOSPITAL: "client",
    Role.AGGREGATOR: "server",
    Role.DECRYPTOR: "custodian",
    Role.UNMASKER: "custodian",
    Role.BROKER: "broker",
    Role.AUDITOR: "audit",
}
"""Whose group has the command to join with."""


def invite(
    name: Annotated[str, typer.Argument(help="The party's name in the federation.")],
    state: _State,
    role: _Role = Role.HOSPITAL,
    group: Annotated[
        Literal["large", "small"] | None, typer.Option(help="Of a hospital; only for hospitals.")
    ] = None,
    valid_hours: Annotated[int, typer.Option(min=1, max=720, help="How long it is valid.")] = 24,
    join_address: Annotated[
        str | None, typer.Option(help="HOST:PORT to join at; otherwise the policy's.")
    ] = None,
) -> None:
    """Print the one line with which a party joins. It works once; hand it over like a password."""
    import datetime

    from fedhelp_keys.registrar.invitations import (
        InvitationRefused,
        Invitations,
        invited_identity,
    )
    from fedhelp_keys.registrar.policy import load_policy
    from fedhelp_keys.registrar.registry import check_invitable
    from fedhelp_secure.enrolment.joining import fingerprint
    from fedhelp_secure.transport.certificates import utc_now
    from fedhelp_secure.transport.joining import presented_root

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    address = load_policy(registrar).changed(join_address=join_address).join_address
    if address is None:
        raise InvitationRefused(
            "give --join-address HOST:PORT, or keep one with 'fedhelp keys policy'."
        )
    identity = invited_identity(registrar.identity.federation, role, name, group)
    check_invitable(registrar, identity, group)
    root = fingerprint(presented_root(registrar))
    valid = datetime.timedelta(hours=valid_hours)
    token = Invitations(registrar).invite(identity, group, now=utc_now(), valid=valid)
    # typer.echo and not the console: a line to paste is never folded.
    typer.echo(
        f"fedhelp {_COMMANDS[role]} enrol --state {name} --token {token.text}@{address} "
        f"--ca-fingerprint {root}"
    )


def invitations(state: _State) -> None:
    """List every invitation: for whom, until when, and what became of it. No token is kept."""
    from fedhelp_keys.registrar.invitations import Invitations
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    now = utc_now()
    table = Table("role", "name", "group", "made", "expires", "standing")
    for entry in Invitations(registrar).all():
        row = (entry.role, entry.name, entry.group or "", entry.made, entry.expires)
        table.add_row(*row, entry.standing(now))
    Console(width=110, highlight=False, markup=False).print(table)


def withdraw(
    name: Annotated[str, typer.Argument(help="The invited party's name.")],
    state: _State,
    role: _Role = Role.HOSPITAL,
) -> None:
    """Withdraw a party's open invitation: its token is refused from now on."""
    from fedhelp_keys.registrar.invitations import Invitations
    from fedhelp_secure.transport.certificates import utc_now
    from fedhelp_secure.transport.identity import Identity

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    identity = Identity(registrar.identity.federation, role, name)
    Invitations(registrar).withdraw(identity, now=utc_now())
    typer.echo(f"The invitation of {role.value} {name} is withdrawn.")


def policy(
    state: _State,
    certificate_hours: Annotated[
        int | None, typer.Option(help="How long certificates live from now on: 24 to 720 hours.")
    ] = None,
    join_address: Annotated[
        str | None, typer.Option(help="HOST:PORT at which parties reach the join port.")
    ] = None,
    trust_list_seconds: Annotated[
        int | None,
        typer.Option(help="Age at which a party that has no newer trust list admits nobody."),
    ] = None,
) -> None:
    """Show the registrar's policy, changed by the options that are given."""
    from fedhelp_keys.registrar.policy import load_policy, save_policy
    from fedhelp_keys.registrar.trust import set_maximum_age
    from fedhelp_secure.transport.certificates import utc_now
    from fedhelp_secure.trust.store import TrustStore

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    present = load_policy(registrar)
    changed = present.changed(certificate_hours=certificate_hours, join_address=join_address)
    if trust_list_seconds is not None:
        set_maximum_age(registrar, trust_list_seconds, now=utc_now())
    if changed != present:
        save_policy(registrar, changed)
    _print_policy(changed)
    held = TrustStore(registrar).current()
    typer.echo(
        f"A trust list may be {held.maximum_age_seconds} seconds old; it is number {held.sequence}."
    )


def _print_policy(shown: RegistrarPolicy) -> None:
    typer.echo(f"Certificates live {shown.certificate_seconds / 3600:g} hours.")
    typer.echo(f"Parties join at {shown.join_address or 'no address yet'}.")


def add_invitation_commands(app: typer.Typer) -> None:
    """Give ``app`` the commands of this module."""
    for command in (invite, invitations, withdraw, policy):
        app.command()(command)
