from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedhelp_secure.secure_sum.packing import WrongLaneCount, pack_lanes, unpack_lanes
from fedhelp_secure.secure_sum.ring import OutsideRing, add, scale, subtract

SHAPES = [
    (ring_bits, lanes) for ring_bits in range(8, 31) for lanes in range(1, 46 // ring_bits + 1)
]
"""Every number of lanes that a capacity of 45 bits can have."""

shapes = st.sampled_from([(bits, lanes) for bits, lanes in SHAPES if bits * lanes <= 45])


def _integers(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


@given(shapes, st.data())
def test_packing_is_the_sum_of_shifted_lanes_and_unpacking_inverts_it(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    bits, lanes = shape
    half = 2 ** (bits - 1)
    values = data.draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=3 * lanes))
    packed = pack_lanes(_integers(values), ring_bits=bits, lanes=lanes)
    filled = values + [0] * (-len(values) % lanes)
    assert packed.tolist() == [
        sum(filled[start + lane] * 2 ** (bits * lane) for lane in range(lanes))
        % 2 ** (bits * lanes)
        for start in range(0, len(filled), lanes)
    ]
    opened = unpack_lanes(packed, ring_bits=bits, lanes=lanes, values=len(values))
    assert opened.tolist() == values


@given(shapes, st.data())
def test_weighted_sums_of_elements_unpack_to_the_sums_of_the_lanes(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    """Whatever the parts are, as long as each lane's own sum fits it."""
    bits, lanes = shape
    half, length = 2 ** (bits - 1), data.draw(st.integers(1, 2 * lanes))
    in_lane = st.integers(-half, half - 1)
    weights = data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=4))
    parts = [data.draw(st.lists(in_lane, min_size=length, max_size=length)) for _ in weights]
    totals = data.draw(
        st.lists(st.one_of(st.sampled_from([-half, half - 1, 0, -1]), in_lane), min_size=length)
    )[:length]
    # The last part has weight 1, and brings every lane to its total modulo 2**bits.
    rests = [
        total - sum(weight * part[at] for weight, part in zip(weights, parts, strict=True))
        for at, total in enumerate(totals)
    ]
    sums, modulus = np.zeros(-(-length // lanes), dtype=np.uint64), bits * lanes
    for weight, part in zip(weights, parts, strict=True):
        elements = pack_lanes(_integers(part), ring_bits=bits, lanes=lanes)
        sums = add(sums, scale(elements, weight, modulus), modulus)
    rest_elements = [
        sum(rest * 2 ** (bits * lane) for lane, rest in enumerate(rests[start : start + lanes]))
        % 2**modulus
        for start in range(0, length, lanes)
    ]
    sums = add(sums, np.array(rest_elements, dtype=np.uint64), modulus)
    assert unpack_lanes(sums, ring_bits=bits, lanes=lanes, values=length).tolist() == totals


@pytest.mark.parametrize(("bits", "lanes"), [s for s in SHAPES if s[0] * s[1] <= 45])
def test_the_extremes_of_every_lane_at_once(bits: int, lanes: int) -> None:
    half = 2 ** (bits - 1)
    for values in ([-half] * lanes, [half - 1] * lanes, [-half, half - 1] * lanes):
        halves = [_integers([value // 2 for value in values])] * 2
        rest = _integers([value - 2 * (value // 2) for value in values])
        total = np.zeros(-(-len(values) // lanes), dtype=np.uint64)
        for part in (*halves, rest):
            total = add(total, pack_lanes(part, ring_bits=bits, lanes=lanes), bits * lanes)
        opened = unpack_lanes(total, ring_bits=bits, lanes=lanes, values=len(values))
        assert opened.tolist() == values


@given(shapes, st.data())
def test_one_above_a_lane_is_refused_and_wraps_only_its_own_and_higher_lanes(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    bits, lanes = shape
    half = 2 ** (bits - 1)
    at = data.draw(st.integers(0, lanes - 1))
    values = [0] * lanes
    for outside in (half, -half - 1):
        values[at] = outside
        with pytest.raises(OutsideRing):
            pack_lanes(_integers(values), ring_bits=bits, lanes=lanes)
    values[at] = half - 1
    ones = [1 if lane == at else 0 for lane in range(lanes)]
    total = add(
        pack_lanes(_integers(values), ring_bits=bits, lanes=lanes),
        pack_lanes(_integers(ones), ring_bits=bits, lanes=lanes),
        bits * lanes,
    )
    opened = unpack_lanes(total, ring_bits=bits, lanes=lanes, values=lanes).tolist()
    assert opened[at] == -half
    assert opened[:at] == [0] * at


@pytest.mark.parametrize("values", [0, 2, 7, 4])
def test_refuses_elements_that_are_not_so_many_values(values: int) -> None:
    elements = pack_lanes(_integers([1] * 6), ring_bits=15, lanes=2)
    with pytest.raises(WrongLaneCount):
        unpack_lanes(elements, ring_bits=15, lanes=2, values=values)


@given(
    st.integers(8, 15),
    st.integers(1, 3),
    st.integers(0, 9),
    st.lists(st.integers(1, 64), min_size=1, max_size=6),
    st.data(),
)
def test_a_ring_wider_than_its_lanes_gives_the_same_sums(
    bits: int, lanes: int, spare: int, weights: list[int], data: st.DataObject
) -> None:
    """What is above the lanes are carries out of the highest one."""
    packed_bits = bits * lanes + spare
    largest = (2 ** (bits - 1) - 1) // sum(weights)
    total, expected = np.zeros(2, dtype=np.uint64), np.zeros(2 * lanes, dtype=np.int64)
    values = st.lists(st.integers(-largest, largest), min_size=2 * lanes, max_size=2 * lanes)
    for weight in weights:
        row = _integers(data.draw(values))
        mask = np.array(
            data.draw(st.lists(st.integers(0, 2**packed_bits - 1), min_size=2, max_size=2))
        )
        masked = add(
            pack_lanes(row, ring_bits=bits, lanes=lanes), mask.astype(np.uint64), packed_bits
        )
        total = add(total, scale(masked, weight, packed_bits), packed_bits)
        total = subtract(total, scale(mask.astype(np.uint64), weight, packed_bits), packed_bits)
        expected += weight * row
    opened = unpack_lanes(total, ring_bits=bits, lanes=lanes, values=2 * lanes)
    assert opened.tolist() == expected.tolist()


def test_refuses_to_pack_what_is_no_vector_of_integers() -> None:
    with pytest.raises(OutsideRing):
        pack_lanes(np.ones(4), ring_bits=15, lanes=2)  # type: ignore[arg-type]
