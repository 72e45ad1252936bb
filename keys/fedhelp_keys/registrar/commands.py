"""``fedhelp keys``: found a federation, enrol its parties, make its charters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from fedhelp_keys.registrar import authority_commands, governance_commands
from fedhelp_keys.registrar.authority_commands import read_file as _read
from fedhelp_keys.registrar.invitation_commands import add_invitation_commands
from fedhelp_keys.registrar.trust_commands import TrustListSeconds, revocations, revoke, trust
from fedhelp_secure.state import SignerUse, StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Role

if TYPE_CHECKING:
    from fedhelp_secure.charter import Charter

app = typer.Typer(
    name="keys",
    help="Be the registrar: found a federation, enrol its parties, make its charters.",
    no_args_is_help=True,
)
app.add_typer(authority_commands.app)
app.add_typer(governance_commands.app)

add_invitation_commands(app)
for command in (revoke, revocations, trust):
    app.command()(command)

_State = Annotated[Path, typer.Option("--state", help="The registrar's state directory.")]


@app.command()
def init(
    state: _State,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    certificate_hours: Annotated[
        int | None, typer.Option(help="How long certificates live: 24 to 720 hours; else 720.")
    ] = None,
    ca_certificate: Annotated[
        Path | None, typer.Option(help="PEM of an authority to use instead of a new root.")
    ] = None,
    trust_list_seconds: TrustListSeconds = 24 * 3600,
    ca_key: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Where the authority's key is: file: or pkcs11:...; with --ca-certificate also a "
            "file to copy into the state.",
        ),
    ] = "file:",
    governance_key: Annotated[
        str, typer.Option(metavar="URI", help="Where the governance key is: file: or pkcs11:...")
    ] = "file:",
) -> None:
    """Found a federation: its certificate authority and its governance key."""
    from fedhelp_keys.registrar.ca import found_federation
    from fedhelp_keys.registrar.policy import RegistrarPolicy
    from fedhelp_secure.canonical import digest
    from fedhelp_secure.transport.certificates import utc_now

    policy = RegistrarPolicy().changed(certificate_hours=certificate_hours)
    signers = {SignerUse.SIGNING: governance_key}
    registrar = found_federation(
        state,
        federation,
        now=utc_now(),
        policy=policy,
        authority=authority_commands.read_founding(ca_certificate, ca_key) or ca_key,
        signers=signers,
        trust_list_seconds=trust_list_seconds,
    )
    fingerprint = digest(registrar.governance_key().raw)
    _console().print(f"Federation {federation} is founded; governance key {fingerprint}.")
    _print_signers(registrar)
    _console().print(f"Keep {state} offline when you can, and back it up: it holds the root key.")


@app.command()
def enrol(
    request: Annotated[Path, typer.Argument(help="The request file of the party.")],
    state: _State,
    out: Annotated[Path, typer.Option(help="The bundle file to write.")],
    group: Annotated[
        Literal["large", "small"] | None, typer.Option(help="Of a hospital; only for hospitals.")
    ] = None,
    own_certificate: Annotated[
        bool, typer.Option(help="Another authority of the trust list certifies it.")
    ] = False,
) -> None:
    """Enrol the party that made REQUEST and write the bundle it installs."""
    from fedhelp_keys.registrar.registry import enrol as enrol_party
    from fedhelp_secure.enrolment.request import open_request
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    envelope = _read(request)
    _print_signers(registrar)
    bundle = enrol_party(
        registrar, envelope, group=group, now=utc_now(), own_certificate=own_certificate
    )
    write_atomically(out, bundle, mode=0o644)
    opened = open_request(envelope)
    _console().print(f"{opened.identity} is enrolled; request digest {opened.digest}.")
    _console().print(f"Compare the digest with the party before you give it {out}.")


@app.command()
def charter(
    state: _State,
    config: Annotated[Path, typer.Option(help="The plan, YAML.")],
    public_set: Annotated[Path, typer.Option(help="The public set's file.")],
    out: Annotated[Path, typer.Option(help="The signed charter to write.")],
    explain: Annotated[bool, typer.Option(help="Print the bounds as computed.")] = False,
) -> None:
    """Make and sign the charter that a plan describes; refuse it, with the reason, if unsound."""
    from fedhelp_keys.registrar.charters import sign_and_record
    from fedhelp_keys.registrar.plan import load_plan
    from fedhelp_keys.registrar.planning import plan_charter
    from fedhelp_secure.public_set import PublicSet
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    _print_signers(registrar)
    planned = plan_charter(registrar, load_plan(config), PublicSet.load(public_set), now=utc_now())
    write_atomically(out, sign_and_record(registrar, planned), mode=0o644)
    if explain:
        _print_explanation(planned)
    _console().print(f"{out} is charter {planned.name}, {planned.digest}.")


@app.command()
def show_charter(
    file: Annotated[Path, typer.Argument(help="A signed charter.")],
    state: Annotated[Path, typer.Option("--state", help="Any enrolled party's state directory.")],
) -> None:
    """Check a charter's signature and bounds, and print what it says."""
    from fedhelp_secure.trust.charters import open_own_charter

    opened = open_own_charter(StateDirectory.open(state), _read(file)).charter
    table = Table("hospital", "group", "weight", title=f"Charter {opened.name}")
    for hospital in opened.hospitals:
        table.add_row(hospital.name, hospital.group, str(opened.weights.of(hospital.group)))
    _console().print(table)
    _console().print(f"{opened.task}: {', '.join(opened.classes)}")
    _print_explanation(opened)
    _console().print(f"Signed by the governance key; {opened.digest}.")


@app.command()
def serve(
    state: _State,
    listen: Annotated[str, typer.Option(help="Address to listen on, HOST:PORT.")],
    join_listen: Annotated[
        str | None, typer.Option(help="Address for parties that join with a token, HOST:PORT.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written with HOST:PORT when callers may connect.")
    ] = None,
    join_ready_file: Annotated[
        Path | None, typer.Option(help="The same for parties that join; written first.")
    ] = None,
) -> None:
    """Serve renewals, and tokens on a port of their own, until SIGTERM or Ctrl-C."""
    from fedhelp_keys.registrar.serving import serve_registrar

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    _print_signers(registrar)
    serve_registrar(registrar, listen, join_listen, ready_file, join_ready_file)


def _print_signers(registrar: StateDirectory) -> None:
    from fedhelp_keys.registrar.generations import generations_of

    encrypted = "encrypted" if registrar.secrets.is_encrypted else "not encrypted"
    authorities = ", ".join(entry.signer for entry in generations_of(registrar))
    _console().print(
        f"Keys at rest: {encrypted}; {registrar.signers_in_use()}; authority key {authorities}."
    )


def _print_explanation(charter: Charter) -> None:
    from fedhelp_keys.registrar.planning import explain

    table = Table("quantity", "value", "must be, or is", title="Bounds")
    for line in explain(charter):
        table.add_row(line.quantity, line.value, line.condition)
    _console().print(table)


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
