"""``fedhelp keys``: revoke a party, list who is revoked, write the list, set its maximum age."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

if TYPE_CHECKING:
    from fedhelp_secure.trust.trust_list import TrustList

State = Annotated[Path, typer.Option("--state", help="The registrar's state directory.")]
TrustListSeconds = Annotated[
    int,
    typer.Option(
        "--trust-list-seconds", help="Age at which a party that has no newer list admits nobody."
    ),
]


def revoke(
    name: Annotated[str, typer.Argument(help="The party's name.")],
    state: State,
    reason: Annotated[
        str, typer.Option(help="One line that every party will read; nothing about patients.")
    ],
    role: Annotated[
        Role | None, typer.Option(help="Its role, if several parties have that name.")
    ] = None,
) -> None:
    """Put a party out, for good: nobody lets it in or calls it any more. Asks nothing."""
    from fedhelp_keys.registrar.registry import Registry
    from fedhelp_keys.registrar.trust import party_called
    from fedhelp_keys.registrar.trust import revoke as revoke_party
    from fedhelp_secure.transport.certificates import utc_now
    from fedhelp_secure.trust.refresh import BOUND_SECONDS
    from fedhelp_secure.trust.store import TrustStore

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    roles = [Role(each.role) for each in Registry(registrar).members() if each.name == name]
    identity = party_called(registrar, name, role=role, enrolled=roles)
    earlier = TrustStore(registrar).current().revocation_of(identity)
    trusted = revoke_party(registrar, identity, reason=reason, now=utc_now())
    if earlier is not None:
        _print(f"{identity} was revoked already, {earlier.revoked}: {earlier.reason}.")
        _print(f"Nothing was changed; the trust list is number {trusted.sequence}.")
        return
    _print(f"{identity} is revoked; the trust list is number {trusted.sequence}.")
    if identity.role not in roles:
        _print("Nobody of that role and name is in the registry: check the spelling.")
    _print("It cannot renew its certificate, join or be enrolled under that name again.")
    _print(
        f"Every party that polls this registrar refuses it within {BOUND_SECONDS:.0f} seconds, and "
        "ends the calls that run. The others refuse it when they are given the list that "
        f"'fedhelp keys trust' writes, and admit nobody after {_age(trusted)}."
    )
    _print("Charters that name it stay as they are: make a new one without it.")


def revocations(state: State) -> None:
    """List who is revoked, since when and why."""
    from fedhelp_secure.trust.store import TrustStore

    trusted = TrustStore(StateDirectory.open(state, Role.REGISTRAR)).current()
    table = Table("party", "since", "reason", title=f"Trust list number {trusted.sequence}")
    for entry in trusted.revocations:
        identity = Identity.from_uri(entry.identity)
        table.add_row(f"{identity.role.value} {identity.name}", entry.revoked, entry.reason)
    _console().print(table)
    _print(f"{len(trusted.revocations)} revoked; a list may be {_age(trusted)} old.")


def trust(
    state: State, out: Annotated[Path, typer.Option(help="The signed trust list to write.")]
) -> None:
    """Write the present trust list, for a party that cannot poll the registrar."""
    from fedhelp_keys.registrar.trust import issue_trust_list
    from fedhelp_secure.transport.certificates import utc_now
    from fedhelp_secure.trust.store import TrustStore

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    write_atomically(out, issue_trust_list(registrar, now=utc_now()), mode=0o644)
    trusted = TrustStore(registrar).current()
    _print(f"{out} is trust list number {trusted.sequence} of {trusted.issued}.")
    _print(f"It is good for {_age(trusted)}; install it with 'fedhelp enrol trust {out}'.")


def policy(state: State, trust_list_seconds: TrustListSeconds) -> None:
    """Set how old a trust list may be."""
    from fedhelp_keys.registrar.trust import set_maximum_age
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    trusted = set_maximum_age(registrar, trust_list_seconds, now=utc_now())
    _print(f"A trust list may be {_age(trusted)} old; it is number {trusted.sequence}.")


def _age(trusted: TrustList) -> str:
    seconds = trusted.maximum_age_seconds
    return f"{seconds // 3600} hours" if seconds % 3600 == 0 else f"{seconds} seconds"


def _print(sentence: str) -> None:
    _console().print(sentence)


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
