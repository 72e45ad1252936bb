from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import mask_reference

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.masks import draw_seed, expand_mask, seed_info

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("mask_vectors.json").read_text())
FIELDS: dict[str, Any] = {
    "charter_digest": digest(b"a charter"),
    "round_number": 1,
    "hospital": "large-1",
    "values": 64,
    "ring_bits": 32,
}


def test_the_reference_agrees_with_the_block_of_rfc_8439() -> None:
    block = mask_reference.block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert block.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_vectors_are_what_the_reference_makes() -> None:
    assert mask_reference.vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["vectors"])
def test_masks_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    mask = expand_mask(
        bytes.fromhex(vector["seed"]),
        charter_digest=vector["charter"],
        round_number=vector["round"],
        hospital=vector["hospital"],
        values=vector["values"],
        ring_bits=vector["ring_bits"],
    )
    assert mask.tolist() == vector["mask"]


@pytest.mark.parametrize(
    "change",
    [
        {"charter_digest": digest(b"another charter")},
        {"round_number": 2},
        {"hospital": "large-2"},
        {"values": 65},
        {"ring_bits": 31},
    ],
)
def test_every_field_separates_the_streams(change: dict[str, Any]) -> None:
    seed = bytes(32)
    mask = expand_mask(seed, **FIELDS)
    other = expand_mask(seed, **(FIELDS | change))[:64]
    low_bits = np.uint64(2**31 - 1)
    assert np.mean((mask & low_bits) == (other & low_bits)) < 0.1


def test_seeds_are_fresh() -> None:
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert {len(seed) for seed in seeds} == {32}


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_refuses_seeds_of_another_length(length: int) -> None:
    with pytest.raises(MalformedMessage):
        expand_mask(bytes(length), **FIELDS)


def test_the_sealing_context_names_charter_round_hospital_and_ciphertext() -> None:
    fields: dict[str, Any] = {
        "charter_digest": digest(b"a charter"),
        "round_number": 1,
        "hospital": "large-1",
        "ciphertext_digest": digest(b"a ciphertext"),
    }
    changes: list[dict[str, Any]] = [
        {},
        {"charter_digest": digest(b"another charter")},
        {"round_number": 2},
        {"hospital": "large-2"},
        {"ciphertext_digest": digest(b"another ciphertext")},
    ]
    assert len({seed_info(**(fields | change)) for change in changes}) == len(changes)
