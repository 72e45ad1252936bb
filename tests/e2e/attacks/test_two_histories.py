"""Attack: the aggregator keeps two logs under one key, and shows each to whom it likes.

Real processes: hospitals and an auditor have seen one history; then an aggregator with the same
identity, key and charter shows them another, as one does whose state was wound back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.conftest import fedhelp
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers

from fedhelp_secure.demo.processes import Running
from fedhelp_secure.evidence.checkpoint import open_checkpoint
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.witness import LogWitness
from fedhelp_secure.transport.identity import Role


@dataclass(frozen=True, slots=True)
class Wound:
    """A federation whose only round is over, and another aggregator without its log."""

    federation: Federation
    servers: Servers
    true: str
    other: str
    """host:port of both."""

    def rehearse(self, name: str, address: str) -> Running:
        return self.servers.group.start(
            f"{name}-{address.rpartition(':')[2]}",
            *("client", "rehearse", "--state", str(self.federation.state(name).root)),
            *("--context", str(context_file(self.federation))),
            *("--aggregator", f"aggregator@{address}"),
        )

    def export(self, address: str, out: Path) -> tuple[int, str]:
        """The auditor's command; without ledgers, as there are no patients."""
        empty = out.parent / "empty"
        empty.mkdir(exist_ok=True)
        done = fedhelp(
            *("audit", "export", "--state", str(self.federation.state(Role.AUDITOR).root)),
            *("--aggregator", address, "--charter", str(self.federation.charter_file())),
            *("--ledgers", str(empty), "--receipts", str(empty), "--out", str(out)),
            cwd=self.federation.root,
        )
        return done.returncode, done.stderr

    def witness(self, name: str | Role) -> LogWitness:
        return LogWitness(self.federation.state(name), self.federation.charter)


@pytest.fixture(scope="module")
def wound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wound]:
    root = tmp_path_factory.mktemp("histories")
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        privacy={"mechanism": "rehearsal"},
        rounds={"count": 1},
    )
    names = [hospital.name for hospital in federation.charter.hospitals]
    with running_servers(federation, root) as servers:
        aggregator = federation.state(Role.AGGREGATOR).root
        copy = Path(shutil.copytree(aggregator, root / "wound-back"))
        shutil.rmtree(copy / "aggregator")
        addresses = [
            *("--decryptor", servers.addresses["decryptor"]),
            f"--unmasker={servers.addresses['unmasker']}",
        ]
        _, other = servers.group.serve(
            "other",
            *("server", "run", "--state", str(copy), "--listen", "127.0.0.1:0"),
            *("--charter", str(federation.charter_file()), *addresses),
        )
        wound = Wound(federation, servers, servers.addresses["aggregator"], other)
        for running in [wound.rehearse(name, wound.true) for name in names]:
            servers.group.finish(running)
        yield wound


def test_the_hospitals_do_not_cosign_the_other_history(wound: Wound) -> None:
    names = [hospital.name for hospital in wound.federation.charter.hospitals]
    before = {name: wound.witness(name).path.read_bytes() for name in names}
    # They send what they have sent before, and get the same sum: only the log is another one.
    nodes = {name: wound.rehearse(name, wound.other) for name in names}
    charter = wound.federation.charter
    for name, node in nodes.items():
        assert node.process.wait(timeout=120) == 1, node.log.read_text()
        assert "the aggregator shows another log than before" in node.log.read_text()
        witness = wound.witness(name)
        assert witness.path.read_bytes() == before[name]
        # Two heads under one signature, in the hands of each hospital.
        heads = {
            open_checkpoint(
                path.read_bytes(),
                origin=log_origin(charter),
                key=charter.aggregator.verifying_key(),
            )
            for path in (witness.path, witness.contradicting_path)
        }
        assert len(heads) == 2


def test_the_auditor_exports_one_history_only(wound: Wound, tmp_path: Path) -> None:
    # Of a rehearsal, which has no ledgers, there is no report: but its log is seen and cosigned.
    code, said = wound.export(wound.true, tmp_path / "true")
    assert code == 1
    assert "is missing, but it contributed" in said
    assert len(list((tmp_path / "true" / "log" / "cosigned").iterdir())) == 4
    code, said = wound.export(wound.other, tmp_path / "other")
    assert code == 1
    assert "the aggregator shows another log than before" in said
    assert not (tmp_path / "other").exists()
