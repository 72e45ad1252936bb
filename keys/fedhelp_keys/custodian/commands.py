"""``fedhelp custodian``: prepare and serve a decryptor or an unmasker, and care for its keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedhelp_secure.enrolment.join_command import add_enrol_command
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Role

if TYPE_CHECKING:
    # Every `fedhelp` start loads this module.
    from fedhelp_keys.custodian.epochs import EpochStore

app = typer.Typer(
    name="custodian",
    help="Run a custodian of the secure sum: the decryptor or an unmasker.",
    no_args_is_help=True,
)
add_enrol_command(app, "decryptor", "unmasker")

_State = Annotated[Path, typer.Option("--state", help="This custodian's state directory.")]
_PUBLIC_MODE = 0o644


@app.command()
def prepare(state: _State) -> None:
    """Make what the role needs before it can be enrolled: CKKS keys for a decryptor."""
    directory = _opened(state)
    console = _console()
    if directory.identity.role is Role.UNMASKER:
        console.print("An unmasker needs no further keys: its sealing key is in its state.")
        return
    from fedhelp_keys.custodian import key_files

    console.print(f"public context {key_files.prepare(directory)}")


@app.command()
def ceremony(
    state: _State,
    present: Annotated[list[str], typer.Option(help="Who is there; once for each person.")],
    threshold: Annotated[int, typer.Option(help="Shares that give the backup key back.")],
    shares: Annotated[int, typer.Option(help="Shares in all, one for each holder.")],
    out: Annotated[Path, typer.Option(help="Where transcript.json and backup.json go.")],
    shares_to: Annotated[
        Path | None,
        typer.Option(help="Write the shares to files here instead of the screen, to be printed."),
    ] = None,
) -> None:
    """Make the first keys before witnesses: fingerprints to read aloud, shares, a transcript."""
    from fedhelp_keys.custodian.backup import make_backup
    from fedhelp_keys.custodian.ceremony import hold

    directory, console = _opened(state), _console()
    held = hold(directory, present, threshold=threshold, count=shares)
    for number, share in enumerate(held.shares, start=1):
        if shares_to is None:
            console.print(f"share {number} of {shares}, for its holder alone:\n    {share}")
        else:
            write_atomically(shares_to / f"share-{number}.txt", f"{share}\n".encode("ascii"))
    # Only now: nobody keeps the shares, and they cannot be made again if a file cannot be written.
    for fingerprint in held.fingerprints:
        console.print(f"{fingerprint.key}: {fingerprint.groups}\n    {fingerprint.words}")
    write_atomically(out / "transcript.json", held.transcript, mode=_PUBLIC_MODE)
    write_atomically(out / "backup.json", make_backup(directory))
    console.print(
        f"any {threshold} of the {shares} shares open {out / 'backup.json'}; read the fingerprints "
        f"aloud, and compare them with {out / 'transcript.json'}, which holds no secret."
    )


@app.command()
def backup(
    state: _State, out: Annotated[Path, typer.Option(help="The file to write, or to replace.")]
) -> None:
    """Write a new backup, sealed to the key whose shares the ceremony handed out."""
    from fedhelp_keys.custodian.backup import make_backup

    write_atomically(out, make_backup(_opened(state)))
    _console().print(f"{out} takes the place of every earlier backup of this custodian.")


@app.command()
def restore(
    state: Annotated[Path, typer.Option(help="The new state directory.")],
    backup: Annotated[Path, typer.Option(help="The newest backup of the custodian.")],
    share_file: Annotated[
        list[Path] | None,
        typer.Option(help="File with a share, once for each; otherwise they are asked for."),
    ] = None,
) -> None:
    """Make a custodian anew from its backup and enough shares, with keys of a new epoch."""
    from fedhelp_keys.custodian.backup import BackupRefused, restore_backup
    from fedhelp_keys.custodian.epochs import EpochStore
    from fedhelp_keys.custodian.shares import spoken
    from fedhelp_secure.canonical import digest

    console = _console()
    try:
        lines = [path.read_text("ascii") for path in share_file or ()]
    except (OSError, UnicodeDecodeError) as error:
        raise BackupRefused("a file with a share cannot be read; give its path.") from error
    if not share_file:
        console.print("one share a line, in any order; an empty line ends them:")
        lines = list(iter(lambda: sys.stdin.readline().strip(), ""))
    restored = restore_backup(backup, lines, state)
    signing_key = restored.signing_key().public.to_base64().encode("ascii")
    groups, words = spoken(digest(signing_key))
    console.print(f"{restored.identity} is in {state}:")
    _show(EpochStore(restored), console)
    console.print(f"signing key: {groups}\n    {words}\ncompare it with the ceremony's transcript.")
    console.print("it answers no round that was begun before; start it, and make a new backup.")


@app.command()
def rotate(state: _State) -> None:
    """Make the next epoch's keys; a running custodian begins rounds with them from now on."""
    from fedhelp_keys.custodian.epochs import EpochStore

    store, console = EpochStore(_opened(state)), _console()
    number = store.rotate()
    console.print(f"epoch {number}: rounds that begin from now on are under its keys.")
    _show(store, console)


@app.command()
def epochs(
    state: _State,
    out: Annotated[
        Path | None, typer.Option(help="Write every epoch's signed statements to this folder.")
    ] = None,
) -> None:
    """List the key epochs, and which rounds each still waits for."""
    from fedhelp_keys.custodian.epochs import EpochStore

    store = EpochStore(_opened(state))
    _show(store, _console())
    for name, statement in store.statements().items() if out is not None else ():
        write_atomically((out or Path()) / name, statement, mode=_PUBLIC_MODE)


@app.command()
def destroy_epoch(
    epoch: Annotated[int, typer.Argument(help="The number of an earlier epoch.")],
    state: _State,
    reason: Annotated[str, typer.Option(help="Why, in a line; it is signed and logged.")],
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Also if rounds wait: they can never be opened.")
    ] = False,
) -> None:
    """Destroy an earlier epoch's secret now."""
    from fedhelp_keys.custodian.epochs import EpochStore

    store, console = EpochStore(_opened(state)), _console()
    store.give_up(epoch, reason, abandon=abandon)
    _show(store, console)


@app.command()
def serve(
    state: _State,
    listen: Annotated[str, typer.Option(help="Address to listen on, for example 127.0.0.1:7010.")],
    ready_file: Annotated[
        Path | None, typer.Option(help="Written with host:port once the service listens.")
    ] = None,
    registrar: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the registrar, to renew the certificate in time."),
    ] = None,
) -> None:
    """Serve the role of this state until SIGTERM or SIGINT."""
    directory = _opened(state)
    from fedhelp_keys.custodian.service import serve_custodian

    serve_custodian(directory, listen, ready_file=ready_file, registrar=registrar)


def _opened(state: Path) -> StateDirectory:
    return StateDirectory.open(state, Role.DECRYPTOR, Role.UNMASKER)


def _show(store: EpochStore, console: Console) -> None:
    for epoch in store.status():
        console.print(f"epoch {epoch.number}, {epoch.created}: {epoch.fate}; key {epoch.key}")
        for waiting in epoch.waiting:
            console.print(f"    waits for the answer to {waiting}")


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
