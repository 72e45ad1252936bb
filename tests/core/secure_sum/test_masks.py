from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import mask_reference

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.secure_sum.masks import MaskPurpose, MaskStream, draw_seed

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("mask_vectors.json").read_text())
PURPOSE = MaskPurpose(
    charter_digest=digest(b"a charter"),
    round_number=1,
    hospital="large-1",
    unmasker="unmasker",
    elements=64,
    packed_bits=32,
)
CHANGES: list[dict[str, Any]] = [
    {"charter_digest": digest(b"another charter")},
    {"round_number": 2},
    {"hospital": "large-2"},
    {"unmasker": "unmasker-2"},
    {"elements": 65},
    {"packed_bits": 31},
]


def test_the_reference_agrees_with_the_block_of_rfc_8439() -> None:
    block = mask_reference.block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert block.hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def test_the_reference_agrees_with_the_third_case_of_rfc_5869() -> None:
    derived = mask_reference.derive(b"\x0b" * 22, b"", 42)
    assert derived.hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_the_vectors_are_what_the_reference_makes() -> None:
    assert mask_reference.vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["vectors"])
def test_masks_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    purpose = MaskPurpose(
        charter_digest=vector["charter"],
        round_number=vector["round"],
        hospital=vector["hospital"],
        unmasker=vector["unmasker"],
        elements=vector["elements"],
        packed_bits=vector["packed_bits"],
    )
    stream = MaskStream(bytes.fromhex(vector["seed"]), purpose)
    assert stream.take(vector["elements"]).tolist() == vector["mask"]


@given(st.lists(st.integers(0, 200), max_size=6), st.integers(8, 45))
def test_a_stream_is_the_same_in_parts_of_any_length(parts: list[int], bits: int) -> None:
    purpose = dataclasses.replace(PURPOSE, packed_bits=bits)
    seed = bytes(range(32))
    stream = MaskStream(seed, purpose)
    taken = [element for part in parts for element in stream.take(part).tolist()]
    assert taken == MaskStream(seed, purpose).take(sum(parts)).tolist()
    assert all(element < 2**bits for element in taken)


@pytest.mark.parametrize("change", CHANGES)
def test_every_field_separates_the_streams(change: dict[str, Any]) -> None:
    seed = bytes(32)
    mask = MaskStream(seed, PURPOSE).take(64)
    other = MaskStream(seed, dataclasses.replace(PURPOSE, **change)).take(64)
    low_bits = np.uint64(2**31 - 1)
    assert np.mean((mask & low_bits) == (other & low_bits)) < 0.1


def test_every_bit_of_a_mask_is_fair() -> None:
    mask = MaskStream(bytes(32), dataclasses.replace(PURPOSE, packed_bits=45)).take(40_000)
    for bit in range(45):
        ones = int(((mask >> np.uint64(bit)) & np.uint64(1)).sum())
        # Six standard deviations, of a fixed seed.
        assert abs(ones - 20_000) < 600


def test_seeds_are_fresh() -> None:
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert {len(seed) for seed in seeds} == {32}


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_refuses_seeds_of_another_length(length: int) -> None:
    with pytest.raises(MalformedMessage):
        MaskStream(bytes(length), PURPOSE)


def test_the_sealing_context_names_all_that_a_seed_is_for() -> None:
    one, other = digest(b"a ciphertext"), digest(b"another ciphertext")
    begun, again = digest(b"a beginning"), digest(b"another beginning")
    infos = {PURPOSE.seed_info(one, begun), PURPOSE.seed_info(other, begun), PURPOSE.key_info()}
    infos.add(PURPOSE.seed_info(one, again))
    for change in CHANGES[:4]:
        infos.add(dataclasses.replace(PURPOSE, **change).seed_info(one, begun))
    assert len(infos) == 8
