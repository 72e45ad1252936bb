from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.charters import MECHANISMS, make_charter_kit, merge

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
from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.signing import SigningKey

KIT = make_charter_kit()
CHARTER = KIT.charter()
GOVERNANCE = SigningKey.generate()
KEY = SigningKey.generate().public.to_base64()


def changed(overrides: dict[str, Any]) -> dict[str, Any]:
    """The document with ``overrides`` merged in, and nothing planned anew."""
    document = copy.deepcopy(CHARTER.document())
    merge(document, overrides)
    return document


def test_a_signed_charter_opens_to_an_equal_one() -> None:
    envelope = sign_charter(CHARTER, GOVERNANCE)
    opened = open_charter(envelope, GOVERNANCE.public)
    assert opened == CHARTER
    assert opened.digest == CHARTER.digest == digest(canonical_json(CHARTER.document()))


def test_every_field_is_in_the_digest() -> None:
    hospitals = CHARTER.document()["hospitals"]
    first, second = (hospital["authenticator_key"] for hospital in hospitals[:2])
    hospitals[0]["authenticator_key"], hospitals[1]["authenticator_key"] = second, first
    unmasker = CHARTER.document()["custodians"]["unmaskers"][0]
    other = unmasker | {"name": "unmasker-2", "signing_key": KEY}
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"name": "other"},
        {"retention_days": 366},
        {"weights": {"large": 1}},
        {"proxy": {"digest": digest(b"others")}},
        {"probe": {"step": "1.5"}},
        {"cohort": {"minimum_small": 2}},
        {"privacy": {"mechanism": "rehearsal"}},
        {"hospitals": hospitals},
        {"custodians": {"unmaskers": [unmasker, other]}},
        {"secure_sum": {"scale_bits": 17, "packed_bits": 32, "check_elements": 8}},
    )
    assert len({parse_charter(changed(change)).digest for change in changes}) == len(changes)


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
    ("ring too small", {"secure_sum": {"ring_bits": 24}}, "raise ring_bits"),
    ("too many patients", {"privacy": {"maximum_patients": 100_000}}, "lower maximum_patients"),
    ("noise beyond the ring", {"privacy": {"sigma_units": 1 << 28}}, "raise ring_bits"),
    ("a lane too many", {"secure_sum": {"lanes": 2}}, "do not fit an element"),
    ("a wider element", {"secure_sum": {"packed_bits": 41}}, "the 43 bits"),
    ("scale too fine", {"secure_sum": {"scale_bits": 32}}, "lower lanes, ring_bits, scale_bits"),
    ("CKKS noise", {"secure_sum": {"scale_bits": 15}}, "CKKS itself"),
    ("values not the probe's", {"secure_sum": {"values": 13}}, r"secure_sum\.values"),
    ("a tag less", {"secure_sum": {"check_elements": 3}}, "check_elements is not what"),
    ("a tag more", {"secure_sum": {"check_elements": 5}}, "check_elements is not what"),
    (
        "weights too heavy",
        {"weights": {"large": 64, "small": 64}},
        "lower maximum_patients, the weights",
    ),
    ("grid too coarse", {"privacy": {"sigma_units": 4}}, "raise fraction_bits"),
    ("too little noise", {"privacy": {"sigma_units": 7000}}, "raise sigma_units"),
    ("too many rounds", {"rounds": {"count": 3}}, "fewer rounds"),
]


@pytest.mark.parametrize(
    ("changes", "reason"), [case[1:] for case in BOUNDS], ids=[case[0] for case in BOUNDS]
)
def test_each_broken_bound_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CharterRefused, match=reason):
        parse_charter(changed(changes))


def of_mechanism(name: MechanismName, overrides: dict[str, Any]) -> Charter:
    document = copy.deepcopy(dict(MECHANISMS[name]))
    merge(document, copy.deepcopy(overrides))
    return KIT.charter(**document)


MECHANISM_BOUNDS: list[tuple[str, MechanismName, dict[str, Any], str]] = [
    ("two rounds", "logit_noise", {"rounds": {"count": 2}}, "Set rounds.count to 1"),
    ("two trainings", "dp_sgd", {"rounds": {"count": 2}}, "Set rounds.count to 1"),
    (
        "nobody in a step",
        "dp_sgd",
        {"privacy": {"dp_sgd": {"nominal_patients": 9}}},
        "under one patient a step",
    ),
    (
        "a network for pixels",
        "dp_sgd",
        {"task": "segmentation", "privacy": {"dp_sgd": {"model": "group_norm_cnn"}}},
        "linear_head for segmentation",
    ),
    (
        "a step's noise too coarse",
        "dp_sgd",
        {"privacy": {"clip_units": 1, "sigma_units": 3}},
        "a step's noise would be under 4 grid units",
    ),
    ("too little noise", "dp_sgd", {"privacy": {"sigma_units": 3276}}, "raise sigma_units"),
    (
        "too many steps",
        "dp_sgd",
        {"privacy": {"sigma_units": 8000, "dp_sgd": {"steps": 5000}}},
        "more than epsilon 3",
    ),
    # Enough for one clip, the probe's sensitivity, and not for two.
    ("half the noise", "logit_noise", {"privacy": {"sigma_units": 12_000}}, "raise sigma_units"),
    (
        "a share too coarse",
        "logit_noise",
        {"privacy": {"clip_units": 1, "sigma_units": 7}},
        "raise fraction_bits",
    ),
    (
        "another's parameters",
        "probe",
        {"privacy": {"logit_noise": {"tokens": 1}}},
        "privacy.logit_noise",
    ),
    ("no parameters", "logit_noise", {"privacy": {"logit_noise": None}}, "privacy"),
    (
        "both parameters",
        "dp_sgd",
        {"privacy": {"logit_noise": {"tokens": 1}}},
        "privacy.logit_noise",
    ),
    (
        "a rate of nothing",
        "dp_sgd",
        {"privacy": {"dp_sgd": {"sampling_rate": "0.0"}}},
        "sampling_rate",
    ),
    (
        "a rate above one",
        "dp_sgd",
        {"privacy": {"dp_sgd": {"sampling_rate": "1.5"}}},
        "sampling_rate",
    ),
    ("a step as float", "dp_sgd", {"privacy": {"dp_sgd": {"steps": 20.0}}}, "steps"),
    ("an own rate", "dp_sgd", {"privacy": {"dp_sgd": {"sample_size": 3}}}, "sample_size"),
]


@pytest.mark.parametrize(
    ("mechanism", "changes", "reason"),
    [case[1:] for case in MECHANISM_BOUNDS],
    ids=[case[0] for case in MECHANISM_BOUNDS],
)
def test_each_bound_of_a_mechanism_is_refused_with_its_reason(
    mechanism: MechanismName, changes: dict[str, Any], reason: str
) -> None:
    given: dict[str, Any] = {"privacy": {"sigma_units": 100_000}}
    merge(given, copy.deepcopy(changes))
    of_mechanism(mechanism, {})
    with pytest.raises(CharterRefused, match=reason):
        of_mechanism(mechanism, given)


@pytest.mark.parametrize("mechanism", ["logit_noise", "dp_sgd"])
def test_values_are_the_labels_of_all_proxies(mechanism: MechanismName) -> None:
    charter = of_mechanism(mechanism, {})
    assert charter.secure_sum.values == charter.proxy.count * len(charter.classes)
    document = charter.document()
    document["secure_sum"]["values"] += 1
    with pytest.raises(CharterRefused, match="times tokens times"):
        parse_charter(document)


def test_labels_without_shares_bound_the_sum_by_themselves() -> None:
    """Each label is at most 1, and no noise is added to the sum but rounding."""
    charter = of_mechanism("dp_sgd", {})
    assert charter.bound_of_sum() == charter.total_weight * 4096 + TAIL_SIGMAS
    assert charter.share_units("large") == charter.share_units("small") == 0


def test_a_sampled_loss_is_no_rho() -> None:
    charter = of_mechanism("dp_sgd", {})
    for rho in (charter.round_rho, charter.round_rho_collusion):
        with pytest.raises(AccountingError, match="ask for the whole loss"):
            rho("small")


def test_each_bound_is_met_exactly_and_not_one_above() -> None:
    """The largest signal that the ring holds, the last scale, the last weight."""
    room = (1 << (CHARTER.secure_sum.ring_bits - 1)) - 1 - CHARTER.bound_of_sum()
    each = CHARTER.total_weight * CHARTER.privacy.clip_units
    patients = CHARTER.privacy.maximum_patients + room // each
    parse_charter(changed({"privacy": {"maximum_patients": patients}}))
    with pytest.raises(CharterRefused, match="raise ring_bits"):
        parse_charter(changed({"privacy": {"maximum_patients": patients + 1}}))
    # A total weight of 8 over 32 bits takes 35 bits, which is what a scale of 24 bits leaves.
    words = {"packed_bits": 32, "check_elements": 8}
    parse_charter(changed({"secure_sum": {"scale_bits": 24, **words}}))
    with pytest.raises(CharterRefused, match="the 34 bits"):
        parse_charter(changed({"secure_sum": {"scale_bits": 25, **words}}))


def test_a_rehearsal_may_have_any_number_of_values_but_keeps_every_other_bound() -> None:
    rehearsal = {"mechanism": "rehearsal"}
    for values in (1, 13, 1 << 26):
        charter = parse_charter(changed({"privacy": rehearsal, "secure_sum": {"values": values}}))
        assert charter.secure_sum.values == values
    for name, changes, reason in BOUNDS:
        if name == "values not the probe's":
            continue
        document = changed(changes)
        merge(document, {"privacy": rehearsal})
        with pytest.raises(CharterRefused, match=reason):
            parse_charter(document)


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
    ("a weight as text", {"weights": {"small": "1"}}, "weights.small"),
    ("a weight as float", {"weights": {"small": 1.0}}, "weights.small"),
    ("a weight as bool", {"weights": {"small": True}}, "weights.small"),
    ("other CKKS primes", {"secure_sum": {"coefficient_modulus_bits": [60, 49]}}, "coefficient"),
    ("a smaller CKKS prime", {"secure_sum": {"coefficient_modulus_bits": [59]}}, "coefficient"),
    ("no CKKS prime", {"secure_sum": {"coefficient_modulus_bits": []}}, "coefficient"),
    ("a ring of 46 bits", {"secure_sum": {"ring_bits": 46}}, "secure_sum.ring_bits"),
    ("elements of 46 bits", {"secure_sum": {"packed_bits": 46}}, "secure_sum.packed_bits"),
    ("a ring of 7 bits", {"secure_sum": {"ring_bits": 7}}, "secure_sum.ring_bits"),
    ("no lane", {"secure_sum": {"lanes": 0}}, "secure_sum.lanes"),
    ("8 lanes", {"secure_sum": {"lanes": 8}}, "secure_sum.lanes"),
    ("no values", {"secure_sum": {"values": 0}}, "secure_sum.values"),
    ("too many values", {"secure_sum": {"values": (1 << 26) + 1}}, "secure_sum.values"),
    ("no tags", {"secure_sum": {"check_elements": 0}}, "secure_sum.check_elements"),
    ("no unmasker", {"custodians": {"unmaskers": []}}, "custodians.unmaskers"),
    (
        "9 unmaskers",
        {"custodians": {"unmaskers": CHARTER.document()["custodians"]["unmaskers"] * 9}},
        "custodians.unmaskers",
    ),
    ("another degree", {"secure_sum": {"polynomial_degree": 2048}}, "polynomial_degree"),
    ("epsilon as number", {"privacy": {"epsilon": 3.0}}, "privacy.epsilon"),
    ("a delta that is large", {"privacy": {"delta": "0.1"}}, "privacy.delta"),
    ("unit image", {"privacy": {"unit": "image"}}, "privacy.unit"),
    ("replace-one", {"privacy": {"adjacency": "replace-one"}}, "privacy.adjacency"),
    ("an unknown mechanism", {"privacy": {"mechanism": "trust-me"}}, "privacy.mechanism"),
    ("no colluders", {"cohort": {"colluders": 0}}, "cohort.colluders"),
    ("no rounds", {"rounds": {"count": 0}}, "rounds.count"),
    ("a plaintext model", {"foundation_model": {"url": "http://fm.example.org"}}, "url"),
    ("a user in the address", {"foundation_model": {"url": "https://a@fm.example.org"}}, "url"),
    ("epoch zero", {"custodians": {"epoch": 0}}, "custodians.epoch"),
]


@pytest.mark.parametrize(
    ("changes", "where"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS]
)
def test_each_wrong_form_is_refused_naming_the_place(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(CharterRefused, match=where):
        parse_charter(changed(changes))


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


@pytest.mark.parametrize("name", sorted(set(CHARTER.document()) - {"version"}))
def test_no_field_has_a_default(name: str) -> None:
    with pytest.raises(CharterRefused, match=name):
        parse_charter(without(CHARTER.document(), name))


def _second(document: dict[str, Any], **changes: object) -> None:
    """One unmasker more, ``changes`` apart from a good one."""
    unmaskers = document["custodians"]["unmaskers"]
    unmaskers.append(unmaskers[0] | {"name": "unmasker-2", "signing_key": KEY} | changes)


LIES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("hospitals must be in ascending", lambda d: d["hospitals"].append(d["hospitals"][-1])),
    ("hospitals must be in ascending", lambda d: d["hospitals"].reverse()),
    ("share a signing key", lambda d: d["broker"].update(d["aggregator"])),
    ("must be base64", lambda d: d["hospitals"][0].update(signing_key="*")),
    ("32 bytes", lambda d: d["aggregator"].update(signing_key="AAAA")),
    ("1,216 bytes", lambda d: d["custodians"]["unmaskers"][0].update(sealing_key="AAAA")),
    ("1,216 bytes", lambda d: _second(d, sealing_key="AAAA")),
    ("sealing key must be base64", lambda d: d["hospitals"][1].update(sealing_key="?")),
    ("unmaskers must be in ascending", lambda d: _second(d, name="unmasker")),
    ("unmaskers must be in ascending", lambda d: _second(d, name="a")),
    ("share a signing key", lambda d: _second(d, signing_key=d["aggregator"]["signing_key"])),
    (
        "share a signing key",
        lambda d: _second(d, signing_key=d["custodians"]["unmaskers"][0]["signing_key"]),
    ),
]


@pytest.mark.parametrize(("reason", "lie"), LIES)
def test_parties_are_distinct_and_their_keys_are_keys(
    reason: str, lie: Callable[[dict[str, Any]], object]
) -> None:
    document = changed({})
    lie(document)
    with pytest.raises(CharterRefused, match=reason):
        parse_charter(document)


def test_further_unmaskers_are_found_by_name() -> None:
    document = changed({})
    _second(document)
    charter = parse_charter(document)
    for name in ("unmasker", "unmasker-2"):
        assert charter.custodians.unmasker(name).name == name
    with pytest.raises(CharterRefused, match="not in the charter"):
        charter.custodians.unmasker("unmasker-3")
    assert [party.name for party in charter.signed_parties()][1:3] == ["unmasker", "unmasker-2"]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "?",
        "AAAA",
        base64.b64encode(bytes(1167)).decode(),
        base64.b64encode(bytes(1169)).decode(),
    ],
)
def test_an_authenticator_key_is_base64_of_a_sealed_key(key: str) -> None:
    document = changed({})
    document["hospitals"][2]["authenticator_key"] = key
    with pytest.raises(CharterRefused, match="authenticator_key must be base64 of 1168 bytes"):
        parse_charter(document)
    document["hospitals"][2]["authenticator_key"] = base64.b64encode(bytes(1168)).decode()
    assert parse_charter(document).hospitals[2].sealed_authenticator_key() == bytes(1168)


def test_an_unknown_hospital_is_refused() -> None:
    with pytest.raises(CharterRefused, match="not in the charter"):
        CHARTER.hospital("small-9")


def _replanned(charter: Charter) -> Charter:
    """Its secure sum planned for its own bounds, if there is such a plan."""
    try:
        secure_sum = plan_secure_sum(
            values=CHARTER.secure_sum.values,
            fraction_bits=12,
            bound_of_sum=charter.bound_of_sum(),
            weights=[charter.weights.of(hospital.group) for hospital in charter.hospitals],
        )
    except CharterRefused:
        return charter
    return charter.model_copy(update={"secure_sum": secure_sum})


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
    charter = _replanned(charter)
    try:
        charter.check_bounds()
    except FedHelpError:
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
    assert charter.total_weight << charter.secure_sum.packed_bits <= (
        1 << charter.secure_sum.capacity_bits
    )
    for hospital in charter.hospitals:
        assert charter.share_units(hospital.group) >= MINIMUM_SHARE_UNITS
        rho = charter.rounds.count * charter.round_rho(hospital.group)
        assert epsilon_of_rho(rho, charter.privacy.delta) <= Fraction(charter.privacy.epsilon)


def test_the_shape_of_a_release_follows_from_the_parameters() -> None:
    secure_sum = CHARTER.secure_sum
    assert (secure_sum.scale_bits, secure_sum.capacity_bits) == (16, 43)
    assert (secure_sum.ring_bits, secure_sum.lanes, secure_sum.packed_bits) == (25, 1, 40)
    assert (secure_sum.packed_elements, secure_sum.check_elements) == (12, 4)
    assert (secure_sum.elements, secure_sum.frames) == (16, 1)
    assert CHARTER.total_weight == 8
    packed = secure_sum.model_copy(update={"values": 16_376, "ring_bits": 12, "lanes": 2})
    assert (packed.packed_elements, packed.elements, packed.frames) == (8188, 8192, 2)
    assert packed.ciphertext_bytes == 2 * packed.frame_bytes == 131_072


def test_the_document_is_plain_json() -> None:
    assert parse_charter(json.loads(canonical_json(CHARTER.document()))) == CHARTER
    assert GOVERNANCE.sign_document(KIND, CHARTER.document()) == sign_charter(CHARTER, GOVERNANCE)
