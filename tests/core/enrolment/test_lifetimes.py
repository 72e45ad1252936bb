"""When a certificate is renewed, and how urgent it is that it could not be."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path

import pytest

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.policy import RegistrarPolicy
from fedhelp_secure.enrolment.lifetimes import (
    LONGEST_HOURS,
    SHORTEST_HOURS,
    renewal_due,
    renewal_late,
)
from fedhelp_secure.enrolment.renewal import Renewal
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport import certificates
from fedhelp_secure.transport.certificates import load_certificate, utc_now

HOUR = datetime.timedelta(hours=1)
NOW = utc_now()


@pytest.fixture(scope="module", params=[SHORTEST_HOURS, LONGEST_HOURS])
def state(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StateDirectory, int]:
    policy = RegistrarPolicy().changed(certificate_hours=request.param)
    root = tmp_path_factory.mktemp("r") / "r"
    return found_federation(root, "testfed", now=NOW, policy=policy), request.param


def test_two_thirds_and_five_sixths_of_the_life_since_it_was_issued(
    state: tuple[StateDirectory, int],
) -> None:
    registrar, hours = state
    certificate = load_certificate(registrar.tls_certificate_path.read_bytes())
    assert certificate.not_valid_after_utc == NOW + hours * HOUR
    assert renewal_due(certificate) == NOW + hours * HOUR * 2 / 3
    assert renewal_late(certificate) == NOW + hours * HOUR * 5 / 6


@pytest.mark.parametrize(
    ("passed", "due", "level"),
    [
        (0.0, False, logging.WARNING),
        (0.66, False, logging.WARNING),
        (0.67, True, logging.WARNING),
        (0.83, True, logging.WARNING),
        (0.84, True, logging.ERROR),
        (1.1, True, logging.ERROR),
    ],
)
def test_a_failure_becomes_an_error_as_the_end_nears(
    state: tuple[StateDirectory, int],
    monkeypatch: pytest.MonkeyPatch,
    passed: float,
    due: bool,
    level: int,
) -> None:
    registrar, hours = state
    monkeypatch.setattr(certificates, "utc_now", lambda: NOW + hours * HOUR * passed)
    task = Renewal(registrar, lambda: None)
    assert (task.due_in() <= 0) is due
    assert task.failure_level() == level


def test_a_state_without_certificate_is_an_error_and_not_the_end_of_the_task(
    tmp_path: Path,
) -> None:
    registrar = found_federation(tmp_path / "r", "testfed", now=NOW)
    registrar.tls_certificate_path.unlink()
    assert Renewal(registrar, lambda: None).failure_level() == logging.ERROR
