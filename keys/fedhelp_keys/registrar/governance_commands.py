"""``fedhelp keys governance``: the key that signs charters and trust lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role

app = typer.Typer(
    name="governance",
    help="Change the key that signs charters and trust lists.",
    no_args_is_help=True,
)


@app.command()
def rotate(
    state: Annotated[Path, typer.Option("--state", help="The registrar's state directory.")],
    governance_key: Annotated[
        str, typer.Option(metavar="URI", help="Where the new key is: file: or pkcs11:...")
    ] = "file:",
    charter: Annotated[
        list[Path] | None,
        typer.Option(help="A charter that stays valid though it is not on record; repeat."),
    ] = None,
) -> None:
    """Hand over to a new governance key: the old one signs that, in every trust list to come."""
    from fedhelp_keys.registrar.authority_commands import read_file
    from fedhelp_keys.registrar.charters import record_envelope
    from fedhelp_keys.registrar.trust import rotate_governance
    from fedhelp_secure.canonical import digest
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    for path in charter or ():
        record_envelope(registrar, read_file(path))
    trusted = rotate_governance(registrar, signer=governance_key, now=utc_now())
    fingerprint = digest(registrar.signing_key().public.raw)
    _print(f"The governance key is now {fingerprint}; the trust list is number {trusted.sequence}.")
    _print("Parties that poll this registrar follow within seconds; the others when they are given")
    _print("the list that 'fedhelp keys trust' writes. The charters signed so far stay valid.")
    _print("Site policies that pin charter_signers need the new key for the next charter:")
    _print(registrar.signing_key().public.to_base64())


@app.command()
def show(
    state: Annotated[Path, typer.Option("--state", help="Any enrolled party's state directory.")],
) -> None:
    """Show the governance key that a party trusts now."""
    from fedhelp_secure.canonical import digest

    key = StateDirectory.open(state).governance_key()
    _print(f"{key.to_base64()}  {digest(key.raw)}")


def _print(sentence: str) -> None:
    Console(highlight=False, markup=False, soft_wrap=True).print(sentence)
