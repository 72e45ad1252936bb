from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.federation import Federation

from fedhelp_keys.custodian.key_files import public_context_path
from fedhelp_secure.canonical import digest
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.client import open_channel
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1 import custodian_pb2, custodian_pb2_grpc

FEDHELP = str(Path(sys.executable).with_name("fedhelp"))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FEDHELP, "custodian", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_prepare_prints_the_digest_and_refuses_to_do_it_twice(tmp_path: Path) -> None:
    state = StateDirectory.create(tmp_path, Identity("testfed", Role.DECRYPTOR, "decryptor"))
    done = _run("prepare", "--state", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert digest(state.read(public_context_path(state))) in done.stdout
    again = _run("prepare", "--state", str(tmp_path))
    assert again.returncode == 1
    assert again.stderr.startswith("fedhelp: ")


def test_prepare_leaves_an_unmasker_as_it_is_and_refuses_other_roles(tmp_path: Path) -> None:
    for role, status in ((Role.UNMASKER, 0), (Role.HOSPITAL, 1)):
        root = tmp_path / role.value
        StateDirectory.create(root, Identity("testfed", role, "party"))
        before = sorted(root.rglob("*"))
        assert _run("prepare", "--state", str(root)).returncode == status
        assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("role", ["decryptor", "unmasker"])
def test_serve_runs_until_it_is_told_to_stop(
    federation: Federation, tmp_path: Path, role: str
) -> None:
    state = federation.state(role)
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [
            *(FEDHELP, "custodian", "serve", "--state", str(state.root)),
            *("--listen", "127.0.0.1:0", "--ready-file", str(ready)),
        ]
    )
    try:
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        address = ready.read_text().strip()
        with open_channel(
            federation.state("aggregator"), address, expected=state.identity
        ) as channel:
            if role == "decryptor":
                stub = custodian_pb2_grpc.DecryptorStub(channel)
                request = custodian_pb2.GetPublicContextRequest(epoch=1)
                assert list(stub.GetPublicContext(request, timeout=30))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
