"""Whoever keeps the registrar from a party does not keep a revoked party in: it admits nobody."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator

import grpc
import pytest
from support.deployment import (
    PATIENCE_SECONDS,
    Deployment,
    code_at,
    deployed,
    raw_channel,
    serving,
    succeed,
    wait_until,
)
from support.trust_lists import issued, lying_registrar, signed

from fedhelp_secure.demo.processes import free_port
from fedhelp_secure.transport.certificates import own_tls_files, utc_now
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Role
from fedhelp_secure.trust.store import TrustListOutdated, TrustStore
from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_secure.wire.v1.coordinator_pb2_grpc import CoordinatorStub

GET_CHARTER = "/fedhelp_secure.wire.v1.Coordinator/GetCharter"
UNAVAILABLE = "unavailable"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An aggregator that polls an address at which nobody answers yet."""
    with deployed(tmp_path_factory.mktemp("deployment"), servers=[]) as running:
        running.addresses[Role.REGISTRAR] = f"127.0.0.1:{free_port()}"
        running.serve_aggregator()
        yield running


def expiring(deployment: Deployment, sequence: int, seconds: int) -> bytes:
    """A list of which so many ``seconds`` are left."""
    trusted = TrustStore(deployment.registrar).current()
    left = datetime.timedelta(seconds=trusted.maximum_age_seconds - seconds)
    return signed(deployment.registrar, sequence=sequence, **issued(utc_now() - left))


def take(deployment: Deployment, envelope: bytes) -> None:
    """As an operator does who has no connection to the registrar."""
    file = deployment.directory / "list.json"
    file.write_bytes(envelope)
    state = deployment.federation.state(Role.AGGREGATOR)
    succeed("enrol", "trust", str(file), "--state", str(state.root))


def code(deployment: Deployment) -> str:
    return code_at(deployment, deployment.federation.state("large-1"), GET_CHARTER)


def test_nobody_is_admitted_on_an_old_list_and_everybody_again_on_a_new_one(
    deployment: Deployment,
) -> None:
    federation, files = deployment.federation, own_tls_files(deployment.federation.state("small-1"))
    address, aggregator = deployment.addresses[Role.AGGREGATOR], serving(Role.AGGREGATOR)
    request = wire.WatchRoundsRequest(
        charter_digest=federation.charter.digest, session=os.urandom(16)
    )
    assert code(deployment) == ""
    with raw_channel(files, address, aggregator) as channel:
        watch = CoordinatorStub(channel).WatchRounds(request, timeout=PATIENCE_SECONDS)
        assert next(watch).round == 1
        take(deployment, expiring(deployment, sequence=2, seconds=4))
        with pytest.raises(grpc.RpcError):
            list(watch)
        assert watch.code() is grpc.StatusCode.CANCELLED
    assert code(deployment) == UNAVAILABLE
    _check_told_in_general_and_logged_exactly(deployment)
    # From a file, while it runs.
    take(deployment, signed(deployment.registrar, sequence=3, **issued(utc_now())))
    wait_until(lambda: code(deployment) == "")
    # And by itself, as soon as the registrar answers.
    take(deployment, expiring(deployment, sequence=4, seconds=0))
    wait_until(lambda: code(deployment) == UNAVAILABLE)
    listen = deployment.addresses[Role.REGISTRAR]
    with lying_registrar(deployment.registrar, listen=listen) as registrar:
        registrar.answer = signed(deployment.registrar, sequence=5, **issued(utc_now()))
        wait_until(lambda: code(deployment) == "")


def _check_told_in_general_and_logged_exactly(deployment: Deployment) -> None:
    state = deployment.federation.state("small-2")
    address = deployment.addresses[Role.AGGREGATOR]
    with (
        open_channel(state, address, expected=serving(Role.AGGREGATOR)) as channel,
        pytest.raises(Exception, match="admits nobody at the moment; try again later") as told,
        translated_errors(),
    ):
        CoordinatorStub(channel).GetCharter(wire.GetCharterRequest(), timeout=PATIENCE_SECONDS)
    assert "trust list" not in str(told.value)
    exact = "nobody is admitted any more: this party's trust list is out of date"
    wait_until(lambda: exact in deployment.log(Role.AGGREGATOR))


def test_a_party_with_an_old_list_calls_nobody(deployment: Deployment) -> None:
    hospital, aggregator = deployment.federation.state("large-1"), serving(Role.AGGREGATOR)
    address = deployment.addresses[Role.AGGREGATOR]
    request = wire.WatchRoundsRequest(
        charter_digest=deployment.federation.charter.digest, session=os.urandom(16)
    )
    with open_channel(hospital, address, expected=aggregator) as channel:
        stub = CoordinatorStub(channel)
        watch = stub.WatchRounds(request, timeout=PATIENCE_SECONDS)
        assert next(watch).round == 1
        TrustStore(hospital).install(expiring(deployment, sequence=2, seconds=2), now=utc_now())
        with pytest.raises(grpc.RpcError) as ended:
            list(watch)
        assert isinstance(ended.value, grpc.Call)
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(TrustListOutdated):
            stub.GetCharter(wire.GetCharterRequest(), timeout=PATIENCE_SECONDS)
        with pytest.raises(TrustListOutdated):
            open_channel(hospital, address, expected=aggregator)
        fresh = signed(deployment.registrar, sequence=3, **issued(utc_now()))
        TrustStore(hospital).install(fresh, now=utc_now())
        # The same channel, without anybody's doing.
        assert stub.GetCharter(wire.GetCharterRequest(), timeout=PATIENCE_SECONDS).envelope
