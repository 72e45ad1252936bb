"""The benchmark of the secure sum from end to end: components, then rounds of real processes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from fedhelp_secure.bench.baseline import HospitalRound
from fedhelp_secure.bench.components import (
    ComponentCost,
    Parties,
    measure_baseline,
    measure_ours,
)
from fedhelp_secure.bench.federation import hospital_names, make_rehearsal
from fedhelp_secure.bench.result import Measured, RoundCost, ratios
from fedhelp_secure.bench.schemes import BASELINES, Scheme
from fedhelp_secure.charter import Charter, open_charter
from fedhelp_secure.demo.federation import DemoFederation
from fedhelp_secure.demo.processes import ProcessGroup, Running
from fedhelp_secure.errors import InternalError
from fedhelp_secure.memory import peak_rss_mb
from fedhelp_secure.secure_sum.contribution import SEALED_SEED_BYTES
from fedhelp_secure.state import StateDirectory, write_atomically

_LISTEN = ("--listen", "127.0.0.1:0")


class RoundMissing(InternalError):
    """A hospital of the benchmark did not finish every round."""

    code = "bench-round"


@dataclass(frozen=True, slots=True)
class SecureSumBench:
    """What to measure."""

    values: int
    hospitals: int
    unmaskers: int
    repeats: int
    rounds_only: bool
    """Whether to leave out components and baselines: for vectors that those cannot hold."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Measure ours and every baseline under ``folder``; returns the JSON document."""
        with ProcessGroup(folder) as processes:
            # Round 1 of each kind warms up: keys are read, code is loaded, files exist.
            federation = make_rehearsal(
                folder,
                processes,
                values=self.values,
                hospitals=self.hospitals,
                unmaskers=self.unmaskers,
                rounds=self.repeats + 1,
            )
            parties = _parties(federation)
            chosen = {} if self.rounds_only else BASELINES
            baselines = {name: make(None) for name, make in chosen.items()}
            components = self._components(parties, baselines, folder)
            rounds, memory = self._our_rounds(federation, parties.charter, processes)
            ours = Measured(tuple(components["ours"]), tuple(rounds), memory)
            others = {}
            for name, scheme in baselines.items():
                rounds, memory = self._baseline_rounds(federation, scheme, processes, folder)
                others[name] = Measured(tuple(components[name]), tuple(rounds), memory)
        return self._document(ours, others, parties.charter)

    def _document(
        self, ours: Measured, others: dict[str, Measured], charter: Charter
    ) -> dict[str, Any]:
        size = {"values": self.values, "hospitals": self.hospitals}
        return {
            **size,
            "unmaskers": self.unmaskers,
            "repeats": self.repeats,
            "secure_sum": charter.secure_sum.model_dump(mode="json"),
            **ours.document(**size),
            **{name: other.document(**size) for name, other in others.items()},
            "ratio_to": {name: ratios(ours, other) for name, other in others.items()},
        }

    def _components(
        self, parties: Parties, baselines: dict[str, Scheme], folder: Path
    ) -> dict[str, list[ComponentCost]]:
        costs: dict[str, list[ComponentCost]] = {"ours": [], **{name: [] for name in baselines}}
        for repeat in range(0 if self.rounds_only else self.repeats):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                costs["ours"].append(measure_ours(parties, 1, Path(scratch) / str(repeat)))
            for name, scheme in baselines.items():
                costs[name].append(
                    measure_baseline(scheme, values=self.values, hospitals=self.hospitals)
                )
        return costs

    def _our_rounds(
        self, federation: DemoFederation, charter: Charter, processes: ProcessGroup
    ) -> tuple[list[RoundCost], dict[str, float]]:
        servers, addresses = {}, {}
        for name in ("decryptor", *federation.unmaskers):
            servers[name], addresses[name] = processes.serve(
                name, "custodian", "serve", "--state", str(federation.state(name)), *_LISTEN
            )
        unmaskers = [f"--unmasker={addresses[name]}" for name in federation.unmaskers]
        servers["aggregator"], address = processes.serve(
            "aggregator",
            *("server", "run", "--state", str(federation.state("aggregator")), *_LISTEN),
            *("--charter", str(federation.charter), "--decryptor", addresses["decryptor"]),
            *unmaskers,
        )
        out = federation.charter.parent
        hospitals = [
            processes.start(
                name,
                *("client", "rehearse", "--state", str(federation.state(name))),
                *("--context", str(federation.context), "--aggregator", f"aggregator@{address}"),
                *("--json", str(out / f"{name}.jsonl")),
            )
            for name in hospital_names(self.hospitals)
        ]
        for hospital in hospitals:
            processes.finish(hospital)
        lines = {name: _read(out / f"{name}.jsonl") for name in hospital_names(self.hospitals)}
        memory = {name: peak_rss_mb(running.process.pid) for name, running in servers.items()}
        memory["hospital"] = max(line.peak_rss_mb for each in lines.values() for line in each)
        for running in servers.values():
            _end(running)
        return self._costs(lines, partial(_between_servers, charter)), memory

    def _baseline_rounds(
        self, federation: DemoFederation, scheme: Scheme, processes: ProcessGroup, folder: Path
    ) -> tuple[list[RoundCost], dict[str, float]]:
        secret = folder / f"{scheme.name}.secret"
        write_atomically(secret, scheme.secret)
        common = ("--scheme", scheme.name, "--secret", str(secret))
        server, address = processes.serve(
            f"{scheme.name}-aggregator",
            *("bench", "baseline-server", "--state", str(federation.state("aggregator"))),
            *(*common, "--hospitals", str(self.hospitals)),
        )
        out = {name: folder / f"{scheme.name}-{name}.jsonl" for name in federation.hospitals}
        hospitals = [
            processes.start(
                f"{scheme.name}-{name}",
                *("bench", "baseline-hospital", "--state", str(federation.state(name)), *common),
                *("--address", address, "--values", str(self.values)),
                *("--rounds", str(self.repeats + 1), "--out", str(out[name])),
            )
            for name in federation.hospitals
        ]
        for hospital in hospitals:
            processes.finish(hospital)
        lines = {name: _read(path) for name, path in out.items()}
        memory = {
            "aggregator": peak_rss_mb(server.process.pid),
            "hospital": max(line.peak_rss_mb for each in lines.values() for line in each),
        }
        _end(server)
        return self._costs(lines, lambda _: 0), memory

    def _costs(
        self,
        lines: dict[str, list[HospitalRound]],
        between_servers: Callable[[list[HospitalRound]], int],
    ) -> list[RoundCost]:
        """Every round but the first: from the first hospital's start to the last one's end."""
        costs = []
        for number in range(2, self.repeats + 2):
            members = [line for each in lines.values() for line in each if line.round == number]
            if len(members) != self.hospitals:
                raise RoundMissing(f"round {number} lacks a hospital; see the logs.")
            costs.append(
                RoundCost(
                    seconds=max(line.ended for line in members)
                    - min(line.started for line in members),
                    bytes_on_the_wire=between_servers(members)
                    + sum(line.upload_bytes + line.download_bytes for line in members),
                    upload_bytes=max(line.upload_bytes for line in members),
                )
            )
        return costs


def _between_servers(charter: Charter, members: list[HospitalRound]) -> int:
    """Bytes of one round between aggregator and custodians: sum, manifests and seeds, answers."""
    unmaskers = len(charter.custodians.unmaskers)
    ciphertext = charter.secure_sum.ciphertext_bytes
    # An upload is the ciphertext, the manifest and a seed for each unmasker; each of them gets the
    # manifest and its own seed. A download is every custodian's answer, as the aggregator got it.
    manifests = sum(line.upload_bytes - ciphertext for line in members)
    manifests -= unmaskers * len(members) * SEALED_SEED_BYTES
    seeds_and_manifests = unmaskers * (manifests + len(members) * SEALED_SEED_BYTES)
    return ciphertext + seeds_and_manifests + members[0].download_bytes


def _parties(federation: DemoFederation) -> Parties:
    names = ("decryptor", *federation.unmaskers, *federation.hospitals)
    states = {name: StateDirectory.open(federation.state(name)) for name in names}
    governance_key = states["decryptor"].governance_key()
    return Parties(open_charter(federation.charter.read_bytes(), governance_key), states)


def _read(path: Path) -> list[HospitalRound]:
    names = [each.name for each in fields(HospitalRound)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [HospitalRound(**{name: line[name] for name in names}) for line in lines]


def _end(running: Running) -> None:
    running.process.terminate()
    running.process.wait(timeout=30)


def run_secure_sum_bench(bench: SecureSumBench, out: Path | None) -> dict[str, Any]:
    """Run ``bench`` in a temporary folder; also writes the JSON to ``out`` if given."""
    with tempfile.TemporaryDirectory(prefix="fedhelp-bench-") as folder:
        document = bench.run(Path(folder))
    if out is not None:
        write_atomically(out, (json.dumps(document, indent=2) + "\n").encode(), mode=0o644)
    return document
