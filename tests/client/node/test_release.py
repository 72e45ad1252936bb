"""The node's rounds against the real aggregator and custodians: order, crashes, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers
from support.relay import running_relay
from support.site import run_together, site_of
from support.sums import chunks, public_context

from fedhelp_client.node import release
from fedhelp_secure.policy import SitePolicy
from fedhelp_secure.privacy.events import RehearsalOnly
from fedhelp_secure.privacy.ledger import BudgetExhausted
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.secure_sum.authenticator import SumForged
from fedhelp_secure.secure_sum.residues import weighted_sum


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(
        tmp_path / "parties",
        large=1,
        small=2,
        unmaskers=2,
        rounds={"count": 2, "deadline_seconds": 6},
    )


@pytest.fixture
def servers(federation: Federation, tmp_path: Path) -> Iterator[Servers]:
    with running_servers(federation, tmp_path / "run") as servers:
        yield servers


def _names(federation: Federation) -> list[str]:
    return [hospital.name for hospital in federation.charter.hospitals]


def test_every_hospital_ends_with_the_same_model_and_an_account(
    federation: Federation, servers: Servers
) -> None:
    address = servers.addresses["aggregator"]
    sites = [site_of(federation, name, address) for name in _names(federation)]
    models = run_together(sites)
    assert np.isfinite(models[0]).all()
    assert models[0].any()
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    for site in sites:
        # Reserved, sent and opened, for each of two rounds.
        assert len(site.ledger.account().entries) == 6
        assert {"receipts/1.bin", "receipts/2.bin"} <= set(site.stored())
        assert not (site.state.role_directory() / "answers").exists()


def test_a_restarted_node_sends_the_stored_bytes_and_spends_nothing(
    federation: Federation, servers: Servers
) -> None:
    address, names = servers.addresses["aggregator"], _names(federation)
    run_together([site_of(federation, name, address) for name in names])
    again = site_of(federation, names[0], address)
    stored, entries = again.stored(), len(again.ledger.account().entries)
    again.run()
    assert again.stored() == stored
    assert len(again.ledger.account().entries) == entries


def test_a_node_that_lost_its_contribution_after_the_debit_sits_the_round_out(
    federation: Federation, servers: Servers
) -> None:
    address = servers.addresses["aggregator"]
    sites = [site_of(federation, name, address) for name in _names(federation)]
    # As a crash leaves it: debited, and nothing stored.
    sites[-1].ledger.reserve(federation.charter, 1)
    models = run_together(sites)
    np.testing.assert_array_equal(models[0], models[1])
    stored = sites[-1].stored()
    assert "round-1/ciphertext" not in stored
    assert "round-2/ciphertext" in stored
    spent = sites[-1].ledger.spent(federation.charter)
    assert spent == sites[1].ledger.spent(federation.charter)


def test_a_spent_budget_stops_the_node_before_anything_leaves(
    federation: Federation, tmp_path: Path
) -> None:
    name = _names(federation)[0]
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = site_of(federation, name, address, SitePolicy(lifetime_epsilon="1"))
        with pytest.raises(BudgetExhausted):
            site.run()
    assert not relay.received
    assert site.stored() == {}
    assert not site.ledger.account().entries


def test_patients_are_never_released_under_a_rehearsal(tmp_path: Path) -> None:
    federation = make_federation(
        tmp_path / "parties", large=1, small=1, privacy={"mechanism": "rehearsal"}
    )
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        site = site_of(federation, "small-1", address)
        with pytest.raises(RehearsalOnly, match="fedhelp client rehearse"):
            site.run()
    assert not relay.received
    assert site.stored() == {}
    assert not site.ledger.account().entries


CRASH = """
import os, signal, sys
from pathlib import Path
from support.site import Site
from fedhelp_client.node import coordinator, files, release
from fedhelp_secure.charter import open_charter
from fedhelp_secure.secure_sum.ckks import PublicContext
from fedhelp_secure.state import StateDirectory

state_root, charter, context, address, where, attribute, calls = sys.argv[1:]
state = StateDirectory.open(Path(state_root))
charter = open_charter(Path(charter).read_bytes(), state.governance_key())
site = Site(state, charter, Path(context), address)
owner = {"release": release, "files": files, "coordinator": coordinator.Coordinator,
         "context": PublicContext, "path": Path}[where]
real, left = getattr(owner, attribute), [int(calls)]

def then_killed(*arguments, **options):
    result = real(*arguments, **options)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, attribute, then_killed)
site.run()
"""
"""A node that the operating system kills right after the given call of the given function."""


def _crash(federation: Federation, name: str, address: str, *point: str) -> None:
    crashed = subprocess.run(
        [
            *(sys.executable, "-c", CRASH, str(federation.state(name).root)),
            *(str(federation.charter_file()), str(context_file(federation)), address, *point),
        ],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every noise share that is drawn in this process."""
    drawn: list[int] = []

    def counted(values: int, scale_units: int) -> NDArray[np.int64]:
        drawn.append(values)
        return draw_share(values, scale_units)

    monkeypatch.setattr(release, "draw_share", counted)
    return drawn


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(("release", "draw_share", "1"), id="noise drawn"),
        pytest.param(("context", "encrypt_frame", "1"), id="half encrypted"),
        pytest.param(("release", "make_contribution", "1"), id="encrypted"),
        pytest.param(("files", "write_atomically", "1"), id="manifest stored"),
        pytest.param(("files", "write_atomically", "2"), id="seeds stored"),
    ],
)
def test_a_node_killed_before_its_contribution_was_complete_sits_the_round_out(
    federation: Federation, tmp_path: Path, draws: list[int], point: tuple[str, str, str]
) -> None:
    names = _names(federation)
    with running_relay(federation, tmp_path / "relay", expected=set(names[:2])) as (relay, address):
        _crash(federation, names[2], address, *point)
        killed = site_of(federation, names[2], address)
        assert "round-1/ciphertext" not in killed.stored()
        run_together([*(site_of(federation, name, address) for name in names[:2]), killed])
    # Three hospitals, two rounds, and the one share that the killed process drew.
    assert len(draws) == 5
    assert names[2] not in relay.received[1]
    assert names[2] in relay.received[2]
    assert not [name for name in killed.stored() if ".tmp" in name]
    # Debited all the same: one round reserved and aborted, one reserved, sent and opened.
    statuses = [entry.record.status for entry in killed.ledger.account().entries]
    assert statuses == ["reserved", "aborted", "reserved", "sent", "opened"]


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(("path", "rename", "1"), id="completed"),
        pytest.param(("coordinator", "contribute", "1"), id="sent"),
    ],
)
def test_a_node_killed_with_its_contribution_complete_sends_the_same_bytes(
    federation: Federation, tmp_path: Path, draws: list[int], point: tuple[str, str, str]
) -> None:
    names = _names(federation)
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        _crash(federation, names[2], address, *point)
        killed = site_of(federation, names[2], address)
        before = killed.stored()
        models = run_together([*(site_of(federation, name, address) for name in names[:2]), killed])
    assert len(draws) == 5
    assert {name: killed.stored()[name] for name in before} == before
    assert len(set(relay.received[1][names[2]])) == 1
    np.testing.assert_array_equal(models[0], models[2])


def test_a_lost_connection_sends_and_fetches_the_same_again(
    federation: Federation, tmp_path: Path, draws: list[int]
) -> None:
    names = _names(federation)
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        relay.lost_calls = 2
        models = run_together([site_of(federation, name, address) for name in names])
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    assert len(draws) == 6
    assert sum(len(sent) for sent in relay.received[1].values()) == 5
    assert all(len(set(sent)) == 1 for sent in relay.received[1].values())
    assert len(relay.fetches) == 8


def test_a_forged_sum_ends_the_run_of_every_hospital(
    federation: Federation, tmp_path: Path
) -> None:
    charter, names = federation.charter, _names(federation)

    def plus_one(total: bytes) -> bytes:
        """The aggregator's own encryption of 1 in the first element, added to the sum."""
        elements = np.zeros(charter.secure_sum.elements, dtype=np.uint64)
        elements[0] = 1
        one = public_context(federation).encrypt_frame(elements)
        return b"".join(
            weighted_sum(
                [(1, chunks(total, charter)), (1, chunks(one, charter))], charter.secure_sum
            )
        )

    with running_relay(federation, tmp_path / "relay") as (relay, address):
        relay.alter_sum = plus_one
        sites = [site_of(federation, name, address) for name in names]
        with ThreadPoolExecutor(len(sites)) as pool:
            for running in [pool.submit(site.run) for site in sites]:
                with pytest.raises(SumForged, match="Do not use it"):
                    running.result()
    # Asked for once each: fetching a forged sum again is no cure.
    assert sorted(relay.fetches) == names
    assert not relay.received.get(2)
    for site in sites:
        # Reserved and sent; nothing was opened.
        assert len(site.ledger.account().entries) == 2
        assert not (site.state.role_directory() / "answers").exists()
