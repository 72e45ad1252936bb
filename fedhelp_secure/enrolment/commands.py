"""``fedhelp enrol``: join a federation, and stay in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedhelp_secure.canonical import digest
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.own_certificate import install_own_certificate, make_csr
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.keystore import passphrase as passphrases
from fedhelp_secure.keystore.passphrase import PassphraseSource
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import SignerUse, StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

app = typer.Typer(
    name="enrol",
    help="Join a federation: make a request, install the registrar's answer, renew.",
    no_args_is_help=True,
)

_State = Annotated[Path, typer.Option("--state", help="This party's state directory.")]


class EnrolmentOptions(ConfigurationError):
    """Options of an enrolment command are missing, or contradict the state."""

    code = "enrolment-options"


@app.command()
def init(
    state: _State,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    role: Annotated[Role, typer.Option(help="What this party does.")],
    name: Annotated[str, typer.Option(help="This party's name in the federation.")],
    signing_key: Annotated[
        str, typer.Option(metavar="URI", help="Where the signing key is: file: or pkcs11:...")
    ] = "file:",
) -> None:
    """Make a state directory with this party's identity and keys."""
    identity = Identity(federation, role, name)
    made = StateDirectory.create(state, identity, signers={SignerUse.SIGNING: signing_key})
    _print(f"{state} is ready for {role.value} {name}.")
    _print_keys(made)
    if role is Role.DECRYPTOR:
        _print("Next: fedhelp custodian prepare, then fedhelp enrol request.")


@app.command()
def request(
    state: _State,
    out: Annotated[Path, typer.Option(help="The request file to write.")],
    federation: Annotated[str | None, typer.Option(help="For a new state directory.")] = None,
    role: Annotated[Role | None, typer.Option(help="For a new state directory.")] = None,
    name: Annotated[str | None, typer.Option(help="For a new state directory.")] = None,
    csr: Annotated[
        Path | None, typer.Option(help="PKCS#10 file to write too, for an authority of your own.")
    ] = None,
) -> None:
    """Write the file that asks the registrar for a certificate; make the state if there is none."""
    directory = _open_or_create(state, federation, role, name)
    envelope = make_request(directory)
    write_atomically(out, envelope, mode=0o644)
    _print_keys(directory)
    _print(f"{out} asks to enrol {directory.identity}; digest {digest(envelope)}.")
    _print("Take it to the registrar, and compare the digest over another way, such as a call.")
    if csr is not None:
        write_atomically(csr, make_csr(directory), mode=0o644)
        _print(f"{csr} asks your own authority for a certificate; the key stays in {state}.")


@app.command()
def install(
    state: _State,
    bundle: Annotated[Path, typer.Argument(help="The registrar's answer.")],
    governance_key: Annotated[
        Path | None, typer.Option(help="File with the governance key to insist on (base64).")
    ] = None,
) -> None:
    """Take the registrar's answer into the state."""
    directory = StateDirectory.open(state)
    pinned = None
    if governance_key is not None:
        pinned = VerifyingKey.from_base64(_read(governance_key).decode("utf-8", "replace").strip())
    trusted = install_bundle(directory, _read(bundle), now=utc_now(), governance_key=pinned)
    _print(f"{directory.identity} is enrolled; governance key {digest(trusted.raw)}.")
    if pinned is None:
        _print("Compare that digest with the registrar before you trust a charter.")


@app.command()
def own_certificate(
    state: _State,
    certificate: Annotated[
        Path, typer.Option(help="PEM: the certificate, then intermediates, without the authority.")
    ],
) -> None:
    """Use a certificate of an authority of your own, which the trust list must name."""
    directory = StateDirectory.open(state)
    leaf = install_own_certificate(directory, _read(certificate), now=utc_now())
    end = leaf.not_valid_after_utc.isoformat()
    _print(f"{directory.identity} uses {certificate}, valid until {end}.")
    _print("Nobody renews it automatically: install the next one the same way, before that time.")


@app.command()
def renew(
    state: _State,
    registrar: Annotated[str, typer.Option(help="Address of the registrar, HOST:PORT.")],
) -> None:
    """Get a new certificate for a new TLS key, while the present one is still valid."""
    from fedhelp_secure.enrolment.renewal import renew as renew_certificate

    directory = StateDirectory.open(state)
    renew_certificate(directory, registrar)
    _print(f"The certificate of {directory.identity} is renewed.")


@app.command()
def rotate_keys(
    state: _State,
    registrar: Annotated[str, typer.Option(help="Address of the registrar, HOST:PORT.")],
    signing_key: Annotated[
        str, typer.Option(metavar="URI", help="Where the new signing key is: file: or pkcs11:...")
    ] = "file:",
) -> None:
    """Take other signing and sealing keys for all charters to come; those that run go on."""
    from fedhelp_secure.enrolment.key_rotation import rotate_keys as rotate

    directory = StateDirectory.open(state)
    keys = rotate(directory, registrar, signer=signing_key)
    fingerprint = digest(keys.signing_key.public.raw)
    _print(f"{directory.identity} has keys of generation {keys.number}; signing key {fingerprint}.")
    _print(
        "The next charter that the registrar makes names them; those that run keep the old ones."
    )
    _print("When those are over: fedhelp enrol destroy-old-keys.")


@app.command()
def destroy_old_keys(
    state: _State,
    abandon: Annotated[
        bool, typer.Option(help="Also if sums may still come that only the old keys open.")
    ] = False,
) -> None:
    """Overwrite and remove the keys that a rotation replaced: their charters are over here."""
    from fedhelp_secure.enrolment.old_keys import destroy_old_keys as destroy

    directory = StateDirectory.open(state)
    gone = destroy(directory, abandon=abandon)
    if not gone:
        _print(f"{directory.identity} has no old keys; nothing was changed.")
        return
    numbers = ", ".join(str(each.number) for each in gone)
    _print(f"The private keys of generation {numbers} of {directory.identity} are gone.")
    for each in gone:
        if each.signer != "file:":
            _print(f"Not this one, which is not in {state}; remove it there: {each.signer}")


@app.command()
def trust(
    state: _State,
    file: Annotated[Path, typer.Argument(help="The trust list that 'fedhelp keys trust' wrote.")],
) -> None:
    """Take a newer trust list into the state, also while this party runs."""
    from fedhelp_secure.trust.store import TrustStore

    directory = StateDirectory.open(state)
    trusted = TrustStore(directory).install(_read(file), now=utc_now())
    _print(f"{directory.identity} holds trust list number {trusted.sequence} of {trusted.issued}.")
    _print(f"It is good until {trusted.expires_at:%Y-%m-%dT%H:%M:%SZ}.")


@app.command()
def passphrase(
    state: _State,
    new_passphrase_fd: Annotated[
        int | None, typer.Option(min=0, help="Read the new passphrase from this descriptor.")
    ] = None,
    remove: Annotated[bool, typer.Option(help="Decrypt the keys: no passphrase any more.")] = False,
) -> None:
    """Encrypt this party's keys under a passphrase, change it, or take it away."""
    directory = StateDirectory.open(state)
    encrypted = directory.secrets.is_encrypted
    if remove:
        directory.secrets.decrypt()
    else:
        if encrypted:
            # Whoever does not know the present one is not asked for another.
            directory.unsealing_key()
        directory.secrets.encrypt(_new_passphrase(new_passphrase_fd, encrypted).choose())
    _print_keys(directory)


def _new_passphrase(descriptor: int | None, encrypted: bool) -> PassphraseSource:
    if descriptor is None and not encrypted and passphrases.current().given:
        return passphrases.current()
    ask = descriptor is None
    return PassphraseSource(descriptor, credential=None, ask=ask, prompt="New passphrase: ")


def _print_keys(state: StateDirectory) -> None:
    how = "encrypted" if state.secrets.is_encrypted else "NOT encrypted (fedhelp enrol passphrase)"
    _print(f"Keys in {state.root} are {how}; {state.signers_in_use()}.")


def _open_or_create(
    root: Path, federation: str | None, role: Role | None, name: str | None
) -> StateDirectory:
    if (root / "identity.json").exists():
        state = StateDirectory.open(root)
        held = state.identity
        if (
            federation not in (None, held.federation)
            or role not in (None, held.role)
            or name not in (None, held.name)
        ):
            raise EnrolmentOptions(
                f"{root} belongs to {held}; leave --federation, --role and --name out, "
                "or choose another --state directory."
            )
        return state
    if federation is None or role is None or name is None:
        raise EnrolmentOptions(
            f"{root} holds no identity yet; give --federation, --role and --name."
        )
    return StateDirectory.create(root, Identity(federation, role, name))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnrolmentOptions(f"{path} cannot be read; check the path.") from error


def _print(sentence: str) -> None:
    Console(highlight=False, markup=False, soft_wrap=True).print(sentence)
