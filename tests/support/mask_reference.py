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

DOMAIN = "fedhelp-secure/v1/mask"
_SEED = "0123456789abcdef" * 4
_CASES = (
    {"seed": "00" * 32, "round": 1, "hospital": "large-1", "elements": 20, "packed_bits": 36},
    {"seed": "00" * 32, "round": 2, "hospital": "large-1", "elements": 4, "packed_bits": 36},
    {"seed": "00" * 32, "round": 1, "hospital": "large-2", "elements": 4, "packed_bits": 36},
    {"seed": "ff" * 32, "round": 1, "hospital": "small-1", "elements": 5, "packed_bits": 8},
    {"seed": "ff" * 32, "round": 1, "hospital": "small-1", "elements": 5, "packed_bits": 15},
    {"seed": "ab" * 32, "round": 3, "hospital": "small-1", "elements": 7, "packed_bits": 24},
    {"seed": "ab" * 32, "round": 3, "hospital": "small-1", "elements": 7, "packed_bits": 32},
    {"seed": _SEED, "round": 1, "hospital": "a", "elements": 33, "packed_bits": 40},
    {"seed": _SEED, "round": 1, "hospital": "a", "elements": 33, "packed_bits": 45},
)
_UNMASKERS = ("unmasker", "unmasker-2")


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


def key_stream(key: bytes, length: int) -> bytes:
    """The first ``length`` bytes of ChaCha20 with nonce and counter zero (RFC 8439)."""
    blocks = [block(key, number, bytes(12)) for number in range(-(-length // 64))]
    return b"".join(blocks)[:length]


def derive(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869) without salt."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    output, last = b"", b""
    while len(output) < length:
        last = hmac.digest(extracted, last + info + bytes([len(output) // 32 + 1]), "sha256")
        output += last
    return output[:length]


def canonical(document: dict[str, Any]) -> bytes:
    """RFC 8785 of a flat object of ASCII strings and small whole numbers."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def mask(case: dict[str, Any]) -> list[int]:
    """The stream of one case of the vectors file."""
    names = ("charter", "round", "hospital", "unmasker", "elements", "packed_bits")
    info = canonical({"domain": DOMAIN} | {name: case[name] for name in names})
    key = derive(bytes.fromhex(case["seed"]), info, 32)
    width = -(-case["packed_bits"] // 8)
    stream = key_stream(key, case["elements"] * width)
    return [
        int.from_bytes(stream[start : start + width], "little") % 2 ** case["packed_bits"]
        for start in range(0, len(stream), width)
    ]


def vectors() -> dict[str, Any]:
    """The whole vectors file."""
    charter = "sha256:" + hashlib.sha256(b"vectors").hexdigest()
    cases: list[dict[str, Any]] = [
        {"charter": charter, "unmasker": unmasker, **case}
        for case in _CASES
        for unmasker in _UNMASKERS
    ]
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
