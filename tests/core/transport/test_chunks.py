from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.transport.chunks import CHUNK_BYTES, collect, split


@given(st.integers(0, 3 * CHUNK_BYTES + 2))
def test_what_is_split_can_be_collected(size: int) -> None:
    data = b"\xa5" * size
    parts = list(split(data))
    assert all(1 <= len(part) <= CHUNK_BYTES for part in parts)
    assert collect(parts, limit=size) == data


def test_nothing_is_no_chunk() -> None:
    assert list(split(b"")) == []
    assert collect([], limit=0) == b""


@pytest.mark.parametrize(
    "parts",
    [[b"abc", b""], [b""], [b"ab", b"cd", b"e"], [b"x" * (CHUNK_BYTES + 1)]],
    ids=["empty last", "empty only", "above the limit", "above a chunk"],
)
def test_bad_streams_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(MalformedMessage):
        collect(parts, limit=4)


def test_an_endless_stream_is_cut_off_at_the_limit() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1000)

    with pytest.raises(MalformedMessage, match="longer than the 5000 bytes"):
        collect(endless(), limit=5000)
    assert taken == 6
