"""The authenticator computed with the standard library alone, from its description.

An independent implementation, slow and plain, on `support.mask_reference`'s ChaCha20 and HKDF: it
makes ``tests/core/secure_sum/authenticator_vectors.json``
(``PYTHONPATH=tests python tests/support/authenticator_reference.py`` prints it), and the product is
compared with that file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from support.mask_reference import canonical, derive, key_stream

PRIME = 2**31 - 1
COEFFICIENTS = "fedhelp-secure/v1/authenticator-coefficients"
PAD = "fedhelp-secure/v1/authenticator-pad"

_CASES = (
    {
        "key": "00" * 32,
        "round": 1,
        "ring_bits": 25,
        "weights": {"large-1": 2, "small-1": 1},
        "releases": {"large-1": [0, 0, 0, 0], "small-1": [1, -1, 2**24 - 1, -(2**24)]},
    },
    {
        "key": "ff" * 32,
        "round": 2,
        "ring_bits": 25,
        "weights": {"large-1": 64, "large-2": 64, "small-1": 1},
        "releases": {"large-1": [1, 2, 3], "large-2": [-4, 5, -6], "small-1": [0, 0, 1]},
    },
    {
        "key": "0123456789abcdef" * 4,
        "round": 1,
        "ring_bits": 8,
        "weights": {"a": 3, "b": 2},
        "releases": {"a": [127, -128], "b": [-1, 1]},
    },
    {
        "key": "0123456789abcdef" * 4,
        "round": 100,
        "ring_bits": 30,
        "weights": {"a": 1},
        "releases": {"a": [2**29 - 1, -(2**29), 12345, -54321, 0, 7, -7, 1, 1]},
    },
)


def coefficients(case: dict[str, Any], values: int) -> list[list[int]]:
    """One list for each of the two tags."""
    info = canonical({"domain": COEFFICIENTS, "charter": case["charter"], "round": case["round"]})
    stream = key_stream(derive(bytes.fromhex(case["key"]), info, 32), 8 * values)
    words = [
        int.from_bytes(stream[at : at + 4], "little") % 2**31 for at in range(0, len(stream), 4)
    ]
    return [words[0::2], words[1::2]]


def pads(case: dict[str, Any], hospital: str) -> list[int]:
    """One for each of the two tags."""
    document = {
        "domain": PAD,
        "charter": case["charter"],
        "round": case["round"],
        "hospital": hospital,
    }
    data = derive(bytes.fromhex(case["key"]), canonical(document), 32)
    return [
        int.from_bytes(data[:16], "little") % PRIME,
        int.from_bytes(data[16:], "little") % PRIME,
    ]


def tags(case: dict[str, Any], hospital: str) -> list[int]:
    """Both tags of one hospital's release."""
    release = case["releases"][hospital]
    return [
        (sum(a * x for a, x in zip(row, release, strict=True)) + pad) % PRIME
        for row, pad in zip(coefficients(case, len(release)), pads(case, hospital), strict=True)
    ]


def digits(case: dict[str, Any], tag: int) -> list[int]:
    """``tag``, the lowest digit first; as many digits as 31 bits need."""
    bits = case["ring_bits"] - 1 - sum(case["weights"].values()).bit_length()
    written = []
    for _ in range(-(-31 // bits)):
        tag, digit = divmod(tag, 2**bits)
        written.append(digit)
    return written


def _vector(case: dict[str, Any]) -> dict[str, Any]:
    (length,) = {len(release) for release in case["releases"].values()}
    expected = {
        name: {
            "pads": pads(case, name),
            "tags": tags(case, name),
            "digits": [digit for tag in tags(case, name) for digit in digits(case, tag)],
        }
        for name in case["releases"]
    }
    return case | {"coefficients": coefficients(case, length), "hospitals": expected}


def vectors() -> dict[str, Any]:
    """The whole vectors file."""
    charter = "sha256:" + hashlib.sha256(b"vectors").hexdigest()
    return {
        "provenance": (
            "Made by tests/support/authenticator_reference.py with the Python standard library "
            "alone, on the ChaCha20 (RFC 8439) and HKDF-SHA256 (RFC 5869) of "
            "tests/support/mask_reference.py."
        ),
        "vectors": [_vector({"charter": charter, **case}) for case in _CASES],
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=2)
    sys.stdout.write("\n")
