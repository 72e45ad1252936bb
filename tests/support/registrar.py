"""A registrar as a real process, and parties that join it by command."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.certificates import authorities_pem

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.invitations import Invitations
from fedhelp_keys.registrar.policy import RegistrarPolicy
from fedhelp_secure.charter import Group
from fedhelp_secure.demo.processes import ProcessGroup, Running
from fedhelp_secure.enrolment.joining import fingerprint
from fedhelp_secure.enrolment.token import JoinToken
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import load_certificate, utc_now
from fedhelp_secure.transport.identity import Identity, Role

FEDERATION = "testfed"
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ServedRegistrar:
    """``fedhelp keys serve`` and where it listens."""

    state: StateDirectory
    address: str
    join_address: str
    running: Running
    group: ProcessGroup

    @property
    def fingerprint(self) -> str:
        """Of its root."""
        return fingerprint(load_certificate(authorities_pem(self.state)))

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.running.log.read_text()

    def invite(self, name: str, role: Role = Role.HOSPITAL) -> JoinToken:
        """The token of a new invitation: a small hospital's, or of another ``role``."""
        identity = Identity(FEDERATION, role, name)
        group: Group | None = "small" if role is Role.HOSPITAL else None
        return Invitations(self.state).invite(identity, group, now=utc_now(), valid=_DAY)

    def enrol(
        self, token: str, state: Path, *, group: str = "client", address: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``fedhelp GROUP enrol`` with ``token``, here or at another ``address``."""
        return fedhelp(
            *(group, "enrol", "--token", token, "--ca-fingerprint", self.fingerprint),
            *("--registrar", address or self.join_address, "--state", str(state)),
        )

    def standing(self, name: str) -> list[str]:
        """What became of the invitations of ``name``, in order."""
        everything = Invitations(self.state).all()
        return [entry.standing(utc_now()) for entry in everything if entry.name == name]


def fedhelp(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """``fedhelp ARGUMENTS`` to its end, with ``text`` as its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextmanager
def running_registrar(
    directory: Path, *, certificate_seconds: int | None = None
) -> Iterator[ServedRegistrar]:
    """A new federation's registrar, serving both its ports until the block ends."""
    policy = RegistrarPolicy()
    if certificate_seconds is not None:
        policy = RegistrarPolicy(certificate_seconds=certificate_seconds)
    state = found_federation(directory / "registrar", FEDERATION, now=utc_now(), policy=policy)
    with serving_registrar(state, directory) as served:
        yield served


@contextmanager
def serving_registrar(state: StateDirectory, directory: Path) -> Iterator[ServedRegistrar]:
    """The registrar of ``state``, serving both its ports until the block ends."""
    ready = directory / "join-ready"
    with ProcessGroup(directory) as group:
        running, address = group.serve(
            "registrar",
            *("keys", "serve", "--state", str(state.root), "--listen", "127.0.0.1:0"),
            *("--join-listen", "127.0.0.1:0", "--join-ready-file", str(ready)),
        )
        yield ServedRegistrar(state, address, ready.read_text().strip(), running, group)
