from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.bodies import (
    AnswerRefused,
    body_bytes,
    frame_sizes,
    read_body,
    write_body,
)
from fedhelp_secure.secure_sum.ring import OutsideRing

KEY, DATA = bytes(range(32)), b"what it is bound to"
SECURE_SUM = SecureSum(
    values=24_500,
    check_elements=4,
    ring_bits=15,
    lanes=2,
    packed_bits=32,
    fraction_bits=12,
    scale_bits=22,
)
FULL = 4096 * 4 + 16
"""Bytes of a full segment: words of 32 bits take four."""


def _frames(secure_sum: SecureSum = SECURE_SUM) -> list[NDArray[np.uint64]]:
    generator = np.random.default_rng(5)
    top = 2**secure_sum.packed_bits
    return [generator.integers(0, top, n, dtype=np.uint64) for n in frame_sizes(secure_sum)]


def _write(out: Path, frames: list[NDArray[np.uint64]], secure_sum: SecureSum = SECURE_SUM) -> str:
    return write_body(frames, out, secure_sum=secure_sum, key=KEY, associated_data=DATA)


def _read(
    body: Path,
    secure_sum: SecureSum = SECURE_SUM,
    *,
    key: bytes = KEY,
    associated_data: bytes = DATA,
) -> list[list[int]]:
    read = read_body(body, secure_sum=secure_sum, key=key, associated_data=associated_data)
    return [frame.tolist() for frame in read]


@pytest.fixture
def body(tmp_path: Path) -> Path:
    _write(tmp_path / "body", _frames())
    return tmp_path / "body"


@pytest.mark.parametrize(
    ("values", "ring_bits", "lanes", "sizes"),
    [
        (1, 15, 2, [5]),
        (8, 8, 1, [12]),
        (8184, 15, 2, [4096]),
        (8185, 15, 2, [4096, 1]),
        (16_376, 15, 2, [4096, 4096]),
        (40_000, 12, 3, [4096, 4096, 4096, 1050]),
    ],
)
def test_bodies_of_every_number_of_segments_open_to_what_was_written(
    tmp_path: Path, values: int, ring_bits: int, lanes: int, sizes: list[int]
) -> None:
    secure_sum = SECURE_SUM.model_copy(
        update={
            "values": values,
            "ring_bits": ring_bits,
            "lanes": lanes,
            "packed_bits": ring_bits * lanes,
        }
    )
    assert frame_sizes(secure_sum) == sizes
    frames = _frames(secure_sum)
    named = _write(tmp_path / "body", frames, secure_sum)
    data = (tmp_path / "body").read_bytes()
    assert named == digest(data)
    assert len(data) == body_bytes(secure_sum)
    assert _read(tmp_path / "body", secure_sum) == [frame.tolist() for frame in frames]


def test_nothing_is_in_the_clear(tmp_path: Path) -> None:
    frames = [np.full(n, 0x2BADCAFE, dtype=np.uint64) for n in frame_sizes(SECURE_SUM)]
    _write(tmp_path / "body", frames)
    data = (tmp_path / "body").read_bytes()
    assert b"\xfe\xca\xad\x2b" not in data
    # Equal frames under one key: other nonces, other bytes.
    assert data[:FULL] != data[FULL : 2 * FULL]


def _segments(data: bytes) -> list[bytes]:
    return [data[:FULL], data[FULL : 2 * FULL], data[2 * FULL :]]


ALTERATIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a byte less": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\0",
    "the first segment dropped": lambda data: data[FULL:],
    "the last segment dropped": lambda data: data[: 2 * FULL],
    "two segments reordered": lambda data: (
        _segments(data)[1] + _segments(data)[0] + _segments(data)[2]
    ),
    "a segment repeated": lambda data: _segments(data)[0] + _segments(data)[0] + _segments(data)[2],
    "a segment more": lambda data: data[:FULL] + data,
    "the first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "the last bit": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "a bit of the middle": lambda data: (
        data[: FULL + 9] + bytes([data[FULL + 9] ^ 4]) + data[FULL + 10 :]
    ),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_refuses_an_altered_body(body: Path, name: str) -> None:
    altered = ALTERATIONS[name](body.read_bytes())
    assert altered != body.read_bytes()
    body.write_bytes(altered)
    with pytest.raises(AnswerRefused):
        _read(body)


def test_a_body_does_not_end_early_where_a_full_segment_would_be_the_last(tmp_path: Path) -> None:
    """The flag on the last segment: a longer body's beginning is no shorter body."""
    longer = SECURE_SUM.model_copy(update={"values": 3 * 8192 - 8})
    shorter = SECURE_SUM.model_copy(update={"values": 2 * 8192 - 8})
    _write(tmp_path / "body", _frames(longer), longer)
    (tmp_path / "cut").write_bytes((tmp_path / "body").read_bytes()[: 2 * FULL])
    assert body_bytes(shorter) == 2 * FULL
    with pytest.raises(AnswerRefused):
        _read(tmp_path / "cut", shorter)


def test_segments_of_another_body_under_the_same_key_do_not_fit(body: Path, tmp_path: Path) -> None:
    """Never done, but a key that is bound to other data is another body's."""
    write_body(
        _frames(), tmp_path / "other", secure_sum=SECURE_SUM, key=KEY, associated_data=b"other"
    )
    mixed = body.read_bytes()[:FULL] + (tmp_path / "other").read_bytes()[FULL:]
    body.write_bytes(mixed)
    with pytest.raises(AnswerRefused):
        _read(body)


@pytest.mark.parametrize("key", [bytes(32), b"", bytes(16), KEY + b"\0"])
def test_refuses_another_key(body: Path, key: bytes) -> None:
    with pytest.raises(AnswerRefused):
        _read(body, key=key)


def test_refuses_other_associated_data(body: Path) -> None:
    with pytest.raises(AnswerRefused):
        _read(body, associated_data=b"something else")


def test_refuses_elements_outside_the_ring_even_under_the_right_key(tmp_path: Path) -> None:
    narrower = SECURE_SUM.model_copy(update={"packed_bits": 30})
    frames = [np.full(n, 2**30, dtype=np.uint64) for n in frame_sizes(SECURE_SUM)]
    _write(tmp_path / "body", frames)
    with pytest.raises(MalformedMessage, match="outside the ring"):
        _read(tmp_path / "body", narrower)


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames[:-1],
        lambda frames: [*frames, frames[-1]],
        lambda frames: frames[::-1],
        lambda frames: [frames[0][:-1], *frames[1:]],
        lambda frames: [],
    ],
)
def test_refuses_to_write_other_frames_than_the_charters(
    tmp_path: Path,
    change: Callable[[list[NDArray[np.uint64]]], list[NDArray[np.uint64]]],
) -> None:
    with pytest.raises(AnswerRefused):
        _write(tmp_path / "body", change(_frames()))


def test_refuses_to_write_elements_outside_the_ring(tmp_path: Path) -> None:
    frames = _frames()
    frames[1][7] = 2**32
    with pytest.raises(OutsideRing):
        _write(tmp_path / "body", frames)


def test_never_writes_over_a_file(body: Path) -> None:
    with pytest.raises(FileExistsError):
        _write(body, _frames())
