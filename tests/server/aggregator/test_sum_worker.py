"""The child process: what it adds, and what its end costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.aggregator import context_file
from support.federation import Federation

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext
from fedhelp_secure.transport.identity import Role
from fedhelp_server.aggregator.sum_worker import (
    ParseRefused,
    SumWorker,
    WeightedBlob,
    WorkerDied,
    WorkerMisled,
    WorkerTooSlow,
)


@pytest.fixture(scope="module")
def charter(federation: Federation) -> Charter:
    return federation.charter


@pytest.fixture
def worker(federation: Federation) -> SumWorker:
    return _worker(federation)


def _worker(federation: Federation, *, seconds: float = 60.0) -> SumWorker:
    return SumWorker(
        context_file(federation),
        federation.charter.secure_sum,
        context_digest=federation.charter.custodians.decryptor.context_digest,
        base_seconds=seconds,
    )


def _blob(folder: Path, weight: int, data: bytes) -> WeightedBlob:
    path = folder / digest(data)
    path.write_bytes(data)
    return WeightedBlob(weight, path, digest(data))


def test_the_sum_decrypts_to_the_weighted_sum(
    federation: Federation, charter: Charter, worker: SumWorker, tmp_path: Path
) -> None:
    public = PublicContext(context_file(federation).read_bytes(), charter.secure_sum)
    vectors = [np.arange(8, dtype=np.uint64) * np.uint64(k + 1) for k in range(3)]
    weights = [2, 1, 5]
    blobs = [
        _blob(tmp_path, weight, public.encrypt(vector))
        for weight, vector in zip(weights, vectors, strict=True)
    ]
    out = tmp_path / "sum"
    worker.add(blobs, out)
    again = tmp_path / "again"
    worker.add(blobs, again)
    # The same bytes: a custodian that answered the first one answers the second one too.
    assert out.read_bytes() == again.read_bytes()
    secret = federation.state(Role.DECRYPTOR).role_directory() / "context.secret"
    opened = SecretContext(secret.read_bytes(), charter.secure_sum).decrypt(out.read_bytes())
    assert opened.tolist() == [
        sum(weight * int(vector[i]) for weight, vector in zip(weights, vectors, strict=True))
        for i in range(8)
    ]


def test_bytes_that_are_no_ciphertext_are_refused(worker: SumWorker, tmp_path: Path) -> None:
    with pytest.raises(ParseRefused) as refused:
        worker.check(_blob(tmp_path, 1, os.urandom(70_000)))
    assert refused.value.code == "ciphertext"


def test_a_slow_child_is_ended(federation: Federation, tmp_path: Path) -> None:
    blob = _blob(tmp_path, 1, os.urandom(1000))
    with pytest.raises(WorkerTooSlow):
        _worker(federation, seconds=0.01).check(blob)


def test_a_file_that_has_changed_is_our_own_fault(worker: SumWorker, tmp_path: Path) -> None:
    blob = _blob(tmp_path, 1, os.urandom(1000))
    blob.path.write_bytes(b"other")
    with pytest.raises(WorkerMisled):
        worker.check(blob)


def test_a_context_that_has_changed_is_our_own_fault(
    federation: Federation, tmp_path: Path
) -> None:
    path = tmp_path / "context"
    path.write_bytes(context_file(federation).read_bytes() + b"x")
    worker = SumWorker(
        path,
        federation.charter.secure_sum,
        context_digest=federation.charter.custodians.decryptor.context_digest,
    )
    with pytest.raises(WorkerMisled):
        worker.check(_blob(tmp_path, 1, b"x"))


def test_a_child_that_runs_out_of_its_bounds_has_died(worker: SumWorker, tmp_path: Path) -> None:
    # A directory where the sum should go: an error that the child does not expect.
    ciphertext = tmp_path / "out"
    ciphertext.mkdir()
    public = PublicContext(worker._context.read_bytes(), worker._secure_sum)
    blob = _blob(tmp_path, 1, public.encrypt(np.zeros(8, np.uint64)))
    with pytest.raises(WorkerDied):
        worker.add([blob], ciphertext)


def test_the_serving_process_does_not_need_to_parse() -> None:
    """Importing the parent's side loads no TenSEAL; the child alone does."""
    code = (
        "import sys, fedhelp_server.aggregator.sum_worker, fedhelp_server.aggregator.commands;"
        "sys.exit('tenseal' in sys.modules or 'grpc' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
