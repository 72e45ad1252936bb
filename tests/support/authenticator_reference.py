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

COEFFICIENTS = "fedhelp-secure/v1/authenticator-coefficients"
PAD = "fedhelp-secure/v1/authenticator-pad"

_CASES = (
    {
        "key": "00" * 32,
        "round": 1,
        "packed_bits": 32,
        "tags": 4,
        "weights": {"large-1": 2, "small-1": 1},
        "releases": {"large-1": [0, 0, 0, 0], "small-1": [1, -1, 2**24 - 1, -(2**24)]},
    },
    {
        "key": "ff" * 32,
        "round": 2,
        "packed_bits": 40,
        "tags": 3,
        "weights": {"large-1": 64, "large-2": 64, "small-1": 1},
        "releases": {"large-1": [1, 2, 3], "large-2": [-4, 5, -6], "small-1": [0, 0, 1]},
    },
    {
        "key": "0123456789abcdef" * 4,
        "round": 1,
        "packed_bits": 9,
        "tags": 30,
        "weights": {"a": 3, "b": 2},
        "releases": {"a": [127, -128], "b": [-1, 1]},
    },
    {
        "key": "0123456789abcdef" * 4,
        "round": 100,
        "packed_bits": 33,
        "tags": 15,
        "weights": {"a": 1},
        "releases": {"a": [2**29 - 1, -(2**29), 12345, -54321, 0, 7, -7, 1, 1]},
    },
)


def coefficients(case: dict[str, Any], values: int) -> list[list[int]]:
    """One list of ``values`` coefficients for each tag."""
    info = canonical({"domain": COEFFICIENTS, "charter": case["charter"], "round": case["round"]})
    width, tags = -(-case["packed_bits"] // 8), case["tags"]
    stream = key_stream(derive(bytes.fromhex(case["key"]), info, 32), width * tags * values)
    words = [
        int.from_bytes(stream[at : at + width], "little") % 2 ** case["packed_bits"]
        for at in range(0, width * tags * values, width)
    ]
    return [words[tag::tags] for tag in range(tags)]


def pads(case: dict[str, Any], hospital: str) -> list[int]:
    """One for each tag."""
    document = {
        "domain": PAD,
        "charter": case["charter"],
        "round": case["round"],
        "hospital": hospital,
    }
    data = derive(bytes.fromhex(case["key"]), canonical(document), 8 * case["tags"])
    return [
        int.from_bytes(data[at : at + 8], "little") % 2 ** case["packed_bits"]
        for at in range(0, 8 * case["tags"], 8)
    ]


def tags(case: dict[str, Any], hospital: str) -> list[int]:
    """All tags of one hospital's release."""
    release = case["releases"][hospital]
    return [
        (sum(a * x for a, x in zip(row, release, strict=True)) + pad) % 2 ** case["packed_bits"]
        for row, pad in zip(coefficients(case, len(release)), pads(case, hospital), strict=True)
    ]


def _vector(case: dict[str, Any]) -> dict[str, Any]:
    (length,) = {len(release) for release in case["releases"].values()}
    expected = {
        name: {"pads": pads(case, name), "tags": tags(case, name)} for name in case["releases"]
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
