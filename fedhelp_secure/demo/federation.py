"""The demo's parties: their states, their enrolment and their charter."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedhelp_secure.charter import Group
from fedhelp_secure.demo.options import DemoOptions
from fedhelp_secure.demo.processes import ProcessGroup
from fedhelp_secure.enrolment.bundle import install_bundle
from fedhelp_secure.enrolment.request import make_request
from fedhelp_secure.privacy.defaults import ProbeDefaults
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity, Role

FEDERATION = "demo"
_SINGLE_ROLES = (Role.AGGREGATOR, Role.DECRYPTOR, Role.BROKER, Role.AUDITOR)
_DEADLINE_SECONDS = 900


class DemoFederation:
    """Every party's state directory under one folder, as if each were on its own machine."""

    def __init__(self, root: Path, hospitals: Sequence[str], *, unmaskers: int) -> None:
        self._root = root
        self.hospitals = tuple(hospitals)
        self.unmaskers = (
            Role.UNMASKER.value,
            *(f"{Role.UNMASKER.value}-{number}" for number in range(2, unmaskers + 1)),
        )

    def state(self, name: str) -> Path:
        """The state directory of the party called ``name``."""
        return self._root / name

    @property
    def charter(self) -> Path:
        """The signed charter."""
        return self._root / "public" / "charter.json"

    @property
    def context(self) -> Path:
        """The public CKKS context."""
        return self.state("decryptor") / "decryptor" / "context.public"

    def enrol(self, processes: ProcessGroup) -> None:
        """Found the federation, make every party's keys, and enrol each."""
        # The one place where the core calls a role's package: see docs/adr/0001.
        from fedhelp_keys.registrar.ca import found_federation

        now = datetime.datetime.now(datetime.UTC)
        registrar = found_federation(self.state("registrar"), FEDERATION, now=now)
        for role in _SINGLE_ROLES:
            identity = Identity(FEDERATION, role, role.value)
            state = StateDirectory.create(self.state(role.value), identity)
            if role is Role.DECRYPTOR:
                processes.run("prepare", "custodian", "prepare", "--state", str(state.root))
            _join(registrar, state, group=None)
        for name in self.unmaskers:
            identity = Identity(FEDERATION, Role.UNMASKER, name)
            _join(registrar, StateDirectory.create(self.state(name), identity), group=None)
        for name in self.hospitals:
            identity = Identity(FEDERATION, Role.HOSPITAL, name)
            state = StateDirectory.create(self.state(name), identity)
            _join(registrar, state, group="large" if name.startswith("large-") else "small")

    def make_charter(self, processes: ProcessGroup, plan: dict[str, Any], public_set: Path) -> None:
        """Have the registrar make and sign the charter from ``plan``."""
        plan_file = self._root / "public" / "charter.yaml"
        write_atomically(plan_file, yaml.safe_dump(plan, sort_keys=False).encode())
        processes.run(
            "charter",
            *("keys", "charter", "--state", str(self.state("registrar"))),
            *("--config", str(plan_file), "--public-set", str(public_set)),
            *("--out", str(self.charter), "--explain"),
        )


def charter_plan(
    options: DemoOptions, probe: ProbeDefaults, *, classes: Sequence[str], foundation_model: str
) -> dict[str, Any]:
    """What the demo's registrar writes into the charter's YAML."""
    hospitals = options.hospitals
    return {
        "name": f"demo-{options.task}",
        "task": options.task.value,
        "classes": list(classes),
        "hospitals": list(hospitals),
        # A plain sum already counts every patient once, wherever; see docs/adr/0005.
        "weights": {"large": 1, "small": 1},
        "privacy": {
            "epsilon": options.epsilon,
            "delta": "1e-6",
            "clip": probe.clip,
            "maximum_patients": 10_000,
            "tuning": dict.fromkeys(("dimension", "rounds", "ridge", "clip"), "public defaults"),
        },
        "secure_sum": {"fraction_bits": 12},
        "probe": {
            "dimension": probe.dimension,
            "update": probe.update,
            "ridge": probe.ridge,
            "step": probe.step,
            "nominal_patients": probe.nominal,
        },
        "cohort": {
            "minimum": max(2, len(hospitals) - 1),
            "colluders": 1,
            "minimum_large": 1,
            "minimum_small": 1,
        },
        "rounds": {"count": options.rounds, "deadline_seconds": _DEADLINE_SECONDS},
        "foundation_model": {
            "purpose": "proxy-embeddings",
            "url": foundation_model,
            "model": "dinov2-small",
        },
        "retention_days": 365,
    }


def _join(registrar: StateDirectory, state: StateDirectory, *, group: Group | None) -> None:
    from fedhelp_keys.registrar.registry import enrol

    now = datetime.datetime.now(datetime.UTC)
    install_bundle(state, enrol(registrar, make_request(state), group=group, now=now), now=now)
