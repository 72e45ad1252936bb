"""``fedhelp privacy``: for a hospital's privacy officer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedhelp_secure.errors import ConfigurationError

if TYPE_CHECKING:
    from fedhelp_secure.privacy.status import PrivacyStatus
    from fedhelp_secure.signing import SigningKey

app = typer.Typer(no_args_is_help=True, help="Plan a privacy budget, and see what is spent.")

_CONSENT_KEY = "consent key"

StateOption = Annotated[Path, typer.Option("--state", help="This hospital's state directory.")]


@app.callback()
def privacy() -> None:
    """Plan a privacy budget, and see what is spent; nothing leaves the hospital."""


@app.command()
def status(
    state: StateOption,
    policy: Annotated[
        Path | None, typer.Option(help="The site's policy (YAML), for the limits now in force.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also write a picture (.png) or a page (.html) here.")
    ] = None,
) -> None:
    """Say what is spent per charter, year, data set and in all, against every limit."""
    from fedhelp_secure.policy import SitePolicy
    from fedhelp_secure.privacy.ledger_file import ledger_path, read_account
    from fedhelp_secure.privacy.plots import write_plot
    from fedhelp_secure.privacy.status import status_of
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    directory = StateDirectory.open(state, Role.HOSPITAL)
    account = read_account(
        ledger_path(directory),
        hospital=directory.identity.name,
        keys=directory.verifying_keys(),
    )
    found = status_of(account, None if policy is None else SitePolicy.load(policy))
    if plot is not None:
        write_plot(found, plot)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _print(found)


@app.command()
def consent(
    state: StateOption,
    policy: Annotated[Path, typer.Option(help="The site's policy (YAML), which pins the key.")],
    period: Annotated[
        str,
        typer.Option(help="year:YYYY, data-set:NAME, charter:sha256:DIGEST or lifetime."),
    ],
    reason: Annotated[str, typer.Option(help="One line for the record; never about a patient.")],
    key: Annotated[Path, typer.Option(help="The privacy officer's key.")],
    key_passphrase_fd: Annotated[
        int | None, typer.Option(min=0, help="Read that key's passphrase from this descriptor.")
    ] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="New limit on epsilon (aggregate) for the period.")
    ] = None,
    epsilon_collusion: Annotated[
        str | None, typer.Option(help="New limit on epsilon (collusion) for the period.")
    ] = None,
) -> None:
    """Consent to a larger budget for one period: signed, and recorded in the ledger for good."""
    from fedhelp_secure.policy import SitePolicy
    from fedhelp_secure.privacy.consent import Period
    from fedhelp_secure.privacy.ledger import Ledger
    from fedhelp_secure.state import StateDirectory
    from fedhelp_secure.transport.identity import Role

    directory = StateDirectory.open(state, Role.HOSPITAL)
    ledger = Ledger.of(directory, policy=SitePolicy.load(policy))
    entry = ledger.consent(
        Period.parse(period),
        epsilon=epsilon,
        epsilon_collusion=epsilon_collusion,
        reason=reason,
        key=_read_key(key, key_passphrase_fd),
    )
    _console().print(f"recorded as entry {entry.record.sequence} of the ledger: {entry.digest}")


@app.command("consent-key")
def consent_key(
    out: Annotated[Path, typer.Option(help="New file for the private key; keep it to yourself.")],
) -> None:
    """Make the privacy officer's key, and print the public half for the site's policy.

    It is encrypted under the passphrase that 'fedhelp --ask-passphrase' or --passphrase-fd gives.
    """
    from fedhelp_secure.keystore import passphrase, standalone
    from fedhelp_secure.signing import SigningKey

    made = SigningKey.generate()
    secret = made.to_pem()
    if passphrase.current().given:
        secret = standalone.seal(secret, passphrase.current().choose(), _CONSENT_KEY)
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be made anew; give another file.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    _console().print(f"consent_key: {made.public.to_base64()}")


def _read_key(path: Path, passphrase_fd: int | None) -> SigningKey:
    from fedhelp_secure.keystore import standalone
    from fedhelp_secure.keystore.passphrase import PassphraseSource
    from fedhelp_secure.keystore.permissions import check_private_file
    from fedhelp_secure.signing import SigningKey

    # Not this process's own passphrase: the officer's is not the node's.
    source = PassphraseSource(
        passphrase_fd, credential=None, prompt="Passphrase of the privacy officer's key: "
    )
    try:
        check_private_file(path)
        return SigningKey.from_pem(standalone.unseal(path.read_bytes(), source.read, _CONSENT_KEY))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read; give the privacy officer's key.") from (
            error
        )


def _print(found: PrivacyStatus) -> None:
    from fedhelp_secure.privacy.plots import fewer_honest_lines, table

    console = _console()
    console.print(table(found))
    console.print("Epsilon (aggregate) if fewer noise shares are honest than were counted on:")
    for line in fewer_honest_lines(found):
        console.print(f"  {line}")
    for given in found.consents:
        raised = [
            f"{name} {limit}"
            for name, limit in (
                ("epsilon (aggregate)", given.epsilon),
                ("epsilon (collusion)", given.epsilon_collusion),
            )
            if limit is not None
        ]
        console.print(
            f"consent of {given.given_at} for {given.period}: {', '.join(raised)}: {given.reason}"
        )
    console.print(f"{found.entries} ledger entries, the last {found.head} at {found.last_at}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
