from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from support.federation import Federation
from support.secure_sum import coefficients_out_of_range, encrypt_reals, public_context

from fedhelp_keys.custodian.decryption import DecryptionFailed, DecryptionWorker
from fedhelp_keys.custodian.decryptor import secret_context_path
from fedhelp_secure.secure_sum.ckks import NotAnInteger
from fedhelp_secure.secure_sum.framing import CiphertextRefused

EXPECTED = [1, 2, 3, 4, 5, 6, 7, 2**32 - 1]


@pytest.fixture(scope="module")
def worker(shared_federation: Federation) -> Iterator[DecryptionWorker]:
    running = DecryptionWorker(secret_context_path(shared_federation.state("decryptor")))
    yield running
    running.close()


@pytest.fixture(scope="module")
def ciphertext(shared_federation: Federation) -> bytes:
    return public_context(shared_federation).encrypt(np.array(EXPECTED, dtype=np.uint64))


def _works(federation: Federation, worker: DecryptionWorker, ciphertext: bytes) -> None:
    opened = worker.decrypt(ciphertext, federation.charter.secure_sum)
    assert opened.tolist() == EXPECTED


def test_one_child_serves_many_sums(
    shared_federation: Federation, worker: DecryptionWorker, ciphertext: bytes
) -> None:
    _works(shared_federation, worker, ciphertext)
    child = worker.process_id
    assert child not in (None, os.getpid())
    _works(shared_federation, worker, ciphertext)
    assert worker.process_id == child


def test_what_tenseal_refuses_is_refused_and_the_next_sum_works(
    shared_federation: Federation, worker: DecryptionWorker, ciphertext: bytes
) -> None:
    secure_sum = shared_federation.charter.secure_sum
    with pytest.raises(CiphertextRefused):
        worker.decrypt(coefficients_out_of_range(ciphertext), secure_sum)
    with pytest.raises(NotAnInteger):
        worker.decrypt(encrypt_reals(shared_federation, [0.5]), secure_sum)
    _works(shared_federation, worker, ciphertext)


def test_headers_are_refused_before_the_child_sees_them(
    shared_federation: Federation, worker: DecryptionWorker, ciphertext: bytes
) -> None:
    _works(shared_federation, worker, ciphertext)
    child = worker.process_id
    for position in range(131):
        mutated = bytearray(ciphertext)
        mutated[position] ^= 0xFF
        with pytest.raises(CiphertextRefused):
            worker.decrypt(bytes(mutated), shared_federation.charter.secure_sum)
    assert worker.process_id == child


def test_a_child_that_died_between_sums_is_replaced(
    shared_federation: Federation, worker: DecryptionWorker, ciphertext: bytes
) -> None:
    _works(shared_federation, worker, ciphertext)
    child = worker.process_id
    assert child is not None
    os.kill(child, signal.SIGSEGV)
    # The death may be noticed before the sum is sent or after; it must be noticed only once.
    try:
        _works(shared_federation, worker, ciphertext)
    except CiphertextRefused:
        _works(shared_federation, worker, ciphertext)
    assert worker.process_id != child


def test_a_child_that_dies_on_a_sum_takes_nothing_else_along(
    shared_federation: Federation, worker: DecryptionWorker, ciphertext: bytes
) -> None:
    _works(shared_federation, worker, ciphertext)
    child = worker.process_id
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    killer = Timer(0.3, os.kill, (child, signal.SIGKILL))
    killer.start()
    with pytest.raises(CiphertextRefused):
        worker.decrypt(ciphertext, shared_federation.charter.secure_sum)
    killer.join()
    _works(shared_federation, worker, ciphertext)


def test_a_child_that_stalls_is_ended(shared_federation: Federation, ciphertext: bytes) -> None:
    secret = secret_context_path(shared_federation.state("decryptor"))
    worker = DecryptionWorker(secret)
    _works(shared_federation, worker, ciphertext)
    child = worker.process_id
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    worker.start_seconds = 0.2
    with pytest.raises(CiphertextRefused):
        worker.decrypt(ciphertext, shared_federation.charter.secure_sum)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    worker.close()


def test_a_secret_context_that_cannot_be_used_is_our_own_fault(
    shared_federation: Federation, ciphertext: bytes, tmp_path: Path
) -> None:
    worker = DecryptionWorker(tmp_path / "missing")
    with pytest.raises(DecryptionFailed):
        worker.decrypt(ciphertext, shared_federation.charter.secure_sum)
    worker.close()
    assert worker.process_id is None
