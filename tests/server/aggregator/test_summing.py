"""The sum of stored ciphertexts: exact, in bounded memory, and only of what was accepted."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_secure.charter import SecureSum
from fedhelp_secure.secure_sum.residues import MODULUS
from fedhelp_server.aggregator.blobs import READ_BYTES, BlobDamaged, DirectoryBlobs
from fedhelp_server.aggregator.driver import summed

FRAMES = 64
WINDOWS = 10
"""The bound: the part just read, each weight's sum so far, and numpy's temporaries while residues
are multiplied and reduced, all as long as a part (two weights: measured 9.1)."""


def secure_sum(frames: int) -> SecureSum:
    return SecureSum(
        values=2 * (4096 * frames - 4),
        check_elements=4,
        ring_bits=16,
        lanes=2,
        packed_bits=32,
        fraction_bits=12,
        scale_bits=22,
    )


def put(blobs: DirectoryBlobs, data: bytes) -> str:
    with blobs.incoming() as incoming:
        incoming.write(data)
        incoming.finish()
        return blobs.keep(incoming)


def residues(seed: int, frames: int) -> bytes:
    generator = np.random.default_rng(seed)
    return generator.integers(0, MODULUS, 2 * 4096 * frames, dtype=np.uint64).tobytes()


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.integers(1, 64), min_size=1, max_size=5),
    frames=st.sampled_from([1, 2, 16, 17]),
    seed=st.integers(0, 1 << 30),
)
def test_the_sum_is_that_of_the_residues(
    tmp_path_factory: pytest.TempPathFactory, weights: list[int], frames: int, seed: int
) -> None:
    blobs = DirectoryBlobs(tmp_path_factory.mktemp("blobs") / "blobs")
    ciphertexts = [residues(seed + number, frames) for number in range(len(weights))]
    parts = [(weight, put(blobs, one)) for weight, one in zip(weights, ciphertexts, strict=True)]
    total = b"".join(summed(parts, blobs, secure_sum(frames)))
    expected = sum(
        weight * np.frombuffer(one, np.uint64).astype(object)
        for weight, one in zip(weights, ciphertexts, strict=True)
    )
    assert np.array_equal(np.frombuffer(total, np.uint64).astype(object), expected % MODULUS)


def peak(directory: Path, hospitals: int, frames: int) -> int:
    """Bytes that summing the ciphertexts of so many hospitals needs at most, all together."""
    blobs = DirectoryBlobs(directory / "blobs")
    names = [put(blobs, residues(seed, frames)) for seed in (1, 2)]
    weighted = zip(itertools.cycle((1, 2, 2)), itertools.cycle(names), strict=True)
    parts = list(itertools.islice(weighted, hospitals))
    tracemalloc.start()
    try:
        windows = sum(1 for _ in summed(parts, blobs, secure_sum(frames)))
        assert windows == frames * secure_sum(1).frame_bytes // READ_BYTES
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_depends_neither_on_hospitals_nor_on_length(tmp_path: Path) -> None:
    few, many, long = (
        peak(tmp_path, hospitals, frames)
        for hospitals, frames in ((8, FRAMES), (32, FRAMES), (8, 4 * FRAMES))
    )
    assert max(few, many, long) < WINDOWS * READ_BYTES
    # Twenty-four more hospitals are twenty-four more open files, not twenty-four more windows.
    assert many - few < READ_BYTES
    assert long - few < READ_BYTES // 8


@pytest.mark.parametrize("place", [0, -1])
def test_a_residue_that_went_out_of_range_is_damage(tmp_path: Path, place: int) -> None:
    """Not a refused contribution: it was checked when it came."""
    blobs = DirectoryBlobs(tmp_path / "blobs")
    names = [put(blobs, residues(seed, 1)) for seed in (1, 2)]
    spoiled = np.frombuffer(blobs.path(names[1]).read_bytes(), np.uint64).copy()
    spoiled[place] = MODULUS
    blobs.path(names[1]).write_bytes(spoiled.tobytes())
    with pytest.raises(BlobDamaged, match="restore"):
        list(summed([(1, name) for name in names], blobs, secure_sum(1)))


@pytest.mark.parametrize("keep", [0, 1, 16, 19])
def test_a_ciphertext_that_lost_frames_is_damage(tmp_path: Path, keep: int) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    names = [put(blobs, residues(seed, 20)) for seed in (1, 2, 3)]
    for damaged in names:
        whole = blobs.path(damaged).read_bytes()
        blobs.path(damaged).write_bytes(whole[: keep * secure_sum(1).frame_bytes])
        with pytest.raises(BlobDamaged):
            list(summed([(1, name) for name in names], blobs, secure_sum(20)))
        blobs.path(damaged).write_bytes(whole)


def test_a_ciphertext_with_another_number_in_range_is_damage(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    names = [put(blobs, residues(seed, 1)) for seed in (1, 2)]
    blobs.path(names[0]).write_bytes(residues(3, 1))
    with pytest.raises(BlobDamaged):
        list(summed([(1, name) for name in names], blobs, secure_sum(1)))
