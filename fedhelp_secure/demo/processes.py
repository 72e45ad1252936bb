"""The demo's processes: started in order, watched, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from fedhelp_secure.errors import InternalError
from fedhelp_secure.keystore import passphrase

_READY_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0


class ProcessFailed(InternalError):
    """A process of the demo ended with an error or never became ready."""

    code = "demo-process"


@dataclass(frozen=True, slots=True)
class Running:
    """One started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises ProcessFailed if the process has ended with an error."""
        status = self.process.poll()
        if status not in (None, 0):
            raise ProcessFailed(
                f"{self.name} ended with status {status}; "
                f"its log is {self.log}{_last_line(self.log)}"
            )


class ProcessGroup:
    """Processes that live no longer than the ``with`` block they are started in."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Running] = []
        self._restored = contextlib.ExitStack()

    def __enter__(self) -> ProcessGroup:
        # Who is told to stop must still end what was started.
        if threading.current_thread() is threading.main_thread():
            self._restored.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._restored.close()

    def start(self, name: str, *arguments: str) -> Running:
        """Start ``fedhelp ARGUMENTS``; its output goes to ``<directory>/logs/<name>.log``."""
        log = self._directory / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            _interrupted_afterwards(),
            log.open("ab") as output,
            passphrase.handed_on() as (options, descriptors),
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "fedhelp_secure", *options, *arguments],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C reaches the demo alone, which ends the rest in order.
                start_new_session=True,
                env=_environment(),
            )
            running = Running(name, process, log)
            self._running.append(running)
        return running

    def serve(self, name: str, *arguments: str, seconds: float = 90.0) -> tuple[Running, str]:
        """Start a server with ``--ready-file``; returns it and its ``host:port``, listening."""
        ready = self._directory / "ready" / name
        ready.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        ready.unlink(missing_ok=True)
        running = self.start(name, *arguments, "--ready-file", str(ready))
        return running, wait_for_ready(running, ready, seconds=seconds)

    def run(self, name: str, *arguments: str) -> None:
        """Run ``fedhelp ARGUMENTS`` to its end; raises ProcessFailed unless it succeeds."""
        self.finish(self.start(name, *arguments))

    def finish(self, running: Running) -> None:
        """Wait for the end of ``running``; raises ProcessFailed unless it succeeds."""
        running.process.wait()
        running.check()

    def check(self) -> None:
        """Raises ProcessFailed if any process has ended with an error."""
        for running in self._running:
            running.check()

    def stop(self) -> None:
        """End every process that is still there, politely first, and wait for it."""
        for running in reversed(self._running):
            _signal(running.process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for running in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            # What is left of its session (a worker that outlived its parent) goes too.
            _signal(running.process, signal.SIGKILL)
            running.process.wait()
        self._running.clear()


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_ready(running: Running, ready: Path, *, seconds: float) -> str:
    """The address in the ``ready`` file once it is there; raises ProcessFailed otherwise."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready.exists() and (text := ready.read_text().strip()):
            return text
        running.check()
        if running.process.poll() is not None:
            break
        time.sleep(_READY_POLL_SECONDS)
    raise ProcessFailed(f"{running.name} did not become ready; its log is {running.log}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """An interrupt within the block comes at its end: no process is started and not known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    # Handlers are not inherited by what is started; a blocked signal would be.
    held = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The whole session: start_new_session made the process the leader of a group of its own id.
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _environment() -> dict[str, str]:
    """The caller's environment with one computing thread a process: two cores, many processes."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # gRPC's own chatter (fork notices, absl start-up lines) would drown the parties' logs.
    return {**os.environ, **threads, "GRPC_VERBOSITY": "ERROR"}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
