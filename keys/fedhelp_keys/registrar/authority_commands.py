"""``fedhelp keys authority``: whose certificates the federation takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role

if TYPE_CHECKING:
    from fedhelp_keys.registrar.generations import Founding

app = typer.Typer(
    name="authority",
    help="Say whose certificates the federation takes.",
    no_args_is_help=True,
)

_State = Annotated[Path, typer.Option("--state", help="The registrar's state directory.")]


class FileUnreadable(ConfigurationError):
    """A file named on the command line is missing, or cannot be read."""

    code = "file-unreadable"


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="PEM: the one certificate that signs the parties'.")],
    state: _State,
    identity: Annotated[list[str], typer.Option(help="Whom it may certify, ROLE/NAME; repeat.")],
    subject: Annotated[
        list[str] | None,
        typer.Option(help="A subject (RFC 4514) that stands for that party; repeat."),
    ] = None,
) -> None:
    """Let an authority of another PKI certify parties of this federation."""
    from fedhelp_keys.registrar.authorities import add_authority, parse_identity
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    federation = registrar.identity.federation
    identities = [parse_identity(federation, text) for text in identity]
    added = add_authority(
        registrar, read_file(file), identities=identities, subjects=subject or (), now=utc_now()
    )
    _print(f"{added} may certify {', '.join(identity)}; compare the fingerprint with its owner.")


@app.command(name="list")
def show(state: _State) -> None:
    """Show every authority of the trust list, and whom it may certify."""
    from cryptography import x509

    from fedhelp_keys.registrar.authorities import fingerprint_of
    from fedhelp_keys.registrar.generations import generations_of
    from fedhelp_secure.trust.store import TrustStore

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    own = {entry.certificate: entry.signs_from for entry in generations_of(registrar)}
    for authority in TrustStore(registrar).current().authorities:
        certificate = x509.load_pem_x509_certificate(authority.certificate.encode("ascii"))
        _print(fingerprint_of(authority))
        table = Table(show_header=False)
        table.add_row("subject", certificate.subject.rfc4514_string())
        table.add_row("valid until", certificate.not_valid_after_utc.isoformat())
        scope = ["everybody"] if authority.identities is None else list(authority.identities)
        table.add_row("may certify", "\n".join(scope))
        for name, uri in authority.subjects.items():
            table.add_row("subject of", f"{uri}: {name}")
        if authority.certificate in own:
            table.add_row("signs here from", own[authority.certificate])
        Console(highlight=False, markup=False).print(table)


@app.command()
def remove(
    fingerprint: Annotated[str, typer.Argument(help="sha256: and at least 8 digits.")],
    state: _State,
) -> None:
    """Take an authority off the trust list: its certificates count no more, wherever it is known.

    If its key is the registrar's own, that is destroyed.
    """
    from fedhelp_keys.registrar.authorities import remove_authority
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    removed = remove_authority(registrar, fingerprint, now=utc_now())
    _print(f"{removed} certifies nobody any more.")


@app.command()
def rotate(
    state: _State,
    ca_certificate: Annotated[
        Path | None, typer.Option(help="PEM of an authority to use instead of a new root.")
    ] = None,
    ca_key: Annotated[
        str, typer.Option(metavar="URI", help="Where the key is: file: or pkcs11:..., or a file.")
    ] = "file:",
    at_once: Annotated[
        bool, typer.Option(help="Sign with it now: parties without the new list lose contact.")
    ] = False,
) -> None:
    """Put a new authority beside the present one; it signs when every party must know it."""
    from fedhelp_keys.registrar.authorities import rotate_authority
    from fedhelp_secure.transport.certificates import utc_now

    registrar = StateDirectory.open(state, Role.REGISTRAR)
    founding = read_founding(ca_certificate, ca_key)
    done = rotate_authority(
        registrar, now=utc_now(), founding=founding, signer=ca_key, at_once=at_once
    )
    _print(f"{done.fingerprint} signs new certificates from {done.signs_from.isoformat()}.")
    _print("When every party has renewed since then, take the old one off: authority remove.")


def read_founding(certificate: Path | None, key: str) -> Founding | None:
    """The authority whose ``certificate`` and ``key`` are given; None for a new root.

    ``key`` is a URI, at which it stays, or a file, which is copied. Raises FileUnreadable.
    """
    from fedhelp_keys.registrar.generations import OWN_FILE, Founding

    if certificate is None:
        return None
    if key == OWN_FILE:
        raise FileUnreadable("give --ca-key too, the file or the URI of the key.")
    if key.startswith(("file:", "pkcs11:")):
        return Founding(read_file(certificate), key=None, signer=key)
    return Founding(read_file(certificate), read_file(Path(key)))


def read_file(path: Path) -> bytes:
    """The bytes of ``path``; raises FileUnreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read; check the path.") from error


def _print(sentence: str) -> None:
    Console(highlight=False, markup=False, soft_wrap=True).print(sentence)
