"""A node releases within its site's hours and at no other time; a missed round costs nothing."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.federation import Federation, make_federation
from support.relay import running_relay
from support.site import Site, run_together, site_of

from fedhelp_client.node.gate import HoursGate
from fedhelp_secure.hours import ReleaseHours

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
HOURS = ReleaseHours(days=("mon",), begin="20:00", end="22:00", time_zone="UTC")
LATE = "small-2"


class Clock:
    """Stands, and moves by the pauses; ``held`` keeps a pause until it is set."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.pauses: list[float] = []
        self.waiting = threading.Event()
        self.held = threading.Event()
        self.held.set()

    def __call__(self) -> datetime:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.waiting.set()
        assert self.held.wait(60)
        self.now += timedelta(seconds=seconds)


def gate(clock: Clock) -> HoursGate:
    return HoursGate(HOURS, clock, clock.pause)


def test_the_gate_waits_until_the_hours_and_says_so_once() -> None:
    clock, said = Clock(MONDAY + timedelta(hours=19, minutes=58)), list[str]()
    assert gate(clock).wait(said.append)
    assert clock.now == MONDAY + timedelta(hours=20)
    assert max(clock.pauses) <= 30
    assert said == [
        "outside this site's hours, mon 20:00 to 22:00 (UTC): waiting to release",
    ]


def test_within_the_hours_or_without_any_it_does_not_wait() -> None:
    clock = Clock(MONDAY + timedelta(hours=21))
    assert not gate(clock).wait(pytest.fail)
    assert not HoursGate().wait(pytest.fail)
    assert clock.pauses == []


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "parties", large=1, small=2, rounds={"count": 2})


def _late_site(federation: Federation, address: str, clock: Clock) -> Site:
    site = site_of(federation, LATE, address)
    object.__setattr__(site.releaser, "gate", gate(clock))
    return site


def test_nothing_is_debited_or_sent_outside_the_hours(
    federation: Federation, tmp_path: Path
) -> None:
    clock = Clock(MONDAY + timedelta(hours=19, minutes=59, seconds=45))
    clock.held.clear()
    names = [hospital.name for hospital in federation.charter.hospitals]
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        late = _late_site(federation, address, clock)
        sites = [late, *(site_of(federation, name, address) for name in names if name != LATE)]
        watcher = threading.Thread(target=_release_when_seen, args=(relay, late, clock))
        watcher.start()
        models = run_together(sites)
        watcher.join()
        assert all(np.array_equal(models[0], model) for model in models)
        assert LATE in relay.received[1]
    assert clock.pauses == [15.0]


def _release_when_seen(relay: object, late: Site, clock: Clock) -> None:
    assert clock.waiting.wait(60)
    # The node stands at the gate: nothing of this round is in the ledger or on its way.
    assert late.ledger.account().entries == []
    assert late.stored() == {}
    assert LATE not in getattr(relay, "received", {}).get(1, {})
    clock.held.set()


def test_a_round_that_closes_before_the_hours_is_sat_out_at_no_cost(
    federation: Federation, tmp_path: Path
) -> None:
    clock = Clock(MONDAY + timedelta(hours=19, minutes=59, seconds=45))
    clock.held.clear()
    others = {hospital.name for hospital in federation.charter.hospitals} - {LATE}
    with running_relay(federation, tmp_path / "relay", expected=others) as (relay, address):
        late = _late_site(federation, address, clock)
        runner = threading.Thread(target=late.run)
        runner.start()
        assert clock.waiting.wait(60)
        run_together([site_of(federation, name, address) for name in sorted(others)])
        clock.held.set()
        runner.join(60)
        assert not runner.is_alive()
        assert LATE not in relay.received[1]
        assert LATE not in relay.received[2]
    assert late.ledger.account().entries == []
    assert late.ledger.spent(federation.charter).rho_aggregate == 0
