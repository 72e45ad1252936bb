"""A real syslog server for tests: rsyslog from Debian, as installed or as `make dev` fetched it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PLACES = (Path("/"), Path(sys.prefix) / "share" / "rsyslog")
_SECONDS = 60.0

_CONFIGURATION = """
global(
    workDirectory="{directory}" maxMessageSize="8k"
    defaultNetstreamDriver="{driver}" defaultNetstreamDriverCAFile="{directory}/ca.pem"
    defaultNetstreamDriverCertFile="{directory}/server.pem"
    defaultNetstreamDriverKeyFile="{directory}/server.key"
)
module(
    load="imtcp"
    streamDriver.name="{driver}" streamDriver.mode="1" streamDriver.authMode="{mode}"
)
module(load="mmpstrucdata")
template(name="whole" type="string" string="%jsonmesg%\\n")
input(type="imtcp" address="127.0.0.1" port="0" listenPortFileName="{directory}/port")
action(type="mmpstrucdata")
action(type="omfile" file="{directory}/received" template="whole")
"""


@dataclass(frozen=True, slots=True)
class Program:
    """The server's program, its plug-ins and its libraries."""

    executable: Path
    modules: Path


@dataclass(frozen=True, slots=True)
class SyslogServer:
    """One that runs, with everything under one directory."""

    directory: Path
    port: int

    def received(self, count: int) -> list[dict[str, Any]]:
        """What it wrote, once there are ``count`` messages; its threads take a moment."""
        deadline = time.monotonic() + _SECONDS
        while len(found := self._written()) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def _written(self) -> list[dict[str, Any]]:
        path = self.directory / "received"
        if not path.exists():
            return []
        whole, _, _ = path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


def find() -> Program | None:
    """rsyslog with its OpenSSL and GnuTLS drivers, or None."""
    for place in _PLACES:
        drivers = sorted(place.glob("usr/lib/*/rsyslog/lmnsd_gtls.so"))
        executable = place / "usr/sbin/rsyslogd"
        if drivers and executable.exists():
            return Program(executable, drivers[0].parent)
    return None


@contextmanager
def running(
    program: Program, directory: Path, *, driver: str = "ossl", mode: str = "anon"
) -> Iterator[SyslogServer]:
    """A server that parses structured data, on loopback; ``ca.pem``, ``server.pem`` and
    ``server.key`` must be in ``directory``. ``mode`` "x509/certvalid" asks clients for theirs."""
    written = directory / "port"
    written.unlink(missing_ok=True)
    configuration = directory / "rsyslog.conf"
    configuration.write_text(_CONFIGURATION.format(directory=directory, mode=mode, driver=driver))
    arguments = ["-n", "-f", str(configuration), "-i", str(directory / "pid")]
    with (
        (directory / "messages").open("wb") as messages,
        subprocess.Popen(
            [program.executable, *arguments, "-M", program.modules],
            env={**os.environ, "LD_LIBRARY_PATH": str(program.modules.parent)},
            stdout=messages,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield SyslogServer(directory, _port(process, directory))
        finally:
            process.terminate()


def _port(process: subprocess.Popen[bytes], directory: Path) -> int:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, (directory / "messages").read_text()
        path = directory / "port"
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError((directory / "messages").read_text())
