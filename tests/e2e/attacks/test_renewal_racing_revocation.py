"""Hundreds of renewals while the revocation comes: none of the certificates is of any use after."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from support.deployment import (
    PATIENCE_SECONDS,
    Deployment,
    code_of,
    deployed,
    raw_channel,
    serving,
    wait_until,
)

from fedhelp_secure.transport.catalogue import CODE_KEY
from fedhelp_secure.transport.certificates import (
    TlsFiles,
    generate_tls_key,
    make_request,
    own_tls_files,
)
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.wire.v1.enrolment_pb2 import RenewRequest
from fedhelp_secure.wire.v1.enrolment_pb2_grpc import EnrolmentStub

THREADS = 12
ENOUGH = 150
"""Certificates, before the registrar's operator begins to revoke; more come while that takes."""

UNMASK = "/fedhelp_secure.wire.v1.Unmasker/UnmaskSum"
GET_TRUST_LIST = "/fedhelp_secure.wire.v1.Enrolment/GetTrustList"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment"), servers=[Role.UNMASKER]) as running:
        yield running


@dataclass
class Loot:
    """What the racing threads got."""

    certificates: list[tuple[float, TlsFiles]] = field(default_factory=list)
    """With the time at which the call began."""
    codes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _race(deployment: Deployment, loot: Loot, deadline: float) -> None:
    """Renew with a new key each time, until that is refused for good."""
    state = deployment.federation.state("small-2")
    files = own_tls_files(state)
    registrar = deployment.addresses[Role.REGISTRAR]
    with raw_channel(files, registrar, serving(Role.REGISTRAR)) as channel:
        stub = EnrolmentStub(channel)
        while time.monotonic() < deadline:
            key = generate_tls_key()
            request = RenewRequest(certificate_request=make_request(state.identity, key))
            began = time.monotonic()
            try:
                certificate = stub.Renew(request, timeout=PATIENCE_SECONDS).certificate
            except grpc.RpcError as error:
                code = _code_in(error)
                with loot.lock:
                    loot.codes.append(code)
                if code == "revoked":
                    return
                # Ended as it ran, or more calls than a server takes from one: again.
                time.sleep(0.05)
                continue
            with loot.lock:
                loot.certificates.append((began, TlsFiles(key, certificate, files.authorities)))


def test_no_certificate_of_a_race_is_admitted_anywhere(deployment: Deployment) -> None:
    loot = Loot()
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    with ThreadPoolExecutor(THREADS) as pool:
        racing = [pool.submit(_race, deployment, loot, deadline) for _ in range(THREADS)]
        wait_until(lambda: len(loot.certificates) >= ENOUGH)
        before = loot.certificates[-1][1]
        assert _code(deployment, Role.UNMASKER, UNMASK, before) == "access"
        deployment.revoke("small-2")
        revoked = time.monotonic()
        for done in racing:
            done.result()
    assert loot.codes.count("revoked") == THREADS
    assert len(loot.certificates) > ENOUGH
    # From the moment at which the command has ended the registrar issues none.
    assert max(began for began, _ in loot.certificates) < revoked
    newest = loot.certificates[-1][1]
    wait_until(lambda: _code(deployment, Role.UNMASKER, UNMASK, newest) == "revoked")
    with ThreadPoolExecutor(4) as pool:
        for role, method in ((Role.UNMASKER, UNMASK), (Role.REGISTRAR, GET_TRUST_LIST)):
            tried = [
                pool.submit(_code_in_time, deployment, role, method, files)
                for _, files in loot.certificates
            ]
            assert {each.result() for each in tried} == {"revoked"}


def _code_in_time(deployment: Deployment, role: Role, method: str, files: TlsFiles) -> str:
    """As `_code`, when the server has time for this party: so many calls are too many at once."""
    while (code := _code(deployment, role, method, files)) == "rate-limited":
        time.sleep(0.2)
    return code


def _code_in(error: grpc.RpcError) -> str:
    if not isinstance(error, grpc.Call):
        return ""
    found = [str(value) for key, value in error.trailing_metadata() or () if key == CODE_KEY]
    return found[0] if found else ""


def _code(deployment: Deployment, role: Role, method: str, files: TlsFiles) -> str:
    with raw_channel(files, deployment.addresses[role], serving(role)) as channel:
        return code_of(channel, method)
