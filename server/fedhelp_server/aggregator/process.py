"""The aggregator as a process: from start to signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from fedhelp_secure.enrolment.renewal import upkeep_of
from fedhelp_secure.errors import InternalError
from fedhelp_secure.memory import share_one_heap
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.transport.server import RunningServer, serve_until_signal, start_server
from fedhelp_server.aggregator.custodians import CustodianAddresses
from fedhelp_server.aggregator.service import Aggregator


class RoundsStopped(InternalError):
    """The rounds cannot go on in this process."""

    code = "rounds-stopped"


class _WatchedServer(RunningServer):
    """A running server that does something before it stops."""

    def __init__(self, running: RunningServer, before_stop: Callable[[], None]) -> None:
        self._running = running
        self._before_stop = before_stop
        self.port = running.port
        self.address = running.address

    def stop(self, grace: float | None = None) -> None:
        self._before_stop()
        self._running.stop(grace)

    def wait(self) -> None:
        self._running.wait()


def serve(
    root: Path,
    charter_file: Path,
    addresses: CustodianAddresses,
    *,
    listen: str,
    ready_file: Path | None,
    registrar: str | None = None,
    blobs_url: str | None = None,
) -> None:
    """Serve the aggregator whose state is in ``root`` until SIGTERM or SIGINT.

    Raises what `Aggregator` and `start_server` raise, and RoundsStopped if an error ended it.
    """
    share_one_heap()
    state = StateDirectory.open(root, Role.AGGREGATOR)
    aggregator = Aggregator(state, charter_file, addresses, blobs_url=blobs_url)
    try:
        running = start_server(
            state,
            listen,
            register=aggregator.register,
            maximum_workers=aggregator.room.workers,
        )
        aggregator.start(lambda: os.kill(os.getpid(), signal.SIGTERM))
        # Watches end first: otherwise each stop would last the whole grace period.
        with upkeep_of(state, registrar):
            serve_until_signal(_WatchedServer(running, aggregator.stop), ready_file)
    finally:
        aggregator.stop()
        aggregator.close()
    if aggregator.failed:
        raise RoundsStopped(
            "the aggregator stopped because of an error that its log shows; mend it and start "
            "again: nothing that was acknowledged is lost."
        )
