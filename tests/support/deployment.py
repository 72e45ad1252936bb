"""A federation as it is deployed: a registrar, and servers that poll it, each a process."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from support.broker import make_public_set
from support.federation import FEDERATION, Federation, make_federation

import fedhelp_secure.wire.v1
from fedhelp_secure.demo.processes import ProcessGroup, Running
from fedhelp_secure.public_set import proxy_digest
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.catalogue import CODE_KEY
from fedhelp_secure.transport.certificates import TlsFiles, own_tls_files, server_name
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.foundation_model.certificate import make_certificate

PATIENCE_SECONDS = 30.0
"""For what must happen within 10 seconds: this machine may be busy."""

PACKAGE = "fedhelp_secure.wire.v1"
SERVED_BY = {
    "Coordinator": Role.AGGREGATOR,
    "Evidence": Role.AGGREGATOR,
    "Decryptor": Role.DECRYPTOR,
    "Unmasker": Role.UNMASKER,
    "Broker": Role.BROKER,
    "Enrolment": Role.REGISTRAR,
}
"""Every service that is served to callers with certificates."""

LISTEN = ("--listen", "127.0.0.1:0")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A federation and its running processes."""

    directory: Path
    federation: Federation
    group: ProcessGroup
    addresses: dict[Role, str]
    running: dict[Role, Running]

    @property
    def registrar(self) -> StateDirectory:
        return self.federation.state(Role.REGISTRAR)

    def serve(self, role: Role, *arguments: str, polls: bool = True) -> None:
        """Start ``role``'s process with ``fedhelp ARGUMENTS``."""
        command = [*arguments, "--state", str(self.federation.state(role).root), *LISTEN]
        if polls:
            command += ["--registrar", self.addresses[Role.REGISTRAR]]
        self.running[role], self.addresses[role] = self.group.serve(role.value, *command)

    def serve_aggregator(self) -> None:
        custodians = self.federation.charter.custodians.unmaskers
        nobody = "127.0.0.1:1"
        self.serve(
            Role.AGGREGATOR,
            *("server", "run", "--charter", str(self.federation.charter_file())),
            *("--decryptor", self.addresses.get(Role.DECRYPTOR, nobody)),
            *("--unmasker", self.addresses.get(Role.UNMASKER, nobody)) * len(custodians),
        )

    def revoke(self, name: str, *options: str) -> str:
        """As the registrar's operator does it; what the command says."""
        return succeed(
            *("keys", "revoke", name, *options, "--reason", "stolen laptop"),
            *("--state", str(self.registrar.root)),
        )

    def log(self, role: Role) -> str:
        return self.running[role].log.read_text()


@contextmanager
def deployed(
    directory: Path, *, servers: Iterable[Role], **charter: object
) -> Iterator[Deployment]:
    """A registrar and ``servers`` of a new federation until the block ends."""
    public_set = make_public_set()
    public_set_file = directory / "public-set.npz"
    public_set.save(public_set_file)
    count, height, width = public_set.images.shape
    proxy = {
        "digest": proxy_digest(public_set.images),
        "count": count,
        "height": height,
        "width": width,
        "public_set_digest": public_set.digest,
    }
    overrides: dict[str, Any] = {"proxy": proxy, **charter}
    federation = make_federation(directory / "parties", large=1, small=2, **overrides)
    wanted = set(servers)
    with ProcessGroup(directory) as group:
        deployment = Deployment(directory, federation, group, {}, {})
        deployment.serve(Role.REGISTRAR, "keys", "serve", polls=False)
        for role in (Role.DECRYPTOR, Role.UNMASKER):
            if role in wanted:
                deployment.serve(role, "custodian", "serve")
        if Role.AGGREGATOR in wanted:
            deployment.serve_aggregator()
        if Role.BROKER in wanted:
            certificate, _ = make_certificate(directory / "foundation-model")
            deployment.serve(
                Role.BROKER,
                *("broker", "run", "--charter", str(federation.charter_file())),
                *("--public-set", str(public_set_file), "--ca", str(certificate)),
            )
        yield deployment


@contextmanager
def raw_channel(files: TlsFiles, address: str, serving: Identity) -> Iterator[grpc.Channel]:
    """A channel without any check of our own client: what an attacker's client would be."""
    credentials = grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)
    options = [("grpc.ssl_target_name_override", server_name(serving))]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        yield channel


def serving(role: Role) -> Identity:
    """The one party of ``role`` that serves."""
    return Identity(FEDERATION, role, role.value)


def described_methods() -> dict[str, Role]:
    """Every RPC in the descriptors that a party with a certificate can reach, and who serves it."""
    methods = {}
    for module in pkgutil.iter_modules(fedhelp_secure.wire.v1.__path__):
        if not module.name.endswith("_pb2"):
            continue
        descriptor = importlib.import_module(f"{PACKAGE}.{module.name}").DESCRIPTOR
        for service in descriptor.services_by_name.values():
            if service.name != "Joining":
                for method in service.methods:
                    methods[f"/{service.full_name}/{method.name}"] = SERVED_BY[service.name]
    return methods


def code_of(channel: grpc.Channel, method: str, request: bytes = b"") -> str:
    """Call ``method`` with one message; the code it is refused with, or an empty text.

    On the wire one message is the same for all four kinds of method.
    """
    call = channel.stream_stream(method, lambda data: data, lambda data: data)
    try:
        for _ in call(iter([request]), timeout=PATIENCE_SECONDS):
            return ""
    except grpc.RpcError as error:
        if not isinstance(error, grpc.Call):
            raise
        codes = [str(value) for key, value in error.trailing_metadata() or () if key == CODE_KEY]
        return codes[0] if codes else error.code().name
    return ""


def code_at(deployment: Deployment, files: TlsFiles | StateDirectory, method: str) -> str:
    """`code_of` ``method`` at the process that serves it, with the certificate in ``files``."""
    if isinstance(files, StateDirectory):
        files = own_tls_files(files)
    role = described_methods()[method]
    with raw_channel(files, deployment.addresses[role], serving(role)) as channel:
        return code_of(channel, method)


def wait_until(condition: Callable[[], object]) -> None:
    """Returns when ``condition()`` holds; fails after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def succeed(*arguments: str) -> str:
    """Run ``fedhelp ARGUMENTS``, which must succeed; what it prints."""
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``fedhelp ARGUMENTS`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
