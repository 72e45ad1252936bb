"""What the broker refuses to start with, and what the operator may not write on the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.broker import BrokerWorld
from support.federation import make_federation

from fedhelp_secure.errors import ConfigurationError, SignatureRefused
from fedhelp_secure.public_set import PublicSet, PublicSetRefused
from fedhelp_secure.state import StateError
from fedhelp_secure.transport.identity import Role
from fedhelp_server.broker.ceiling import Ceiling
from fedhelp_server.broker.process import (
    BrokerOptions,
    NotThisBroker,
    ReasonRefused,
    resolve,
    run,
    status,
)
from fedhelp_server.broker.states import CallState


def options(world: BrokerWorld, **changes: Path) -> BrokerOptions:
    return BrokerOptions(
        charter=changes.get("charter", world.federation.charter_file()),
        public_set=changes.get("public_set", world.public_set_file),
        listen="127.0.0.1:0",
        rules=world.rules(),
        ceiling=Ceiling(),
        credential_file=None,
        credential=None,
        model_file=None,
        aggregator=None,
        ready_file=None,
    )


def test_another_public_set_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    original = world.public_set
    images = np.array(original.images)
    images[0, 0, 0] ^= 1
    path = tmp_path / "other.npz"
    PublicSet(images, original.features, original.projection).save(path)
    with pytest.raises(PublicSetRefused):
        run(world.broker_state(tmp_path), options(world, public_set=path))
    assert not (tmp_path / "broker" / "broker" / "calls").exists()


def test_another_federations_charter_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    other = make_federation(tmp_path / "other", large=1, small=1)
    with pytest.raises(SignatureRefused):
        run(world.broker_state(tmp_path), options(world, charter=other.charter_file()))


def test_another_brokers_state_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    broker = world.broker_state(tmp_path)
    stranger = make_federation(tmp_path / "other", large=1, small=1).state(Role.BROKER)
    (broker / "keys" / "signing.pem").write_bytes(stranger.signing_key_path.read_bytes())
    with pytest.raises(NotThisBroker, match="another broker"):
        run(broker, options(world))


def test_another_roles_state_is_refused(world: BrokerWorld) -> None:
    with pytest.raises(StateError, match="broker is needed"):
        run(world.federation.state("small-1").root, options(world))


def test_an_absent_charter_is_refused(world: BrokerWorld, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.json"):
        run(world.broker_state(tmp_path), options(world, charter=tmp_path / "absent.json"))


def test_the_status_of_a_call_that_nobody_asked_for(world: BrokerWorld, tmp_path: Path) -> None:
    broker = world.broker_state(tmp_path)
    found = status(broker, world.federation.charter_file())
    assert (found.state, found.intent, found.batches) == (CallState.READY, None, ())
    assert (found.of_batches, found.reason, found.logged) == (1, "", False)
    assert not (broker / "broker" / "calls").exists()


@pytest.mark.parametrize("reason", ["", "   ", "x" * 301, "two\nlines", "\x1b[31mred"])
def test_a_reason_is_one_line_of_text(world: BrokerWorld, tmp_path: Path, reason: str) -> None:
    with pytest.raises(ReasonRefused, match="--reason"):
        resolve(
            world.broker_state(tmp_path),
            world.federation.charter_file(),
            verdict="abandoned",
            reason=reason,
        )
