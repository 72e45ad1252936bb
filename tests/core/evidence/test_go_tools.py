"""A log of ours is accepted by another implementation of its formats: Go's sumdb/note and tlog.

It needs Debian's golang-go and golang-golang-x-mod-dev, and is skipped where they are not.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedhelp_secure.evidence.checkpoint import ED25519, encode, key_id
from fedhelp_secure.evidence.log import EvidenceLog
from fedhelp_secure.evidence.merkle import leaf_hash
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.wire.v1.evidence_pb2 import CharterAdopted, LogEntry

SOURCES = Path("/usr/share/gocode")
PROGRAM = Path(__file__).parents[2] / "support" / "go" / "verify_log.go"
ORIGIN = "north/hub/log"
SIZE = 13

pytestmark = pytest.mark.skipif(
    shutil.which("go") is None or not (SOURCES / "src/golang.org/x/mod/sumdb/tlog").is_dir(),
    reason="Go and its x/mod are not installed",
)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("go") / "verify-log"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(SOURCES), "GOFLAGS": ""}
    environment["GOCACHE"] = str(built.parent / "cache")
    subprocess.run(["go", "build", "-o", built, PROGRAM], env=environment, check=True)
    return built


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """A log on disk with all its proofs, in the program's terms."""
    key = SigningKey.generate()
    with EvidenceLog.open(tmp_path / "log", origin=ORIGIN, signing_key=key) as log:
        for number in range(SIZE):
            adopted = CharterAdopted(charter_digest=f"sha256:{number:064x}")
            log.append(LogEntry(unix_milliseconds=number, charter_adopted=adopted))
        entries = [log.entry(index) for index in range(SIZE)]
        proofs = [
            {
                "record": True,
                "size": size,
                "root": encode(log.root(size)),
                "number": index,
                "hash": encode(leaf_hash(entries[index])),
                "path": [encode(node) for node in log.inclusion_proof(index, size)],
            }
            for size in range(1, SIZE + 1)
            for index in range(size)
        ]
        proofs += [
            {
                "record": False,
                "size": later,
                "root": encode(log.root(later)),
                "number": earlier,
                "hash": encode(log.root(earlier)),
                "path": [encode(node) for node in log.consistency_proof(earlier, later)],
            }
            for later in range(1, SIZE + 1)
            for earlier in range(1, later + 1)
        ]
        name = f"{ORIGIN}+{key_id(ORIGIN, key.public).hex()}+{encode(ED25519 + key.public.raw)}"
        return {
            "key": name,
            "checkpoint": log.checkpoint().decode(),
            "entries": [encode(entry) for entry in entries],
            "proofs": proofs,
        }


def asked(verifier: Path, told: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [verifier], input=json.dumps(told), capture_output=True, text=True, check=False
    )


def test_go_accepts_our_checkpoint_root_and_every_proof(
    verifier: Path, told: dict[str, Any]
) -> None:
    accepted = asked(verifier, told)
    assert accepted.returncode == 0, accepted.stderr
    assert accepted.stdout.split() == told["checkpoint"].split("\n")[1:3]


def test_go_refuses_what_is_altered(verifier: Path, told: dict[str, Any]) -> None:
    """So that its assent above says something."""
    other = base64.b64encode(bytes(32)).decode()
    altered = [
        told | {"checkpoint": told["checkpoint"].replace(f"\n{SIZE}\n", f"\n{SIZE - 1}\n", 1)},
        told | {"entries": [*told["entries"][:-1], other]},
        told | {"proofs": [told["proofs"][40] | {"hash": other}]},
        told | {"proofs": [told["proofs"][-3] | {"root": other}]},
    ]
    for one in altered:
        assert asked(verifier, one).returncode != 0
