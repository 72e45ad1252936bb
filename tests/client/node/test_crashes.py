"""A node that is killed after any step of a round: the round is spent, and drawn once.

The killed node is a process of its own. It tells its steps to a listener, as every node does; this
one's listener writes them down and, at the step in question, sends SIGKILL to its own process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation, make_federation
from support.processes import context_file
from support.relay import running_relay
from support.site import Site, run_together, site_of

from fedhelp_client.node.release import Step, StepListener

VICTIM = "small-2"
ROOT = Path(__file__).parents[3]

NODE = """
import os, signal, sys
from pathlib import Path
from client.node.test_crashes import writing_down
from support.site import Site
from fedhelp_client.node.release import Step
from fedhelp_secure.charter import open_charter
from fedhelp_secure.state import StateDirectory

state_root, charter, context, address, steps, last, round_number = sys.argv[1:]
state = StateDirectory.open(Path(state_root))
write = writing_down(Path(steps))

def until(step, number):
    write(step, number)
    if (step, number) == (Step[last], int(round_number)):
        os.kill(os.getpid(), signal.SIGKILL)

charter = open_charter(Path(charter).read_bytes(), state.governance_key())
Site(state, charter, Path(context), address, listener=until).run()
"""


def writing_down(path: Path) -> StepListener:
    """A listener whose lines outlive its process."""

    def write(step: Step, round_number: int) -> None:
        with path.open("a") as file:
            file.write(f"{round_number} {step.name}\n")
            file.flush()
            os.fsync(file.fileno())

    return write


def crash(federation: Federation, address: str, steps: Path, step: Step, number: int) -> None:
    killed = subprocess.run(
        [
            *(sys.executable, "-c", NODE, str(federation.state(VICTIM).root)),
            *(str(federation.charter_file()), str(context_file(federation)), address),
            *(str(steps), step.name, str(number)),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def restarted(federation: Federation, address: str, steps: Path) -> Site:
    return Site(
        federation.state(VICTIM),
        federation.charter,
        context_file(federation),
        address,
        listener=writing_down(steps),
    )


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "parties", large=1, small=2, rounds={"count": 2})


@contextmanager
def running(sites: Sequence[Site]) -> Iterator[Future[list[NDArray[np.float64]]]]:
    """All ``sites`` at work within the block; they are cut off if it fails."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run_together, sites)
        try:
            yield future
        except BaseException:
            for site in sites:
                site.releaser.coordinator.close()
            raise


LOST = (Step.RESERVED, Step.NOISE_DRAWN, Step.ENCRYPTED)
"""After these there is no stored contribution yet: the node sits the round out."""


@pytest.mark.parametrize("step", list(Step), ids=[step.name for step in Step])
def test_a_node_killed_after_any_step_has_spent_the_round_and_draws_it_once(
    federation: Federation, tmp_path: Path, step: Step
) -> None:
    charter, steps, lost = federation.charter, tmp_path / "steps", step in LOST
    others = [hospital.name for hospital in charter.hospitals if hospital.name != VICTIM]
    expected = set(others) if lost else {*others, VICTIM}
    with running_relay(federation, tmp_path / "relay", expected=expected) as (relay, address):
        sites = [site_of(federation, name, address) for name in others]
        if lost:
            crash(federation, address, steps, step, 1)
        with running(sites) as models:
            if not lost:
                crash(federation, address, steps, step, 1)
            site = restarted(federation, address, steps)
            assert site.ledger.spent(charter).rho_aggregate == charter.round_rho("small")
            model = site.run()
            for other in models.result():
                np.testing.assert_array_equal(model, other)
    counted = Counter(steps.read_text().splitlines())
    assert counted["1 NOISE_DRAWN"] == (0 if step is Step.RESERVED else 1)
    assert counted["1 RESERVED"] == counted["2 RESERVED"] == counted["2 NOISE_DRAWN"] == 1
    assert len(set(relay.received[1].get(VICTIM, []))) == (0 if lost else 1)
    # The account: spent once, told whole.
    assert site.ledger.spent(charter).rho_aggregate == 2 * charter.round_rho("small")
    statuses = [entry.record.status for entry in site.ledger.account().entries]
    of_first = ["reserved", "aborted"] if lost else ["reserved", "sent", "opened"]
    assert statuses[: len(of_first)] == of_first


def test_the_steps_of_a_round_keep_their_order(federation: Federation, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    names = [hospital.name for hospital in federation.charter.hospitals]
    with running_relay(federation, tmp_path / "relay") as (_, address):
        sites = [site_of(federation, name, address) for name in names if name != VICTIM]
        run_together([*sites, restarted(federation, address, steps)])
    assert steps.read_text().splitlines() == [
        f"{number} {step.name}" for number in (1, 2) for step in Step
    ]
