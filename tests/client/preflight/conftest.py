"""A site that passes: real state, data, policy and public files, and real peers as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.federation import Federation, make_federation
from support.processes import Servers, context_file, running_servers
from support.site import PUBLIC_SET

from fedhelp_client.data.folder import write_folder
from fedhelp_client.data.types import Dataset, Example
from fedhelp_client.preflight.checks import run_checks
from fedhelp_client.preflight.report import Report
from fedhelp_client.preflight.site import Site
from fedhelp_secure.public_set import proxy_digest

CLASSES = ("benign", "malignant")
PATIENTS = 23


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything in place."""

    federation: Federation
    servers: Servers
    arguments: dict[str, Any]
    """Of `Site`."""

    def site(self, **changes: object) -> Site:
        """With some of the arguments changed."""
        return Site(**(self.arguments | changes))

    def report(self, **changes: object) -> Report:
        """Of every check."""
        return run_checks(self.site(**changes))

    def options(self) -> list[str]:
        """The same on the command line."""
        names = {
            "root": "--state",
            "charter_file": "--charter",
            "policy_file": "--policy",
            "aggregator_address": "--aggregator",
            "broker_address": "--broker",
            "public_set": "--public-set",
        }
        return [
            part
            for name, value in self.arguments.items()
            for part in (names.get(name, f"--{name}"), str(value))
        ]


def finding(report: Report, check: str) -> tuple[str, str]:
    """Verdict and sentence of one check."""
    return next((each.verdict, each.says) for each in report.findings if each.check == check)


def dataset(patients: int) -> Dataset:
    """So many patients with one image each, of both classes."""
    random = np.random.default_rng(4)
    examples = [
        Example(random.integers(0, 256, (32, 32), dtype=np.uint8), number % 2, f"person-{number}")
        for number in range(patients)
    ]
    return Dataset("own", CLASSES, tuple(examples))


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``fedhelp client preflight`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fedhelp_secure", "client", "preflight", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="package")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    root = tmp_path_factory.mktemp("preflight")
    count, height, width = PUBLIC_SET.images.shape
    federation = make_federation(
        root / "parties",
        large=1,
        small=2,
        proxy={
            "count": count,
            "height": height,
            "width": width,
            "digest": proxy_digest(PUBLIC_SET.images),
            "public_set_digest": PUBLIC_SET.digest,
        },
    )
    PUBLIC_SET.save(root / "public_set.npz")
    write_folder(dataset(PATIENTS), root / "data")
    policy = root / "policy.yaml"
    key = federation.governance_key.public.to_base64()
    policy.write_text(yaml.safe_dump({"epsilon": "8", "charter_signers": [key]}))
    with running_servers(federation, root) as servers:
        _, broker = servers.group.serve(
            "broker",
            *("broker", "run", "--state", str(federation.state("broker").root)),
            *("--charter", str(federation.charter_file()), "--listen", "127.0.0.1:0"),
            *("--public-set", str(root / "public_set.npz")),
            *("--aggregator", servers.addresses["aggregator"]),
        )
        arguments = {
            "root": federation.state("small-1").root,
            "charter_file": federation.charter_file(),
            "policy_file": policy,
            "data": root / "data",
            "aggregator_address": servers.addresses["aggregator"],
            "broker_address": broker,
            "public_set": root / "public_set.npz",
            "context": context_file(federation),
        }
        yield Ready(federation, servers, arguments)


def written(path: Path) -> Any:  # noqa: ANN401
    """The JSON in ``path``."""
    return json.loads(path.read_text())
