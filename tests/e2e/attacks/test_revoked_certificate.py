"""A party that was revoked, with its certificate and key, at every door of a running federation."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from support.aggregator import contribution_of
from support.deployment import (
    PATIENCE_SECONDS,
    Deployment,
    code_at,
    code_of,
    deployed,
    described_methods,
    raw_channel,
    run,
    serving,
    wait_until,
)
from support.federation import FEDERATION, join
from support.processes import context_file

from fedhelp_keys.registrar.trust import revoke
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import ACCESS
from fedhelp_secure.transport.certificates import own_tls_files, utc_now
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub

REVOCABLE = [role for role in Role if role is not Role.REGISTRAR]
GET_CHARTER = "/fedhelp_secure.wire.v1.Coordinator/GetCharter"
SERVERS = (Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR, Role.BROKER)


@contextmanager
def rehearsing(directory: Path, servers: Iterable[Role]) -> Iterator[Deployment]:
    with deployed(
        directory,
        servers=servers,
        privacy={"mechanism": "rehearsal"},
        secure_sum={"values": 30_000},
        rounds={"deadline_seconds": 600},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with rehearsing(tmp_path_factory.mktemp("deployment"), SERVERS) as running:
        yield running


@pytest.fixture
def to_lose(tmp_path: Path) -> Iterator[Deployment]:
    """Another one, whose aggregator a test may revoke."""
    with rehearsing(tmp_path, (Role.DECRYPTOR, Role.UNMASKER, Role.AGGREGATOR)) as running:
        yield running


@pytest.fixture(scope="module")
def outcasts(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> dict[Role, StateDirectory]:
    """One party of every role, enrolled beside those that the charter names, and then revoked."""
    root = tmp_path_factory.mktemp("outcasts")
    states: dict[Role, StateDirectory] = {
        role: join(deployment.registrar, root, Identity(FEDERATION, role, "outcast"))
        for role in REVOCABLE
    }
    for state in states.values():
        assert code_at(deployment, state, GET_CHARTER) == ""
    for role, state in states.items():
        if role is not REVOCABLE[-1]:
            revoke(deployment.registrar, state.identity, reason="stolen laptop", now=utc_now())
    said = deployment.revoke("outcast", "--role", REVOCABLE[-1].value)
    assert f"{states[REVOCABLE[-1]].identity} is revoked" in said
    # Who was revoked last is refused by every server: so is everybody else.
    last = states[REVOCABLE[-1]]
    for method in {server: method for method, server in described_methods().items()}.values():
        wait_until(partial(_refused, deployment, last, method))
    return states


def _refused(deployment: Deployment, state: StateDirectory, method: str) -> bool:
    return code_at(deployment, state, method) == "revoked"


def test_every_rpc_of_the_contract_is_tried() -> None:
    assert {GET_CHARTER} < set(described_methods())
    joining = {method for method in ACCESS if "/fedhelp_secure.wire.v1.Joining/" in method}
    assert set(described_methods()) == set(ACCESS) - joining


@pytest.mark.parametrize("method", sorted(described_methods()))
def test_a_revoked_party_of_any_role_is_refused(
    deployment: Deployment, outcasts: dict[Role, StateDirectory], method: str
) -> None:
    for state in outcasts.values():
        assert code_at(deployment, state, method) == "revoked"
    # Who is not revoked meets another answer, if it is one.
    assert code_at(deployment, deployment.federation.state("large-1"), method) != "revoked"


def test_what_runs_is_ended_and_nothing_else(deployment: Deployment) -> None:
    federation, serves = deployment.federation, serving(Role.AGGREGATOR)
    address = deployment.addresses[Role.AGGREGATOR]
    request = wire.WatchRoundsRequest(
        charter_digest=federation.charter.digest, session=os.urandom(16)
    )
    stolen = own_tls_files(federation.state("small-2"))
    honest = own_tls_files(federation.state("small-1"))
    stop = threading.Event()
    contribution = contribution_of(federation, federation.charter, "small-2")

    def messages() -> Iterator[wire.ContributeRequest]:
        header = wire.ContributionHeader(
            charter_digest=federation.charter.digest,
            round=1,
            manifest=contribution.manifest,
            sealed_seeds=contribution.sealed_seeds,
        )
        yield wire.ContributeRequest(header=header)
        stop.wait(PATIENCE_SECONDS)

    with (
        raw_channel(stolen, address, serves) as attacker,
        raw_channel(honest, address, serves) as other,
    ):
        watch = CoordinatorStub(attacker).WatchRounds(request, timeout=PATIENCE_SECONDS)
        assert next(watch).round == 1
        kept = CoordinatorStub(other).WatchRounds(request)
        assert next(kept).round == 1
        upload = CoordinatorStub(attacker).Contribute.future(messages(), timeout=PATIENCE_SECONDS)
        # The aggregator's word that its turn has come: it is running.
        upload.initial_metadata()
        deployment.revoke("small-2")
        with pytest.raises(grpc.RpcError):
            list(watch)
        # Not DEADLINE_EXCEEDED: the aggregator ended them.
        assert watch.code() is grpc.StatusCode.CANCELLED
        assert upload.code() is grpc.StatusCode.CANCELLED
        stop.set()
        assert code_of(attacker, GET_CHARTER) == "revoked"
        assert kept.is_active()
        assert code_of(other, GET_CHARTER) == ""
        kept.cancel()
    assert "hospital small-2 was revoked" in deployment.log(Role.AGGREGATOR)


def test_a_revoked_party_is_not_enrolled_again(
    deployment: Deployment, outcasts: dict[Role, StateDirectory], tmp_path: Path
) -> None:
    old = outcasts[Role.HOSPITAL]
    registry = deployment.registrar.role_directory() / "registry.json"
    before = registry.read_bytes()
    # With the keys that it had, and with new ones.
    new = StateDirectory.create(tmp_path / "new", old.identity)
    for state in (old, new):
        request = tmp_path / "request.json"
        request.write_bytes(make_request(state))
        bundle = tmp_path / "bundle.json"
        done = run(
            *("keys", "enrol", str(request), "--state", str(deployment.registrar.root)),
            *("--group", "small", "--out", str(bundle)),
        )
        assert done.returncode == 1
        assert "hospital outcast was revoked" in done.stderr
        assert not bundle.exists()
        assert registry.read_bytes() == before


def test_a_revoked_server_is_left_by_who_calls_it(to_lose: Deployment) -> None:
    deployment = to_lose
    hospital = deployment.federation.state("large-1")
    node = deployment.group.start(
        "rehearsing-hospital",
        *("client", "rehearse", "--state", str(hospital.root)),
        *("--context", str(context_file(deployment.federation))),
        *("--aggregator", f"aggregator@{deployment.addresses[Role.AGGREGATOR]}"),
        *("--registrar", deployment.addresses[Role.REGISTRAR]),
    )
    watched = own_tls_files(deployment.federation.state("small-1"))
    request = wire.WatchRoundsRequest(
        charter_digest=deployment.federation.charter.digest, session=os.urandom(16)
    )
    with raw_channel(
        watched, deployment.addresses[Role.AGGREGATOR], serving(Role.AGGREGATOR)
    ) as channel:
        stream = CoordinatorStub(channel).WatchRounds(request, timeout=PATIENCE_SECONDS)
        assert any(event.contributions == 1 for event in stream)
        stream.cancel()
    assert node.process.poll() is None, node.log.read_text()
    deployment.revoke("aggregator")
    assert node.process.wait(timeout=PATIENCE_SECONDS) == 1
    assert "aggregator aggregator was revoked" in node.log.read_text()
