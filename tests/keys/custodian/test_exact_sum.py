"""The property that the whole of DESIGN section 5 is for, over the real services."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.charters import complete
from support.federation import Federation
from support.secure_sum import ask_decryptor, ask_unmaskers, contribute_all
from support.sums import summed

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import UnmaskerService
from fedhelp_secure.charter import Charter, CharterRefused, parse_charter
from fedhelp_secure.secure_sum.authenticator import SumForged, check_elements
from fedhelp_secure.secure_sum.opening import Answers, OpenedSum, SumRefused, open_sum
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.secure_sum.ring import OutsideRing

# A charter answers once for a round, so every example needs a charter of its own.
_NUMBERS = itertools.count()

Releases = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class _Services:
    federation: Federation
    decryptor: DecryptorService
    unmaskers: Mapping[str, UnmaskerService]

    def opened(
        self, charter: Charter, releases: Releases, *, round_number: int = 1, recipient: str
    ) -> OpenedSum:
        """What ``recipient`` opens after everybody did their part."""
        with tempfile.TemporaryDirectory() as directory:
            sent = contribute_all(
                self.federation,
                Path(directory) / "sent",
                releases=releases,
                hospitals=releases,
                round_number=round_number,
                charter=charter,
            )
            total = summed(charter, sent)
            answers = Answers(
                ask_decryptor(self.decryptor, charter, total, round_number=round_number),
                ask_unmaskers(
                    self.federation, self.unmaskers, charter, sent, round_number=round_number
                ),
            )
            return open_sum(
                charter,
                round_number,
                recipient=recipient,
                unsealing_key=self.federation.state(recipient).unsealing_key(),
                answers=answers,
            )


@pytest.fixture(scope="module")
def services(
    shared_federation: Federation,
    decryptor: DecryptorService,
    unmaskers: Mapping[str, UnmaskerService],
) -> _Services:
    return _Services(shared_federation, decryptor, unmaskers)


def _charter(data: st.DataObject, base: Charter) -> Charter:
    document = base.document()
    hospitals = data.draw(
        st.lists(
            st.sampled_from(document["hospitals"]),
            min_size=2,
            max_size=6,
            unique_by=lambda hospital: str(hospital["name"]),
        )
    )
    document["hospitals"] = sorted(hospitals, key=lambda hospital: str(hospital["name"]))
    unmaskers = document["custodians"]["unmaskers"]
    document["custodians"]["unmaskers"] = unmaskers[: data.draw(st.integers(1, 3))]
    weights = {"large": data.draw(st.integers(1, 64)), "small": data.draw(st.integers(1, 5))}
    document["weights"] = weights
    minimum = data.draw(st.integers(2, len(hospitals)))
    document["cohort"] = {
        "minimum": minimum,
        "colluders": 1,
        "minimum_large": 0,
        "minimum_small": 0,
    }
    document["name"] = f"charter-{next(_NUMBERS)}"
    each = [weights[hospital["group"]] for hospital in hospitals]
    total, heaviest = sum(each), max(each)
    capacity = plan_secure_sum(
        values=1, fraction_bits=12, bound_of_sum=1, weights=each
    ).capacity_bits
    widest = min(40, capacity - (total - 1).bit_length())
    ring_bits = data.draw(st.integers(total.bit_length() + 11, widest))
    _fill_the_ring(document, ring_bits, total, heaviest, minimum - 1)
    # A part of a frame, whole ones, and a value more than that, for some number of lanes.
    values = data.draw(st.sampled_from([1, 2, 7, 4_000, 4_096, 8_193, 12_300]))
    document["secure_sum"] = {"values": values, "fraction_bits": 12}
    planned = complete(document)["secure_sum"]
    assert planned["ring_bits"] == ring_bits
    planned["lanes"] = data.draw(st.integers(1, planned["lanes"]))
    charter = parse_charter(document)
    # At least a half of the ring is in use.
    assert charter.bound_of_sum() >> (ring_bits - 2)
    return charter


def _fill_the_ring(
    document: dict[str, Any], ring_bits: int, total: int, heaviest: int, honest: int
) -> None:
    """Privacy parameters whose sums reach as far into the ring as a charter may let them."""
    half = 1 << (ring_bits - 1)
    clip = -(-half // (total * 1_000_000))
    # A share of at least 4 grid units, and no smaller than the budget allows.
    sigma = max(4 * heaviest * (isqrt(honest) + 1), clip * heaviest // 8)
    tail = 12 * ((isqrt(len(document["hospitals"])) + 1) * (sigma + heaviest) + 1)
    document["privacy"] = {
        "epsilon": "999",
        "delta": "1e-6",
        "mechanism": "rehearsal",
        "clip_units": clip,
        "sigma_units": sigma,
        "maximum_patients": (half - 1 - tail) // (total * clip),
    }


def _releases(data: st.DataObject, charter: Charter) -> dict[str, NDArray[np.int64]]:
    names = [hospital.name for hospital in charter.hospitals]
    present = data.draw(
        st.lists(st.sampled_from(names), min_size=charter.cohort.minimum, unique=True)
    )
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    largest = charter.bound_of_sum() // charter.total_weight
    length = charter.secure_sum.values
    kinds = {
        "random": generator.integers(-largest, largest, length, endpoint=True),
        "largest": np.full(length, largest),
        "smallest": np.full(length, -largest),
        "alternating": np.resize([largest, -largest], length),
        "zero": np.zeros(length, dtype=np.int64),
    }
    return {name: kinds[data.draw(st.sampled_from(sorted(kinds)))] for name in sorted(present)}


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_opened_is_the_integer_sum_bit_for_bit(
    services: _Services, data: st.DataObject
) -> None:
    charter = _charter(data, services.federation.charter)
    releases = _releases(data, charter)
    opened = services.opened(
        charter,
        releases,
        round_number=data.draw(st.integers(1, charter.rounds.count)),
        recipient=data.draw(st.sampled_from([one.name for one in charter.hospitals])),
    )
    columns = zip(*(release.tolist() for release in releases.values()), strict=True)
    weights = [charter.weight_of(name) for name in releases]
    expected = [
        sum(weight * entry for weight, entry in zip(weights, column, strict=True))
        for column in columns
    ]
    assert opened.values.tolist() == expected
    assert opened.hospitals == tuple(releases)


HALF = 1 << 16
"""Of a ring of 17 bits; HALF - 1 is three times 21,845."""


def _full_ring(base: Charter, *, lanes: int, patients: int = 0) -> Charter:
    """Three hospitals of weight 1 whose largest sum is the largest number that the ring holds."""
    document = base.document()
    small = [one for one in document["hospitals"] if one["group"] == "small"]
    document["hospitals"] = small[:3]
    document["name"] = f"full-{next(_NUMBERS)}"
    document["cohort"] = {"minimum": 3, "colluders": 1, "minimum_large": 0, "minimum_small": 0}
    document["privacy"] = {
        "epsilon": "999",
        "delta": "1e-6",
        "mechanism": "rehearsal",
        "clip_units": 1,
        "sigma_units": 6,
        "maximum_patients": 1,
    }
    document["secure_sum"] = {"values": 10, "fraction_bits": 12}
    packed_bits = 17 * lanes + 2
    complete(document)["secure_sum"].update(
        ring_bits=17,
        lanes=lanes,
        packed_bits=packed_bits,
        check_elements=check_elements(ring_bits=17, packed_bits=packed_bits),
    )
    tail = parse_charter(document).bound_of_sum() - 3
    document["privacy"]["maximum_patients"] = (HALF - 1 - tail) // 3 + patients
    return parse_charter(document)


def _thirds(names: list[str], total: int) -> dict[str, NDArray[np.int64]]:
    """Releases that sum to ``total`` in every entry, and to its opposite in every second one."""
    signs = np.resize([1, -1, -1, 1, 1], 10)
    parts = [total // 3, total // 3, total - 2 * (total // 3)]
    return {name: part * signs for name, part in zip(names, parts, strict=True)}


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_largest_sums_fit_and_one_above_is_refused(services: _Services, lanes: int) -> None:
    base = services.federation.charter
    charter = _full_ring(base, lanes=lanes)
    assert charter.bound_of_sum() == HALF - 1
    names = [hospital.name for hospital in charter.hospitals]
    opened = services.opened(charter, _thirds(names, HALF - 1), recipient=names[0])
    assert sorted(set(opened.values.tolist())) == [1 - HALF, HALF - 1]
    with pytest.raises(CharterRefused, match="ring of 17 bits holds less"):
        _full_ring(base, lanes=lanes, patients=1)
    for above, error in ((HALF, SumForged), (-HALF, SumForged)):
        charter = _full_ring(base, lanes=lanes)
        with pytest.raises(error):
            services.opened(charter, _thirds(names, above), recipient=names[0])
    # Alone in its lane, the smallest number of the ring is below what honest releases can make.
    charter = _full_ring(base, lanes=lanes)
    lowest = {name: np.full(10, part) for name, part in zip(names, (-HALF, 0, 0), strict=True)}
    with pytest.raises(SumRefused):
        services.opened(charter, lowest, recipient=names[0])
    with pytest.raises(OutsideRing):
        services.opened(charter, {name: np.full(10, HALF) for name in names}, recipient=names[0])
