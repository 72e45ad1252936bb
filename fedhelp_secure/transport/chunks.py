"""Long byte strings as streams of chunks, within the message limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from fedhelp_secure.errors import MalformedMessage

CHUNK_BYTES = 1024 * 1024
"""The longest chunk that the wire contract allows."""


def split(data: bytes) -> Iterator[bytes]:
    """``data`` in chunks of CHUNK_BYTES, the last one shorter; none at all for no data."""
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def read_chunks(path: Path, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The file at ``path`` in chunks of ``size``, one of them in memory at a time.

    The file is open only while a chunk is read: gRPC drops the iterator of a broken call without
    closing it.
    """
    for start in count(0, size):
        with path.open("rb") as file:
            file.seek(start)
            chunk = file.read(size)
        if not chunk:
            return
        yield chunk


def collect(parts: Iterable[bytes], *, limit: int) -> bytes:
    """``parts`` joined.

    Raises MalformedMessage as soon as they exceed ``limit`` bytes, so that no peer can fill our
    memory, and for an empty chunk or one above CHUNK_BYTES.
    """
    joined = bytearray()
    for part in parts:
        if not 1 <= len(part) <= CHUNK_BYTES:
            raise MalformedMessage("a chunk must have 1 byte to 1 MiB; send the data again.")
        if len(joined) + len(part) > limit:
            raise MalformedMessage(
                f"a stream is longer than the {limit} bytes that fit here; send what is asked for."
            )
        joined += part
    return bytes(joined)
