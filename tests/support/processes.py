"""The federation's servers as real processes, for tests across boundaries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.federation import Federation

from fedhelp_secure.demo.processes import ProcessGroup, Running
from fedhelp_secure.transport.identity import Role


@dataclass(frozen=True, slots=True)
class Servers:
    """Running custodians and aggregator."""

    group: ProcessGroup
    addresses: dict[str, str]
    running: dict[str, Running]


@contextmanager
def running_servers(federation: Federation, directory: Path) -> Iterator[Servers]:
    """Custodians and aggregator of ``federation`` until the block ends."""
    with ProcessGroup(directory) as group:
        addresses: dict[str, str] = {}
        running: dict[str, Running] = {}

        def serve(name: str, *arguments: str) -> None:
            running[name], addresses[name] = group.serve(name, *arguments)

        custodians = federation.charter.custodians
        unmaskers = [unmasker.name for unmasker in custodians.unmaskers]
        for name in (custodians.decryptor.name, *unmaskers):
            state = str(federation.state(name).root)
            serve(name, "custodian", "serve", "--state", state, "--listen", "127.0.0.1:0")
        serve(
            "aggregator",
            *("server", "run", "--state", str(federation.state(Role.AGGREGATOR).root)),
            *("--charter", str(federation.charter_file())),
            *("--decryptor", addresses["decryptor"]),
            *(f"--unmasker={addresses[name]}" for name in unmaskers),
            *("--listen", "127.0.0.1:0"),
        )
        yield Servers(group, addresses, running)


def context_file(federation: Federation) -> Path:
    """The public CKKS context, as the decryptor published it."""
    return federation.state(Role.DECRYPTOR).role_directory() / "context.public"
