"""A vector of any length goes through the custodians in a window of fixed length."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from support.charters import complete
from support.federation import Federation
from support.keys import rounds_begun
from support.secure_sum import contribute_all, members_for
from support.sums import public_context

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, parse_charter

VALUES = 600_000
WINDOW_BYTES = 6 << 20
"""A few chunks of 1 MiB; the vector is longer."""


@pytest.fixture
def long(federation: Federation) -> Charter:
    document = federation.charter.document() | {"name": f"{federation.charter.name}-long"}
    document["secure_sum"] = {"values": VALUES, "fraction_bits": 12}
    document["rounds"] = {"count": 1, "deadline_seconds": 60}
    document["cohort"] |= {"minimum": 2, "minimum_large": 0, "minimum_small": 0}
    charter = parse_charter(complete(document))
    assert charter.secure_sum.ciphertext_bytes > WINDOW_BYTES
    return charter


def _peak_of(act: Callable[[], object]) -> int:
    """Most bytes that Python and NumPy held at once during ``act``."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_decryptor_holds_a_window(
    federation: Federation, long: Charter, decryptor: DecryptorService
) -> None:
    zeros = np.zeros(long.secure_sum.polynomial_degree, dtype=np.uint64)
    frame = public_context(federation, long).encrypt_frame(zeros)
    sum_digest = digest(frame * long.secure_sum.frames)
    decryptor.epochs.begin(long, 1)
    parts = (frame for _ in range(long.secure_sum.frames))
    peak = _peak_of(lambda: decryptor.answer(long, 1, sum_digest=sum_digest, chunks=parts))
    assert peak < WINDOW_BYTES


def test_an_unmasker_holds_a_window(
    federation: Federation, long: Charter, unmaskers: Mapping[str, UnmaskerService], tmp_path: Path
) -> None:
    names = ["large-1", "small-1"]
    sent = contribute_all(federation, tmp_path / "long", hospitals=names, charter=long)
    members = members_for(long, "unmasker", sent)
    begun = rounds_begun(federation, long)
    peak = _peak_of(lambda: unmaskers["unmasker"].answer(long, 1, members, rounds_begun=begun))
    # The sum itself would be 8 bytes for each of 600,000 elements.
    assert peak < 1 << 20
