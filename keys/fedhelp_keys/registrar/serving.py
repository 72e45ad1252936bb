"""The registrar as a process: both its ports, and its own certificate kept new."""

from __future__ import annotations

import contextlib
from pathlib import Path

import typer

from fedhelp_keys.registrar.ca import renew_own_certificate
from fedhelp_keys.registrar.joining import JoiningService
from fedhelp_keys.registrar.service import EnrolmentService
from fedhelp_keys.registrar.trust import keep_issued
from fedhelp_secure.enrolment.renewal import Renewal, alone
from fedhelp_secure.enrolment.upkeep import Upkeep
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.joining import start_join_server
from fedhelp_secure.transport.server import serve_until_signal, start_server


def serve_registrar(
    state: StateDirectory,
    listen: str,
    join_listen: str | None,
    ready_file: Path | None,
    join_ready_file: Path | None,
) -> None:
    """Serve until a signal: mutual TLS on ``listen``, tokens on ``join_listen`` if there is one.

    Raises ListenFailed, AddressMalformed or StateError.
    """
    _renew(state)
    service = EnrolmentService(state)
    kept = Upkeep()
    kept.add(Renewal(state, lambda: _renew(state)))
    keep_issued(state, kept)
    with contextlib.ExitStack() as running:
        server = start_server(state, listen, register=service.register)
        running.callback(server.stop)
        if join_listen is not None:
            register = JoiningService(state).register
            joining = start_join_server(state, join_listen, register=register)
            running.callback(joining.stop)
            typer.echo(f"{state.identity} lets parties join at {joining.address}.")
            if join_ready_file is not None:
                write_atomically(join_ready_file, f"{joining.address}\n".encode("ascii"))
                running.callback(join_ready_file.unlink, missing_ok=True)
        typer.echo(f"{state.identity} listens on {server.address}.")
        running.enter_context(kept)
        serve_until_signal(server, ready_file)


def _renew(state: StateDirectory) -> None:
    with alone(state):
        renew_own_certificate(state, now=utc_now())
