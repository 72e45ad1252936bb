from __future__ import annotations

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from support.charters import make_charter_kit

from fedhelp_secure.charter import Charter, CharterRefused, SecureSum, noise_fits
from fedhelp_secure.secure_sum.authenticator import FORGING_BITS, check_elements
from fedhelp_secure.secure_sum.plan import plan_secure_sum

CHARTER = make_charter_kit().charter()
BUDGET = CHARTER.privacy.model_copy(update={"epsilon": "999"})

cohorts = st.fixed_dictionaries(
    {
        "large": st.integers(0, 40),
        "small": st.integers(0, 60),
        "weight_large": st.integers(1, 64),
        "weight_small": st.integers(1, 64),
        "clip": st.integers(1, 3000),
        "patients": st.integers(1, 200),
        "sigma": st.integers(10_000, 10**6),
        "values": st.integers(1, 1 << 26),
    }
)


def _unplanned(cohort: dict[str, int]) -> Charter:
    """A charter whose secure sum is still another's; only its arithmetic is used."""
    hospitals = tuple(
        CHARTER.hospitals[0].model_copy(update={"name": f"{group}-{number:03}", "group": group})
        for group in ("large", "small")
        for number in range(cohort[group])
    )
    return CHARTER.model_copy(
        update={
            "hospitals": hospitals,
            "weights": CHARTER.weights.model_copy(
                update={"large": cohort["weight_large"], "small": cohort["weight_small"]}
            ),
            "privacy": BUDGET.model_copy(
                update={
                    "mechanism": "rehearsal",
                    "clip_units": cohort["clip"],
                    "maximum_patients": cohort["patients"],
                    "sigma_units": cohort["sigma"],
                }
            ),
            "cohort": CHARTER.cohort.model_copy(
                update={
                    "minimum": max(2, len(hospitals) - 1),
                    "minimum_large": 0,
                    "minimum_small": 0,
                }
            ),
        }
    )


def _planned(charter: Charter, values: int) -> Charter:
    secure_sum = plan_secure_sum(
        values=values,
        fraction_bits=12,
        bound_of_sum=charter.bound_of_sum(),
        weights=[charter.weights.of(hospital.group) for hospital in charter.hospitals],
    )
    return charter.model_copy(update={"secure_sum": secure_sum})


def _with(charter: Charter, **changes: object) -> Charter:
    """Whatever else follows from a change is changed too, so that only the bounds can refuse it."""
    secure_sum = charter.secure_sum.model_copy(update=changes)
    checks = check_elements(ring_bits=secure_sum.ring_bits, packed_bits=secure_sum.packed_bits)
    secure_sum = secure_sum.model_copy(update={"check_elements": checks})
    return charter.model_copy(update={"secure_sum": secure_sum})


@settings(deadline=None, max_examples=300)
@given(cohorts)
def test_every_plan_passes_the_charters_bounds_and_is_maximal(cohort: dict[str, int]) -> None:
    assume(cohort["large"] + cohort["small"] >= 2)
    unplanned = _unplanned(cohort)
    try:
        charter = _planned(unplanned, cohort["values"])
    except CharterRefused:
        return
    # Shares below the grid and losses above the budget are refused whatever the plan is.
    try:
        charter._check_privacy()
    except CharterRefused:
        assume(False)
    event("planned")
    charter.check_bounds()
    plan = charter.secure_sum
    SecureSum.model_validate(plan.model_dump())
    with pytest.raises(CharterRefused, match="do not fit"):
        _with(charter, lanes=plan.lanes + 1).check_bounds()
    if plan.lanes < 7:
        wider = plan.ring_bits * (plan.lanes + 1)
        with pytest.raises(CharterRefused, match="does not fit"):
            _with(charter, lanes=plan.lanes + 1, packed_bits=wider).check_bounds()
    with pytest.raises(CharterRefused, match="CKKS itself"):
        _with(charter, scale_bits=plan.scale_bits - 1).check_bounds()
    if plan.ring_bits > 8:
        with pytest.raises(CharterRefused, match="raise ring_bits"):
            _with(charter, ring_bits=plan.ring_bits - 1).check_bounds()


@given(st.lists(st.integers(1, 64), min_size=1, max_size=3000), st.integers(0, 2**46))
def test_the_planner_refuses_only_what_no_ring_and_scale_carry(
    weights: list[int], bound: int
) -> None:
    try:
        plan_secure_sum(values=8, fraction_bits=12, bound_of_sum=bound, weights=weights)
        planned = True
    except CharterRefused:
        planned = False
    total, squared = sum(weights), sum(weight**2 for weight in weights)
    possible = any(
        bound < 2 ** (ring_bits - 1)
        and total * 2**ring_bits <= 2 ** (59 - scale_bits)
        and noise_fits(squared, scale_bits)
        for ring_bits in range(8, 46)
        for scale_bits in range(14, 41)
    )
    assert planned == possible


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=200),
    st.integers(0, 2**20),
    st.integers(1, 1 << 26),
)
def test_a_plan_holds_the_sum_the_tags_and_the_noise(
    weights: list[int], bound: int, values: int
) -> None:
    try:
        plan = plan_secure_sum(values=values, fraction_bits=12, bound_of_sum=bound, weights=weights)
    except CharterRefused:
        return
    total = sum(weights)
    assert bound < 2 ** (plan.ring_bits - 1)
    assert plan.ring_bits * plan.lanes <= plan.packed_bits
    assert total * 2**plan.packed_bits <= 2**plan.capacity_bits
    assert (
        plan.lanes == 7 or total * 2 ** (plan.ring_bits * (plan.lanes + 1)) > 2**plan.capacity_bits
    )
    assert noise_fits(sum(weight**2 for weight in weights), plan.scale_bits)
    assert not noise_fits(sum(weight**2 for weight in weights), plan.scale_bits - 1)
    assert plan.packed_elements * plan.lanes >= plan.values
    assert (plan.packed_elements - 1) * plan.lanes < plan.values
    assert plan.elements == plan.packed_elements + plan.check_elements
    strength = plan.packed_bits - plan.ring_bits + 1
    assert plan.check_elements * strength >= FORGING_BITS
    assert (plan.check_elements - 1) * strength < FORGING_BITS


def test_an_element_has_whole_bytes_where_its_lanes_allow() -> None:
    def planned(bound: int, hospitals: int) -> tuple[int, int, int]:
        plan = plan_secure_sum(
            values=8, fraction_bits=12, bound_of_sum=bound, weights=[1] * hospitals
        )
        return plan.ring_bits, plan.lanes, plan.packed_bits

    assert planned(16_000, 8) == (15, 2, 32)
    assert planned(16_000, 64) == (15, 2, 32)
    assert planned(4_000, 8) == (13, 3, 40)
    assert planned(4_000, 16) == (13, 3, 39)
    assert planned(100, 8) == (8, 5, 40)
    # Fewer bytes would do for the value, but would take 12 tags.
    assert planned(2**25, 8) == (27, 1, 40)


@pytest.mark.parametrize(
    ("bound", "weights", "reason"),
    [
        (2**44, [1, 1], "does not fit"),
        (2**20, [64] * 3000, "does not fit"),
        (2**28, [64] * 200, "does not fit"),
    ],
)
def test_refuses_what_no_parameters_carry(bound: int, weights: list[int], reason: str) -> None:
    with pytest.raises(CharterRefused, match=reason):
        plan_secure_sum(values=8, fraction_bits=12, bound_of_sum=bound, weights=weights)


def test_the_largest_bound_of_a_ring_and_one_above() -> None:
    for bits in range(8, 30):
        widths = [
            plan_secure_sum(
                values=8, fraction_bits=12, bound_of_sum=bound, weights=[1, 1]
            ).ring_bits
            for bound in (2 ** (bits - 1) - 1, 2 ** (bits - 1))
        ]
        assert widths == [bits, bits + 1]
