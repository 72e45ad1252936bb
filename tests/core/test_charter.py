from __future__ import annotations

import copy
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.charters import make_charter_kit

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.charter import (
    KIND,
    MINIMUM_SHARE_UNITS,
    TAIL_SIGMAS,
    Charter,
    CharterRefused,
    open_charter,
    parse_charter,
    sign_charter,
)
from fedhelp_secure.errors import FedHelpError, MalformedMessage, SignatureRefused
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.signing import SigningKey

KIT = make_charter_kit()
CHARTER = KIT.charter()
GOVERNANCE = SigningKey.generate()


def test_a_signed_charter_opens_to_an_equal_one() -> None:
    envelope = sign_charter(CHARTER, GOVERNANCE)
    opened = open_charter(envelope, GOVERNANCE.public)
    assert opened == CHARTER
    assert opened.digest == CHARTER.digest == digest(canonical_json(CHARTER.document()))


def test_every_field_is_in_the_digest() -> None:
    digests = {
        KIT.charter(**change).digest
        for change in (
            {},
            {"name": "other"},
            {"retention_days": 366},
            {"weights": {"large": 3}},
            {"proxy": {"digest": digest(b"others")}},
            {"probe": {"step": "1.5"}},
            {"cohort": {"minimum_small": 2}},
        )
    }
    assert len(digests) == 7


@pytest.mark.parametrize("kind", ["manifest", "charter-draft"])
def test_a_signature_over_another_kind_is_not_a_charter(kind: str) -> None:
    envelope = GOVERNANCE.sign_document(kind, CHARTER.document())
    with pytest.raises(MalformedMessage):
        open_charter(envelope, GOVERNANCE.public)


def test_only_the_governance_key_makes_a_charter() -> None:
    for signer in (SigningKey.generate(), KIT.keys["aggregator"]):
        with pytest.raises(SignatureRefused):
            open_charter(sign_charter(CHARTER, signer), GOVERNANCE.public)


def test_a_changed_byte_is_refused() -> None:
    envelope = bytearray(sign_charter(CHARTER, GOVERNANCE))
    for position in range(0, len(envelope), 97):
        damaged = bytearray(envelope)
        damaged[position] ^= 1
        with pytest.raises(FedHelpError):
            open_charter(bytes(damaged), GOVERNANCE.public)


BOUNDS: list[tuple[str, dict[str, Any], str]] = [
    ("no honest share", {"cohort": {"minimum": 2, "colluders": 2}}, "above cohort.colluders"),
    ("cohort too large", {"cohort": {"minimum": 7}}, "above the number of hospitals"),
    ("too few large", {"cohort": {"minimum_large": 3}}, "minimum_large"),
    ("too few small", {"cohort": {"minimum_small": 5}}, "minimum_small"),
    ("ring too small", {"secure_sum": {"ring_bits": 23}}, "raise ring_bits"),
    ("too many patients", {"privacy": {"maximum_patients": 100_000}}, "lower maximum_patients"),
    ("noise beyond the ring", {"privacy": {"sigma_units": 1 << 28}}, "raise ring_bits"),
    ("ring beyond CKKS", {"secure_sum": {"ring_bits": 36}}, "does not fit the 37 bits"),
    ("scale too fine", {"secure_sum": {"scale_bits": 26}}, "lower ring_bits, scale_bits"),
    ("values not the probe's", {"secure_sum": {"values": 13}}, r"secure_sum\.values"),
    ("CKKS noise", {"secure_sum": {"scale_bits": 16}}, "CKKS itself"),
    ("weights too heavy", {"weights": {"large": 64, "small": 64}}, "or the weights"),
    ("grid too coarse", {"privacy": {"clip_units": 1}}, "raise fraction_bits"),
    ("too little noise", {"privacy": {"sigma_units": 7000}}, "raise sigma_units"),
    (
        "too many rounds",
        {"rounds": {"count": 3}, "privacy": {"sigma_units": 16000}},
        "fewer rounds",
    ),
]


@pytest.mark.parametrize(
    ("changes", "reason"), [case[1:] for case in BOUNDS], ids=[case[0] for case in BOUNDS]
)
def test_each_broken_bound_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CharterRefused, match=reason):
        KIT.charter(**changes)


FORMS: list[tuple[str, dict[str, Any], str]] = [
    ("another version", {"version": 2}, "version"),
    ("a field too many", {"comment": "hello"}, "comment"),
    ("a name that is a path", {"name": "../etc"}, "name"),
    ("a name with an escape", {"federation": "a\x1b[2J"}, "federation"),
    ("a date that is none", {"created": "yesterday"}, "created"),
    ("an unknown task", {"task": "regression"}, "task"),
    ("one class", {"classes": ["benign"]}, "classes"),
    ("a digest of another kind", {"proxy": {"digest": "md5:00"}}, "proxy.digest"),
    ("no proxies", {"proxy": {"count": 0}}, "proxy.count"),
    ("weight zero", {"weights": {"small": 0}}, "weights.small"),
    (
        "a weight as text",
        {"weights": {"small": "1"}, "privacy": {"sigma_units": 10**4}},
        "weights.small",
    ),
    ("a weight as float", {"weights": {"small": 1.0}}, "weights.small"),
    ("a weight as bool", {"weights": {"small": True}}, "weights.small"),
    ("other CKKS primes", {"secure_sum": {"coefficient_modulus_bits": [60, 40]}}, "coefficient"),
    ("another degree", {"secure_sum": {"polynomial_degree": 2048}}, "polynomial_degree"),
    ("epsilon as number", {"privacy": {"epsilon": 3.0, "sigma_units": 10**4}}, "privacy.epsilon"),
    ("a delta that is large", {"privacy": {"delta": "0.1", "sigma_units": 10**4}}, "privacy.delta"),
    ("unit image", {"privacy": {"unit": "image"}}, "privacy.unit"),
    ("replace-one", {"privacy": {"adjacency": "replace-one"}}, "privacy.adjacency"),
    ("an unknown mechanism", {"privacy": {"mechanism": "trust-me"}}, "privacy.mechanism"),
    ("no colluders", {"cohort": {"colluders": 0}}, "cohort.colluders"),
    ("no rounds", {"rounds": {"count": 0}, "privacy": {"sigma_units": 10**4}}, "rounds.count"),
    ("a plaintext model", {"foundation_model": {"url": "http://fm.example.org"}}, "url"),
    ("a user in the address", {"foundation_model": {"url": "https://a@fm.example.org"}}, "url"),
    ("epoch zero", {"custodians": {"epoch": 0}}, "custodians.epoch"),
]


@pytest.mark.parametrize(
    ("changes", "where"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS]
)
def test_each_wrong_form_is_refused_naming_the_place(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(CharterRefused, match=where):
        KIT.charter(**changes)


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize("name", sorted(set(CHARTER.document()) - {"version"}))
def test_no_field_has_a_default(name: str) -> None:
    with pytest.raises(CharterRefused, match=name):
        parse_charter(without(CHARTER.document(), name))


def test_parties_are_distinct_and_their_keys_are_keys() -> None:
    def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        document = copy.deepcopy(CHARTER.document())
        change(document)
        return document

    lies: dict[str, Callable[[dict[str, Any]], object]] = {
        "each named once": lambda d: d["hospitals"].append(d["hospitals"][-1]),
        "ascending order": lambda d: d["hospitals"].reverse(),
        "share a signing key": lambda d: d["broker"].update(d["aggregator"]),
        "must be base64": lambda d: d["hospitals"][0].update(signing_key="*"),
        "32 bytes": lambda d: d["aggregator"].update(signing_key="AAAA"),
        "1,216 bytes": lambda d: d["custodians"]["unmasker"].update(sealing_key="AAAA"),
        "sealing key must be base64": lambda d: d["hospitals"][1].update(sealing_key="?"),
    }
    for reason, lie in lies.items():
        with pytest.raises(CharterRefused, match=reason):
            parse_charter(changed(lie))


def test_an_unknown_hospital_is_refused() -> None:
    with pytest.raises(CharterRefused, match="not in the charter"):
        CHARTER.hospital("small-9")


charters = st.builds(
    lambda large, small, minimum, clip, sigma, patients: CHARTER.model_copy(
        update={
            "weights": CHARTER.weights.model_copy(update={"large": large, "small": small}),
            "cohort": CHARTER.cohort.model_copy(update={"minimum": minimum}),
            "privacy": CHARTER.privacy.model_copy(
                update={
                    "clip_units": clip,
                    "sigma_units": sigma,
                    "maximum_patients": patients,
                }
            ),
        }
    ),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(2, 6),
    st.integers(1, 10**6),
    st.integers(1, 10**7),
    st.integers(1, 10**5),
)


@given(charters)
@settings(deadline=None)
def test_any_honest_cohort_carries_the_whole_noise(charter: Charter) -> None:
    """t shares of either group, weighted, have at least variance sigma^2, and hardly more."""
    for group in ("large", "small"):
        weight, share = charter.weights.of(group), charter.share_units(group)
        needed = Fraction(charter.privacy.sigma_units**2, charter.cohort.honest)
        assert (weight * share) ** 2 >= needed
        assert (weight * (share - 1)) ** 2 < needed


@given(charters)
@settings(deadline=None)
def test_collusion_costs_t_times_the_aggregate(charter: Charter) -> None:
    """Never more; less only by what rounding the share up gains."""
    for group in ("large", "small"):
        ratio = charter.round_rho_collusion(group) / charter.round_rho(group)
        share = charter.share_units(group)
        assert ratio <= charter.cohort.honest
        assert ratio * share**2 > charter.cohort.honest * (share - 1) ** 2


@given(charters)
@settings(deadline=None)
def test_a_charter_whose_bounds_hold_keeps_its_promises(charter: Charter) -> None:
    try:
        charter.check_bounds()
    except CharterRefused:
        return
    half = 1 << (charter.secure_sum.ring_bits - 1)
    largest = sum(
        charter.weights.of(hospital.group)
        * (
            charter.privacy.maximum_patients * charter.privacy.clip_units
            + TAIL_SIGMAS * charter.share_units(hospital.group)
        )
        for hospital in charter.hospitals
    )
    # Every hospital at its largest signal and 12 deviations of the summed noise: no wrap.
    assert charter.bound_of_sum() < half
    assert charter.bound_of_sum() <= largest + TAIL_SIGMAS * len(charter.hospitals)
    assert charter.total_weight * 2**charter.secure_sum.ring_bits <= 2 * (
        1 << charter.secure_sum.capacity_bits
    )
    for hospital in charter.hospitals:
        assert charter.share_units(hospital.group) >= MINIMUM_SHARE_UNITS
        rho = charter.rounds.count * charter.round_rho(hospital.group)
        assert epsilon_of_rho(rho, charter.privacy.delta) <= Fraction(charter.privacy.epsilon)


def test_the_measured_example_of_the_design_fits() -> None:
    """4096/[60,49] at scale 2^22 carries 37 bits: weight 8 in a ring of 32 bits needs 35."""
    assert CHARTER.secure_sum.capacity_bits == 37
    assert CHARTER.total_weight == 8
    CHARTER.check_bounds()


def test_the_document_is_plain_json() -> None:
    assert parse_charter(json.loads(canonical_json(CHARTER.document()))) == CHARTER
    assert GOVERNANCE.sign_document(KIND, CHARTER.document()) == sign_charter(CHARTER, GOVERNANCE)
