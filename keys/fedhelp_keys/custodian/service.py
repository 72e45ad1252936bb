"""The custodian's server process: one role's service behind mutual TLS."""

from __future__ import annotations

from pathlib import Path

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.enrolment.renewal import upkeep_of
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.transport.server import serve_until_signal, start_server
from fedhelp_secure.wire.v1 import custodian_pb2_grpc


def serve_custodian(
    state: StateDirectory, listen: str, *, ready_file: Path | None, registrar: str | None = None
) -> None:
    """Serve until a signal; ``state`` must be a decryptor's or an unmasker's.

    Its certificate is renewed from the ``registrar`` at that address, if one is given.
    """
    if state.identity.role is Role.UNMASKER:
        unmasker = UnmaskerService(state)
        server = start_server(
            state,
            listen,
            register=lambda target: custodian_pb2_grpc.add_UnmaskerServicer_to_server(
                unmasker, target
            ),
        )
        with upkeep_of(state, registrar):
            serve_until_signal(server, ready_file)
        return
    decryptor = DecryptorService(state)
    try:
        server = start_server(
            state,
            listen,
            register=lambda target: custodian_pb2_grpc.add_DecryptorServicer_to_server(
                decryptor, target
            ),
        )
        with upkeep_of(state, registrar):
            serve_until_signal(server, ready_file)
    finally:
        decryptor.close()
