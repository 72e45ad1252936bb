from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from support.federation import Federation
from support.secure_sum import encrypt_reals, residues_out_of_range
from support.sums import public_context

from fedhelp_keys.custodian.decryption import MEMORY_BYTES, DecryptionFailed, DecryptionWorker
from fedhelp_keys.custodian.key_files import FIRST, secret_path
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.secure_sum.ckks import NotAnInteger
from fedhelp_secure.secure_sum.residues import CiphertextRefused

FRAMES_A_CHUNK = 16


@pytest.fixture(scope="module")
def secure_sum(shared_federation: Federation) -> SecureSum:
    return shared_federation.charter.secure_sum


@pytest.fixture(scope="module")
def expected(secure_sum: SecureSum) -> list[int]:
    """A full frame with the largest and the smallest element in it."""
    top = (1 << secure_sum.packed_bits) - 1
    elements = np.random.default_rng(3).integers(0, top, 4096, dtype=np.uint64, endpoint=True)
    elements[:4] = [0, 1, top, top // 2]
    return [int(element) for element in elements]


@pytest.fixture(scope="module")
def frame(shared_federation: Federation, expected: list[int]) -> bytes:
    return public_context(shared_federation).encrypt_frame(np.array(expected, dtype=np.uint64))


@pytest.fixture(scope="module")
def worker(shared_federation: Federation) -> Iterator[DecryptionWorker]:
    running = DecryptionWorker()
    yield running
    running.close()


@pytest.fixture(scope="module")
def secret(shared_federation: Federation) -> bytes:
    state = shared_federation.state("decryptor")
    return state.read_secret(secret_path(state, FIRST))


Open = Callable[..., list[list[int]]]


@pytest.fixture(scope="module")
def opened(secret: bytes) -> Open:
    """Every frame that a worker decrypts of chunks."""

    def open_all(
        worker: DecryptionWorker, secure_sum: SecureSum, *chunks: bytes
    ) -> list[list[int]]:
        frames = worker.decrypt(chunks, secure_sum, secret=secret)
        return [elements.tolist() for elements in frames]

    return open_all


def _child(worker: DecryptionWorker) -> int:
    child = worker.process_id
    assert child not in (None, os.getpid())
    assert child is not None
    return child


def test_one_child_serves_many_sums_frame_by_frame(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
) -> None:
    assert opened(worker, secure_sum, frame) == [expected]
    child = _child(worker)
    assert opened(worker, secure_sum, frame * FRAMES_A_CHUNK, frame) == [expected] * 17
    assert opened(worker, secure_sum) == []
    assert worker.process_id == child


def test_chunks_are_read_only_as_their_frames_are_taken(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    secret: bytes,
) -> None:
    read = []

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            read.append(number)
            yield frame

    frames = worker.decrypt(chunks(), secure_sum, secret=secret)
    for _ in range(5):
        next(frames)
    assert len(read) == 5
    frames.close()


def test_a_consumer_that_stops_early_leaves_the_worker_free_and_in_step(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
    secret: bytes,
) -> None:
    frames = worker.decrypt([frame * 3, frame], secure_sum, secret=secret)
    next(frames)
    child = worker.process_id
    frames.close()
    other = secure_sum.model_copy(update={"scale_bits": secure_sum.scale_bits + 1})
    with pytest.raises(NotAnInteger):
        # Half of every number, under a scale twice as large.
        opened(worker, other, frame)
    assert opened(worker, secure_sum, frame) == [expected]
    assert worker.process_id == child


def test_one_sum_at_a_time(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
    secret: bytes,
) -> None:
    first = worker.decrypt([frame, frame], secure_sum, secret=secret)
    next(first)
    second: list[list[list[int]]] = []
    thread = threading.Thread(target=lambda: second.append(opened(worker, secure_sum, frame)))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert next(first).tolist() == expected
    first.close()
    thread.join(60)
    assert second == [[expected]]


def test_what_is_no_ciphertext_is_refused_and_the_next_sum_works(
    shared_federation: Federation,
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
) -> None:
    for wrong in (b"x", frame[:-1], frame + b"x" * 8, residues_out_of_range(frame)):
        with pytest.raises(CiphertextRefused):
            opened(worker, secure_sum, wrong)
    with pytest.raises(NotAnInteger):
        opened(worker, secure_sum, encrypt_reals(shared_federation, shared_federation.charter, 0.5))
    assert opened(worker, secure_sum, frame) == [expected]


def test_random_residues_never_kill_the_child(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
) -> None:
    opened(worker, secure_sum, frame)
    child = worker.process_id
    generator = np.random.default_rng(4)
    for _ in range(20):
        words = generator.integers(0, 1 << 59, 2 * 4096, dtype=np.uint64)
        with pytest.raises(NotAnInteger):
            opened(worker, secure_sum, words.astype("<u8").tobytes())
    assert opened(worker, secure_sum, frame) == [expected]
    assert worker.process_id == child


def test_a_child_that_died_between_sums_is_replaced(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
) -> None:
    opened(worker, secure_sum, frame)
    child = _child(worker)
    os.kill(child, signal.SIGSEGV)
    # The death may be noticed before the sum is sent or after; it must be noticed only once.
    try:
        assert opened(worker, secure_sum, frame) == [expected]
    except CiphertextRefused:
        assert opened(worker, secure_sum, frame) == [expected]
    assert worker.process_id != child


def test_a_child_that_dies_on_a_chunk_takes_nothing_else_along(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
    secret: bytes,
) -> None:
    frames = worker.decrypt([frame, frame * FRAMES_A_CHUNK], secure_sum, secret=secret)
    assert next(frames).tolist() == expected
    child = _child(worker)
    os.kill(child, signal.SIGSTOP)
    killer = Timer(0.3, os.kill, (child, signal.SIGKILL))
    killer.start()
    with pytest.raises(CiphertextRefused):
        next(frames)
    killer.join()
    assert opened(worker, secure_sum, frame) == [expected]


@pytest.mark.parametrize("frames_a_chunk", [1, FRAMES_A_CHUNK])
def test_a_child_that_stalls_is_ended(
    shared_federation: Federation,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    frames_a_chunk: int,
    opened: Open,
    secret: bytes,
) -> None:
    """A long chunk does not fit the pipe: then it is the sending that stalls."""
    worker = DecryptionWorker()
    frames = worker.decrypt([frame, frame * frames_a_chunk], secure_sum, secret=secret)
    assert next(frames).tolist() == expected
    child = _child(worker)
    os.kill(child, signal.SIGSTOP)
    worker.limit_seconds = 0.2
    with pytest.raises(CiphertextRefused):
        next(frames)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    worker.limit_seconds = 60
    assert opened(worker, secure_sum, frame) == [expected]
    worker.close()


def test_the_child_writes_no_core_and_has_bounded_memory(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    opened: Open,
) -> None:
    opened(worker, secure_sum, frame)
    child = _child(worker)
    assert resource.prlimit(child, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(child, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)


def test_a_child_that_runs_out_of_memory_is_refused_and_replaced(
    worker: DecryptionWorker,
    secure_sum: SecureSum,
    frame: bytes,
    expected: list[int],
    opened: Open,
) -> None:
    opened(worker, secure_sum, frame)
    child = _child(worker)
    pages = int(Path(f"/proc/{child}/statm").read_text().split()[0])
    taken = pages * resource.getpagesize()
    # No more than it has: the next large array does not fit.
    resource.prlimit(child, resource.RLIMIT_AS, (taken, MEMORY_BYTES))
    worker.limit_seconds = 1
    with pytest.raises(CiphertextRefused):
        opened(worker, secure_sum, frame * FRAMES_A_CHUNK)
    worker.limit_seconds = 60
    assert opened(worker, secure_sum, frame) == [expected]
    assert worker.process_id != child


def test_a_secret_context_that_cannot_be_used_is_our_own_fault(
    shared_federation: Federation, secure_sum: SecureSum, frame: bytes, tmp_path: Path
) -> None:
    state = shared_federation.state("decryptor")
    public = state.role_directory() / "context.public"
    for secret in (b"", public.read_bytes()):
        worker = DecryptionWorker()
        with pytest.raises(DecryptionFailed):
            list(worker.decrypt([frame], secure_sum, secret=secret))
        worker.close()
        assert worker.process_id is None
