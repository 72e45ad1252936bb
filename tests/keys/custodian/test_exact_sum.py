"""The property that the whole of DESIGN section 5 is for, over the real services."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.federation import Federation
from support.secure_sum import ciphertext_sum, contribute

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import SealedContribution, UnmaskerService
from fedhelp_secure.charter import Charter, parse_charter
from fedhelp_secure.secure_sum.answers import open_sum
from fedhelp_secure.secure_sum.contribution import check_contribution

# A charter answers once for a round, so every example needs a charter of its own.
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True)
class _Case:
    charter: Charter
    round_number: int
    releases: dict[str, list[int]]
    """Of those that did not drop out, in ascending order of name."""
    recipient: str


def _charter(data: st.DataObject, base: Charter) -> Charter:
    document = base.document()
    hospitals = data.draw(
        st.lists(
            st.sampled_from(document["hospitals"]),
            min_size=2,
            max_size=6,
            unique_by=lambda h: h["name"],
        )
    )
    document["hospitals"] = sorted(hospitals, key=lambda hospital: str(hospital["name"]))
    weights = {"large": data.draw(st.integers(1, 5)), "small": data.draw(st.integers(1, 5))}
    document["weights"] = weights
    total = sum(weights[hospital["group"]] for hospital in hospitals)
    # total * (2**ring_bits - 1) has to stay below 2**37.
    ring_bits = data.draw(st.integers(14, 37 - (total - 1).bit_length()))
    # Part of a slot row, a whole one, and one more than that.
    dimension, classes = data.draw(st.sampled_from([(2, 2), (3, 3), (512, 4), (410, 5)]))
    document["probe"]["dimension"] = dimension
    document["classes"] = [f"class {number}" for number in range(classes)]
    document["secure_sum"] |= {"ring_bits": ring_bits, "values": dimension * classes}
    minimum = data.draw(st.integers(2, len(hospitals)))
    document["cohort"] = {
        "minimum": minimum,
        "colluders": 1,
        "minimum_large": 0,
        "minimum_small": 0,
    }
    document["name"] = f"charter-{next(_NUMBERS)}"
    _fill_the_ring(document, total, max(weights.values()), minimum - 1)
    charter = parse_charter(document)
    assert charter.bound_of_sum() > 0.8 * 2 ** (ring_bits - 1)
    return charter


def _fill_the_ring(document: dict[str, Any], total: int, heaviest: int, honest: int) -> None:
    """Privacy parameters whose sums reach as far into the ring as a charter may let them."""
    half = int(2 ** (document["secure_sum"]["ring_bits"] - 1))
    clip = 1 if half < 2**18 else half // 2**18
    # A share of at least 4 grid units, and little noise beside the signal.
    sigma = max(4 * heaviest * (isqrt(honest) + 1), clip * heaviest)
    tail = 12 * (isqrt(len(document["hospitals"])) + 1) * (sigma + heaviest + 1)
    document["privacy"] = {
        "epsilon": "999",
        "delta": "1e-6",
        "clip_units": clip,
        "sigma_units": sigma,
        "maximum_patients": (half - tail) // (total * clip),
    }


def _case(data: st.DataObject, base: Charter) -> _Case:
    charter = _charter(data, base)
    names = [hospital.name for hospital in charter.hospitals]
    present = data.draw(
        st.lists(st.sampled_from(names), min_size=charter.cohort.minimum, unique=True)
    )
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    largest = charter.bound_of_sum() // charter.total_weight
    releases = {}
    for name in sorted(present):
        kind = data.draw(st.sampled_from(["random", "largest", "smallest", "zero"]))
        length = charter.secure_sum.values
        releases[name] = {
            "random": generator.integers(-largest, largest, length, endpoint=True).tolist(),
            "largest": [largest] * length,
            "smallest": [-largest] * length,
            "zero": [0] * length,
        }[kind]
    return _Case(
        charter,
        data.draw(st.integers(1, charter.rounds.count)),
        releases,
        data.draw(st.sampled_from(names)),
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_opened_is_the_integer_sum_bit_for_bit(
    shared_federation: Federation,
    decryptor: DecryptorService,
    unmasker: UnmaskerService,
    data: st.DataObject,
) -> None:
    case = _case(data, shared_federation.charter)
    charter = case.charter
    sent = {
        name: contribute(
            shared_federation,
            name,
            release=np.array(release, dtype=np.int64),
            round_number=case.round_number,
            charter=charter,
        )
        for name, release in case.releases.items()
    }
    for name, part in sent.items():
        check_contribution(charter, part, expected_hospital=name, expected_round=case.round_number)
    masked = decryptor.answer(
        charter, case.round_number, ciphertext_sum(shared_federation, sent, charter)
    )
    masks = unmasker.answer(
        charter,
        case.round_number,
        [SealedContribution(part.manifest, part.sealed_seed) for part in sent.values()],
    )
    opened = open_sum(
        charter,
        case.round_number,
        recipient=case.recipient,
        unsealing_key=shared_federation.state(case.recipient).unsealing_key(),
        decryptor_answer=masked,
        unmasker_answer=masks,
    )
    columns = zip(*case.releases.values(), strict=True)
    weights = [charter.weight_of(name) for name in case.releases]
    expected = [
        sum(weight * entry for weight, entry in zip(weights, column, strict=True))
        for column in columns
    ]
    assert opened.values.tolist() == expected
    assert opened.hospitals == tuple(case.releases)
