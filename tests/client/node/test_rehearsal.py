"""``fedhelp client rehearse``: invented numbers through a real round, and never anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.federation import Federation, make_federation
from support.processes import context_file
from support.relay import Relay, running_relay

from fedhelp_client.node.rehearsal import digest_of_integers, invent
from fedhelp_secure.secure_sum.contribution import open_manifest

STAGES = {"keys", "encrypt", "upload", "wait", "fetch", "open"}


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(
        tmp_path / "parties",
        large=1,
        small=1,
        unmaskers=2,
        privacy={"mechanism": "rehearsal"},
        secure_sum={"values": 10_001},
    )


@pytest.fixture
def relay(federation: Federation, tmp_path: Path) -> Iterator[tuple[Relay, str]]:
    with running_relay(federation, tmp_path / "relay") as running:
        yield running


def _rehearse(federation: Federation, name: str, address: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "fedhelp_secure", "client", "rehearse"),
        *("--state", str(federation.state(name).root), "--aggregator", f"aggregator@{address}"),
        *("--context", str(context_file(federation)), *more),
    ]


def _run_all(federation: Federation, address: str, out: Path) -> list[str]:
    names = [hospital.name for hospital in federation.charter.hospitals]
    running = [
        subprocess.Popen(
            _rehearse(
                federation,
                name,
                address,
                *("--json", str(out / f"{name}.jsonl"), "--reveal", str(out / f"{name}.npy")),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]
    for process in running:
        screen, _ = process.communicate(timeout=120)
        assert process.returncode == 0, screen
        assert "opened and authentic" in screen
    return names


def test_every_round_opens_to_the_exact_sum_of_what_was_invented(
    federation: Federation, relay: tuple[Relay, str], tmp_path: Path
) -> None:
    charter = federation.charter
    names = _run_all(federation, relay[1], tmp_path)
    arrays: dict[str, list[NDArray[np.int64]]] = {}
    for name in names:
        with (tmp_path / f"{name}.npy").open("rb") as file:
            arrays[name] = [np.load(file) for _ in range(charter.rounds.count)]
    for number in range(charter.rounds.count):
        total = sum(charter.weight_of(name) * arrays[name][number] for name in names)
        assert isinstance(total, np.ndarray)
        for name in names:
            line = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[number])
            assert line["round"] == number + 1
            assert line["values"] == charter.secure_sum.values
            assert line["seconds"].keys() == line["cpu_seconds"].keys() == STAGES
            assert line["upload_bytes"] > charter.secure_sum.ciphertext_bytes
            assert line["download_bytes"] > 0
            assert line["peak_rss_mb"] > 0
            assert line["hospitals"] == names
            assert line["invented_digest"] == digest_of_integers(arrays[name][number])
            assert line["sum_digest"] == digest_of_integers(total)


def test_a_second_run_sends_the_same_bytes_and_reveals_nothing_new(
    federation: Federation, relay: tuple[Relay, str], tmp_path: Path
) -> None:
    for again in ("first", "second"):
        (tmp_path / again).mkdir()
        names = _run_all(federation, relay[1], tmp_path / again)
    for sent in relay[0].received.values():
        assert all(len(digests) == 2 and len(set(digests)) == 1 for digests in sent.values())
    line = json.loads((tmp_path / "second" / f"{names[0]}.jsonl").read_text().splitlines()[0])
    assert line["invented_digest"] == ""
    assert "encrypt" not in line["seconds"]
    assert not (tmp_path / "second" / f"{names[0]}.npy").exists()


def test_there_is_no_ledger_and_the_manifests_say_so(
    federation: Federation, relay: tuple[Relay, str], tmp_path: Path
) -> None:
    names = _run_all(federation, relay[1], tmp_path)
    digests = set()
    for name in names:
        directory = federation.state(name).role_directory()
        assert not (directory / "ledger.sqlite").exists()
        for envelope in directory.rglob("manifest"):
            manifest = open_manifest(federation.charter, envelope.read_bytes())
            digests.add(manifest.ledger_entry_digest)
    assert len(digests) == 1


def test_invented_integers_reach_the_charters_bound_and_no_further(federation: Federation) -> None:
    privacy = federation.charter.privacy
    bound = privacy.clip_units * privacy.maximum_patients
    invented = invent(federation.charter)
    assert invented.shape == (federation.charter.secure_sum.values,)
    assert -bound <= invented.min() < -0.99 * bound
    assert 0.99 * bound < invented.max() <= bound
    assert (invented != invent(federation.charter)).any()


def test_a_charter_for_patients_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "parties", large=1, small=1)
    with running_relay(federation, tmp_path / "relay") as (relay, address):
        refused = subprocess.run(
            _rehearse(federation, "small-1", address),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert refused.returncode == 1
    assert "this charter is for patients" in refused.stderr
    assert not relay.received


def test_a_rehearsal_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['monai'] = None\n"
        "import fedhelp_client.commands, fedhelp_client.node.rehearsal"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
