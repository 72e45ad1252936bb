from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_secure.secure_sum.fixed_point import NotRepresentable, quantise, to_real


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20),
    st.integers(4, 24),
)
def test_rounds_to_the_nearest_grid_unit_ties_to_even(values: list[float], bits: int) -> None:
    exact = [round(Fraction(value) * 2**bits) for value in values]
    assert quantise(np.array(values), bits).tolist() == exact


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1), st.integers(4, 24))
def test_integers_survive_the_way_to_reals_and_back(integers: list[int], bits: int) -> None:
    vector = np.array(integers, dtype=np.int64)
    assert quantise(to_real(vector, bits), bits).tolist() == integers


def test_keeps_the_shape() -> None:
    assert quantise(np.zeros((2, 3)), 12).shape == (2, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**50, -(2.0**50), 1e308])
def test_refuses_what_the_grid_cannot_hold(value: float) -> None:
    with pytest.raises(NotRepresentable):
        quantise(np.array([0.0, value]), 12)
