from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import authenticator_reference

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.sealing import SealRefused, UnsealingKey
from fedhelp_secure.secure_sum.authenticator import (
    FORGING_BITS,
    SEALED_KEY_BYTES,
    Authenticator,
    InnerProducts,
    RoundPurpose,
    SumForged,
    check_elements,
    key_info,
    seal_new_key,
)

VECTORS: dict[str, Any] = json.loads(
    Path(__file__).with_name("authenticator_vectors.json").read_text()
)
KEY = bytes(range(32))
TAGS = 4
BITS = 32
PURPOSE = RoundPurpose(
    charter_digest=digest(b"a charter"), round_number=1, values=6, packed_bits=BITS, tags=TAGS
)
WEIGHTS = {"a": 4, "b": 2, "c": 1}
RELEASES = {"a": [1, -2, 3, 0, 0, 5], "b": [0, 0, 0, -1, 7, 7], "c": [9, 9, 9, 9, -9, -9]}


def _array(integers: Sequence[int]) -> NDArray[np.int64]:
    return np.array(integers, dtype=np.int64)


def _authenticator(purpose: RoundPurpose = PURPOSE, key: bytes = KEY) -> Authenticator:
    return Authenticator(key, purpose)


def _product(authenticator: Authenticator, values: Sequence[int]) -> InnerProducts:
    product = authenticator.product()
    product.update(_array(values))
    return product


def _tags(authenticator: Authenticator, hospital: str, release: Sequence[int]) -> list[int]:
    tags: list[int] = authenticator.tags(_product(authenticator, release), hospital).tolist()
    return tags


def _sum(vectors: Mapping[str, Sequence[int]], weights: Mapping[str, int]) -> list[int]:
    length = len(next(iter(vectors.values())))
    return [sum(weights[name] * row[at] for name, row in vectors.items()) for at in range(length)]


def _check(
    authenticator: Authenticator,
    values: Sequence[int],
    tags: Sequence[int],
    cohort: Sequence[tuple[str, int]],
) -> None:
    """``tags`` are reduced first, as ring elements are."""
    sums = np.array([tag % 2**64 for tag in tags], dtype=np.uint64)
    authenticator.check(_product(authenticator, values), sums, cohort)


def test_the_vectors_are_what_the_reference_makes() -> None:
    assert authenticator_reference.vectors() == VECTORS


@pytest.mark.parametrize("vector", VECTORS["vectors"])
def test_coefficients_pads_and_tags_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    length = len(vector["coefficients"][0])
    purpose = RoundPurpose(
        charter_digest=vector["charter"],
        round_number=vector["round"],
        values=length,
        packed_bits=vector["packed_bits"],
        tags=vector["tags"],
    )
    authenticator = Authenticator(bytes.fromhex(vector["key"]), purpose)
    for at in range(length):
        unit = [1 if place == at else 0 for place in range(length)]
        results = _product(authenticator, unit).results
        assert results.tolist() == [row[at] for row in vector["coefficients"]]
    for name, expected in vector["hospitals"].items():
        assert _tags(authenticator, name, vector["releases"][name]) == expected["tags"]
        # A release of zeros shows the pads.
        assert _tags(authenticator, name, [0] * length) == expected["pads"]


rounds = st.fixed_dictionaries(
    {
        "ring_bits": st.integers(8, 40),
        "spare_bits": st.integers(0, 20),
        "weights": st.lists(st.integers(1, 64), min_size=1, max_size=5),
        "length": st.integers(1, 12),
    }
)


@given(rounds, st.data())
def test_honest_weighted_sums_are_accepted(case: dict[str, Any], data: st.DataObject) -> None:
    """Whatever the releases are, up to the ends of the lane, negative ones too."""
    ring_bits, weights, length = case["ring_bits"], case["weights"], case["length"]
    packed_bits = min(44, ring_bits + case["spare_bits"])
    half = 2 ** (ring_bits - 1)
    release = st.lists(
        st.one_of(st.sampled_from([-half, half - 1, 0]), st.integers(-half, half - 1)),
        min_size=length,
        max_size=length,
    )
    names = {f"h{place}": weight for place, weight in enumerate(weights)}
    releases = {name: data.draw(release) for name in names}
    count = check_elements(ring_bits=ring_bits, packed_bits=packed_bits)
    purpose = dataclasses.replace(PURPOSE, values=length, packed_bits=packed_bits, tags=count)
    authenticator = _authenticator(purpose, data.draw(st.binary(min_size=32, max_size=32)))
    tags = {name: _tags(authenticator, name, row) for name, row in releases.items()}
    assert all(len(row) == count and max(row) < 2**packed_bits for row in tags.values())
    tag_sums = [total % 2**packed_bits for total in _sum(tags, names)]
    _check(authenticator, _sum(releases, names), tag_sums, list(names.items()))


def test_as_many_tags_as_the_forging_bound_needs_and_no_more() -> None:
    for ring_bits in range(8, 41):
        for packed_bits in range(ring_bits, 45):
            count = check_elements(ring_bits=ring_bits, packed_bits=packed_bits)
            each = packed_bits - ring_bits + 1
            assert count * each >= FORGING_BITS > (count - 1) * each


@pytest.mark.parametrize("guess", [0, 1, 2, 3])
@pytest.mark.parametrize("tags", [1, 2, 3])
def test_the_forging_bound_is_what_a_small_ring_shows(tags: int, guess: int) -> None:
    """The worst change that there is, half a lane: it shifts a tag by one of only
    2**(packed_bits - ring_bits + 1) numbers, of which the forger guesses one.
    """
    ring_bits, packed_bits, trials = 8, 9, 2000
    half = 2 ** (ring_bits - 1)
    purpose = dataclasses.replace(PURPOSE, values=1, packed_bits=packed_bits, tags=tags)
    passed = 0
    for number in range(trials):
        authenticator = _authenticator(purpose, number.to_bytes(32, "little"))
        forged = [tag + guess * half for tag in _tags(authenticator, "a", [5])]
        try:
            _check(authenticator, [5 - half], forged, [("a", 1)])
        except SumForged:
            continue
        passed += 1
    bound = 2.0 ** -(tags * (packed_bits - ring_bits + 1))
    assert passed / trials == pytest.approx(bound, abs=5 * (bound / trials) ** 0.5)


def test_inner_products_are_the_same_in_parts_of_any_length() -> None:
    authenticator, values = _authenticator(), list(range(-150_000, 150_000))
    whole = _product(authenticator, values)
    parts = authenticator.product()
    for start, end in ((0, 0), (0, 1), (1, 65_536), (65_536, 65_540), (65_540, 300_000)):
        parts.update(_array(values[start:end]))
    assert parts.results.tolist() == whole.results.tolist()
    assert parts.values == whole.values == 300_000


def test_inner_products_are_exact_at_the_largest_values() -> None:
    """Against Python's integers, in rings whose words are and are not the processor's."""
    top = 2**39 - 1
    signs = [top, -top] * 50
    for bits in (32, 33, 40, 44):
        purpose = dataclasses.replace(PURPOSE, packed_bits=bits)
        reference: dict[str, Any] = {
            "key": KEY.hex(),
            "charter": PURPOSE.charter_digest,
            "round": PURPOSE.round_number,
            "packed_bits": bits,
            "tags": TAGS,
        }
        rows = authenticator_reference.coefficients(reference, 100)
        assert _product(_authenticator(purpose), signs).results.tolist() == [
            sum(a * x for a, x in zip(row, signs, strict=True)) % 2**bits for row in rows
        ]


@pytest.fixture
def honest() -> tuple[list[int], list[int], list[tuple[str, int]]]:
    """Values, tag sums and cohort of a sum that is accepted."""
    authenticator = _authenticator()
    tags = {name: _tags(authenticator, name, row) for name, row in RELEASES.items()}
    values, tag_sums = _sum(RELEASES, WEIGHTS), [tag % 2**BITS for tag in _sum(tags, WEIGHTS)]
    cohort = list(WEIGHTS.items())
    _check(authenticator, values, tag_sums, cohort)
    return values, tag_sums, cohort


Honest = tuple[list[int], list[int], list[tuple[str, int]]]

lane_changes = st.integers(-(2**19), 2**19 - 1)


@given(st.lists(lane_changes, min_size=6, max_size=6))
def test_any_change_of_the_values_is_noticed(changes: list[int]) -> None:
    assume(any(changes))
    authenticator = _authenticator()
    tags = {name: _tags(authenticator, name, row) for name, row in RELEASES.items()}
    forged = [
        value + change for value, change in zip(_sum(RELEASES, WEIGHTS), changes, strict=True)
    ]
    with pytest.raises(SumForged):
        _check(authenticator, forged, _sum(tags, WEIGHTS), list(WEIGHTS.items()))


@given(st.integers(0, TAGS - 1), st.integers(1, 2**BITS - 1))
def test_any_change_of_a_tag_is_noticed(which: int, change: int) -> None:
    authenticator = _authenticator()
    tags = {name: _tags(authenticator, name, row) for name, row in RELEASES.items()}
    forged = _sum(tags, WEIGHTS)
    forged[which] += change
    with pytest.raises(SumForged):
        _check(authenticator, _sum(RELEASES, WEIGHTS), forged, list(WEIGHTS.items()))


@pytest.mark.parametrize("tag", range(TAGS))
def test_each_tag_is_checked_for_itself(honest: Honest, tag: int) -> None:
    """All tags but one fit by construction: a forgery but for one tag is none."""
    values, tag_sums, cohort = honest
    coefficients = _product(_authenticator(), [1, 0, 0, 0, 0, 0]).results.tolist()
    forged = [
        old + (0 if place == tag else coefficient)
        for place, (old, coefficient) in enumerate(zip(tag_sums, coefficients, strict=True))
    ]
    with pytest.raises(SumForged):
        _check(_authenticator(), [values[0] + 1, *values[1:]], forged, cohort)


def test_who_knew_the_key_could_forge(honest: Honest) -> None:
    """So the test above refuses for want of one tag, and for no other reason."""
    values, tag_sums, cohort = honest
    coefficients = _product(_authenticator(), [1, 0, 0, 0, 0, 0]).results.tolist()
    forged = [old + coefficient for old, coefficient in zip(tag_sums, coefficients, strict=True)]
    _check(_authenticator(), [values[0] + 1, *values[1:]], forged, cohort)


@pytest.mark.parametrize("count", [0, 1, TAGS - 1, TAGS + 1])
def test_another_number_of_tags_is_refused(honest: Honest, count: int) -> None:
    values, tag_sums, cohort = honest
    with pytest.raises(SumForged):
        _check(_authenticator(), values, (tag_sums * 2)[:count], cohort)


@pytest.mark.parametrize(
    "cohort",
    [
        [],
        [("a", 4), ("b", 2)],
        [("a", 4), ("b", 2), ("c", 1), ("d", 1)],
        [("a", 4), ("b", 2), ("d", 1)],
        [("a", 2), ("b", 4), ("c", 1)],
        [("a", 4), ("b", 2), ("c", 2)],
        [("a", 4), ("b", 2), ("c", 1), ("c", 1)],
    ],
)
def test_another_cohort_or_weight_is_noticed(honest: Honest, cohort: list[tuple[str, int]]) -> None:
    with pytest.raises(SumForged):
        _check(_authenticator(), honest[0], honest[1], cohort)


@pytest.mark.parametrize(
    "changes", [{"charter_digest": digest(b"another charter")}, {"round_number": 2}]
)
def test_another_charter_round_or_key_is_noticed(honest: Honest, changes: dict[str, Any]) -> None:
    other = _authenticator(dataclasses.replace(PURPOSE, **changes))
    with pytest.raises(SumForged):
        _check(other, *honest)
    with pytest.raises(SumForged):
        _check(_authenticator(key=bytes(32)), *honest)


def test_values_or_hospitals_in_another_order_are_noticed(honest: Honest) -> None:
    values, tag_sums, cohort = honest
    with pytest.raises(SumForged):
        _check(_authenticator(), values[::-1], tag_sums, cohort)
    with pytest.raises(SumForged):
        _check(_authenticator(), values, tag_sums[::-1], cohort)


def test_a_sum_of_zeros_is_not_accepted(honest: Honest) -> None:
    with pytest.raises(SumForged):
        _check(_authenticator(), [0] * 6, [0] * len(honest[1]), honest[2])


@pytest.mark.parametrize("length", [0, 5, 7])
def test_it_covers_every_value_or_none(length: int) -> None:
    product = _product(_authenticator(), [0] * length)
    with pytest.raises(MalformedMessage):
        _authenticator().tags(product, "a")
    with pytest.raises(MalformedMessage):
        _authenticator().check(product, np.zeros(TAGS, dtype=np.uint64), [("a", 4)])


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_refuses_keys_of_another_length(length: int) -> None:
    with pytest.raises(MalformedMessage):
        Authenticator(bytes(length), PURPOSE)


def test_shows_nothing_of_its_key() -> None:
    assert repr(_authenticator()) == "Authenticator(...)"


def test_a_new_key_is_one_key_sealed_to_each_hospital_alone() -> None:
    keys = {name: UnsealingKey.generate() for name in ("a", "b")}
    public = {name: key.public for name, key in keys.items()}
    names = {"federation": "testfed", "charter_name": "tiny", "created": "2026-01-01T00:00:00Z"}
    first, second = (seal_new_key(public, **names) for _ in range(2))
    assert first.keys() == keys.keys()
    opened = set()
    for name, key in keys.items():
        sealed = base64.b64decode(first[name], validate=True)
        assert len(sealed) == SEALED_KEY_BYTES
        opened.add(key.open(sealed, key_info(**names, hospital=name)))
        for lie in ({"hospital": "x"}, {"charter_name": "other"}, {"federation": "other"}):
            info = key_info(**(names | {"hospital": name} | lie))
            with pytest.raises(SealRefused):
                key.open(sealed, info)
    assert len(opened) == 1
    (secret,) = opened
    again = keys["a"].open(base64.b64decode(second["a"]), key_info(**names, hospital="a"))
    assert again != secret
    with pytest.raises(SealRefused):
        keys["b"].open(base64.b64decode(first["a"]), key_info(**names, hospital="a"))
