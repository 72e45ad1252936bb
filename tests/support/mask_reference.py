"""Masks computed from RFC 5869, RFC 8439 and RFC 8785 with the standard library alone.

An independent implementation, slow and plain: it makes ``tests/core/secure_sum/mask_vectors.json``
(``python tests/support/mask_reference.py > tests/core/secure_sum/mask_vectors.json``), and the
product is compared with that file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
from typing import Any

_CASES = (
    {"seed": "00" * 32, "round": 1, "hospital": "large-1", "values": 20, "ring_bits": 32},
    {"seed": "00" * 32, "round": 2, "hospital": "large-1", "values": 4, "ring_bits": 32},
    {"seed": "00" * 32, "round": 1, "hospital": "large-2", "values": 4, "ring_bits": 32},
    {"seed": "ff" * 32, "round": 1, "hospital": "small-1", "values": 5, "ring_bits": 33},
    {"seed": "ab" * 32, "round": 3, "hospital": "small-1", "values": 7, "ring_bits": 24},
    {"seed": "0123456789abcdef" * 4, "round": 1, "hospital": "a", "values": 33, "ring_bits": 48},
)


def block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """One 64-byte ChaCha20 block (RFC 8439, section 2.3)."""
    initial = [
        *struct.unpack("<4I", b"expand 32-byte k"),
        *struct.unpack("<8I", key),
        counter,
        *struct.unpack("<3I", nonce),
    ]
    state = list(initial)
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            _quarter(
                state, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4
            )
    words = [(now + then) & 0xFFFFFFFF for now, then in zip(state, initial, strict=True)]
    return struct.pack("<16I", *words)


def mask(case: dict[str, Any]) -> list[int]:
    """The mask of one case of the vectors file."""
    info = json.dumps(
        {
            "charter": case["charter"],
            "domain": "fedhelp-secure/v1/mask",
            "hospital": case["hospital"],
            "ring_bits": case["ring_bits"],
            "round": case["round"],
            "values": case["values"],
        },
        separators=(",", ":"),
        sort_keys=True,
    ).encode()
    extracted = hmac.digest(bytes(32), bytes.fromhex(case["seed"]), "sha256")
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    width = 4 if case["ring_bits"] <= 32 else 8
    needed = case["values"] * width
    stream = b"".join(block(key, number, bytes(12)) for number in range(-(-needed // 64)))
    return [
        int.from_bytes(stream[start : start + width], "little") % 2 ** case["ring_bits"]
        for start in range(0, needed, width)
    ]


def vectors() -> dict[str, Any]:
    """The whole vectors file."""
    charter = "sha256:" + hashlib.sha256(b"vectors").hexdigest()
    cases: list[dict[str, Any]] = [{"charter": charter, **case} for case in _CASES]
    return {
        "provenance": (
            "Made by tests/support/mask_reference.py, which implements RFC 5869 and RFC 8439 with "
            "the Python standard library alone; its ChaCha20 block is checked against RFC 8439, "
            "section 2.3.2."
        ),
        "vectors": [case | {"mask": mask(case)} for case in cases],
    }


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for left, right, target, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[left] = (state[left] + state[right]) & 0xFFFFFFFF
        mixed = state[target] ^ state[left]
        state[target] = ((mixed << shift) | (mixed >> (32 - shift))) & 0xFFFFFFFF


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=2)
    sys.stdout.write("\n")
