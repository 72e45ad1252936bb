from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.federation import FEDERATION, Federation, join, make_federation

from fedhelp_keys.registrar.ca import found_federation
from fedhelp_keys.registrar.plan import CharterPlan, PlanRefused, load_plan
from fedhelp_keys.registrar.planning import explain, plan_charter
from fedhelp_keys.registrar.trust import revoke
from fedhelp_secure.charter import (
    Charter,
    CharterRefused,
    open_charter,
    parse_charter,
    sign_charter,
)
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.privacy.accountant import AccountingError, epsilon_of_rho
from fedhelp_secure.public_set import PublicSet, PublicSetRefused, fit_projection, proxy_digest
from fedhelp_secure.sealing import SealRefused
from fedhelp_secure.secure_sum.authenticator import check_elements, key_info
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

PLAN = """
name: pilot
task: classification
classes: [normal, benign, malignant]
hospitals: [small-2, small-1, large-1, small-3]
weights: {large: 2, small: 1}
privacy: {epsilon: "3", delta: "1e-6", clip: "0.8", maximum_patients: 2000}
secure_sum: {fraction_bits: 12}
probe: {dimension: 8, ridge: "0.1", step: "1.0", nominal_patients: 300}
cohort: {minimum: 3, colluders: 1, minimum_large: 1, minimum_small: 1}
rounds: {count: 3, deadline_seconds: 600}
foundation_model: {purpose: proxy-embeddings, url: "https://127.0.0.1:9000", model: dinov2-small}
retention_days: 365
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), large=1, small=3)


def make_public_set(dimension: int = 8) -> PublicSet:
    generator = np.random.default_rng(1)
    embeddings = generator.normal(size=(20, 1, 32)).astype(np.float32)
    projection = fit_projection(embeddings, dimension)
    images = generator.integers(0, 256, (20, 32, 24)).astype(np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "charter.yaml"
    path.write_text(text)
    return path


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> CharterPlan:
    document = yaml.safe_load(PLAN)
    change(document)
    return load_plan(write(tmp_path, yaml.safe_dump(document)))


@pytest.fixture
def planned(federation: Federation, tmp_path: Path) -> Charter:
    plan = load_plan(write(tmp_path, PLAN))
    return plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


def test_a_charter_follows_plan_registry_and_public_set(
    federation: Federation, planned: Charter
) -> None:
    public_set = make_public_set()
    assert [hospital.name for hospital in planned.hospitals] == [
        "large-1",
        "small-1",
        "small-2",
        "small-3",
    ]
    for hospital in planned.hospitals:
        state = federation.state(hospital.name)
        assert hospital.group == hospital.name.split("-")[0]
        assert hospital.verifying_key() == state.signing_key().public
        assert hospital.recipient_key().raw == state.unsealing_key().public.raw
    assert planned.secure_sum.values == 8 * 3
    assert planned.privacy.clip_units == int(Fraction("0.8") * 4096) == 3276
    assert planned.proxy.digest == proxy_digest(public_set.images)
    assert (planned.proxy.count, planned.proxy.height, planned.proxy.width) == (20, 32, 24)
    assert planned.custodians == federation.charter.custodians
    assert planned.auditors == federation.charter.auditors
    public_set.check(planned)


def test_the_noise_is_the_least_that_keeps_the_budget(planned: Charter) -> None:
    rho = planned.rounds.count * planned.round_rho("large")
    assert epsilon_of_rho(rho, "1e-6") <= 3
    sigma = planned.privacy.sigma_units
    less = rho * Fraction(sigma**2, (sigma - 1) ** 2)
    # One unit less of noise is above the budget, but for the slack of the conversion.
    assert epsilon_of_rho(less, "1e-6") > Fraction("2.9995")


def test_the_charter_signs_and_opens(federation: Federation, planned: Charter) -> None:
    envelope = sign_charter(planned, federation.governance_key)
    assert open_charter(envelope, federation.governance_key.public) == planned


def test_the_explanation_gives_the_numbers_of_the_charter(planned: Charter) -> None:
    lines = {line.quantity: line for line in explain(planned)}
    assert lines["values in a release"].value == "24"
    assert lines["largest sum"].value == f"{planned.bound_of_sum():,} grid units"
    secure_sum = planned.secure_sum
    assert f"ring of {secure_sum.ring_bits} bits" in lines["largest sum"].condition
    assert lines["lanes in an element"].value == str(secure_sum.lanes)
    lane_condition = lines["lanes in an element"].condition
    assert f"{secure_sum.lanes} x {secure_sum.ring_bits} bits" in lane_condition
    assert f"at most the {secure_sum.capacity_bits} bits" in lane_condition
    assert lines["scale"].value == f"2^{secure_sum.scale_bits}"
    assert lines["tags"].value == str(secure_sum.check_elements)
    assert lines["ciphertext"].value == "65,536 bytes"
    assert lines["unmaskers"].value == "1"
    assert lines["sigma of the sum"].value == f"{planned.privacy.sigma_units:,} grid units"
    for group in ("large", "small"):
        aggregate = float(lines[f"epsilon (aggregate), {group}"].value)
        collusion = float(lines[f"epsilon (collusion), {group}"].value)
        assert 0 < aggregate <= 3
        assert collusion > aggregate
        assert f"noise share, {group}" in lines


UNSOUND: list[tuple[Callable[[dict[str, Any]], object], type[FedHelpError], str]] = [
    (lambda plan: plan["cohort"].update(minimum=5), CharterRefused, "number of hospitals"),
    (lambda plan: plan["cohort"].update(colluders=3), PlanRefused, "t = m - c >= 1"),
    (lambda plan: plan["cohort"].update(minimum_large=2), CharterRefused, "of large hospitals"),
    (
        lambda plan: (
            plan["privacy"].update(maximum_patients=10**6),
            plan["secure_sum"].update(fraction_bits=20),
        ),
        CharterRefused,
        "does not fit a ciphertext; lower fraction_bits, maximum_patients or the weights",
    ),
    (
        lambda plan: (
            plan["privacy"].update(clip="0.05", epsilon="100"),
            plan["secure_sum"].update(fraction_bits=5),
        ),
        CharterRefused,
        "under 4 grid units",
    ),
    (lambda plan: plan.update(classes=["one"]), CharterRefused, "classes"),
    (
        lambda plan: plan.update(hospitals=["small-1", "small-1"]),
        CharterRefused,
        "each named once",
    ),
    (
        lambda plan: plan["secure_sum"].update(values=100),
        PlanRefused,
        "secure_sum.values is for rehearsals",
    ),
]


@pytest.mark.parametrize(("change", "error", "sentence"), UNSOUND)
def test_an_unsound_charter_is_refused_with_the_reason(
    federation: Federation,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    error: type[FedHelpError],
    sentence: str,
) -> None:
    plan = changed(tmp_path, change)
    with pytest.raises(error, match=sentence):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


def _dp_sgd(plan: dict[str, Any]) -> dict[str, Any]:
    plan["rounds"].update(count=1)
    plan["privacy"].update(
        mechanism="dp_sgd",
        dp_sgd={
            "model": "linear_head",
            "sampling_rate": "0.05",
            "steps": 150,
            "nominal_patients": 300,
            "learning_rate": "1.0",
        },
    )
    return plan


def _logit_noise(plan: dict[str, Any]) -> dict[str, Any]:
    plan["rounds"].update(count=1)
    plan["privacy"].update(mechanism="logit_noise")
    return plan


def test_a_plan_can_choose_dp_sgd(federation: Federation, tmp_path: Path) -> None:
    plan = changed(tmp_path, _dp_sgd)
    charter = plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())
    assert charter.secure_sum.values == 20 * 1 * 3
    # The least ring: labels are at most 1, and no share is added to them.
    assert charter.secure_sum.ring_bits == charter.bound_of_sum().bit_length() + 1
    assert charter.privacy.dp_sgd is not None
    assert (charter.privacy.dp_sgd.rate, charter.privacy.dp_sgd.tokens) == (Fraction(1, 20), 1)
    lines = {line.quantity: line for line in explain(charter)}
    assert lines["mechanism"].value == "dp_sgd"
    assert lines["values in a release"].condition == "20 proxy images x 1 rows x 3 classes"
    assert lines["sensitivity"].value == "3276 grid units"
    assert "sampled patients" in lines["sensitivity"].condition
    multiplier = charter.privacy.sigma_units / 3276
    assert lines["noise of a step"].value == f"{charter.privacy.sigma_units:,} grid units"
    assert lines["noise of a step"].condition.startswith(
        f"noise multiplier {charter.privacy.sigma_units}/3276 = {multiplier:.4f}"
    )
    assert lines["sampling"].value == "0.05"
    assert lines["steps"].condition.startswith("each divides by 0.05 x 300 = 15, public")
    assert "sigma of the sum" not in lines
    for group in ("large", "small"):
        aggregate = lines[f"epsilon (aggregate), {group}"].value
        assert aggregate == lines[f"epsilon (collusion), {group}"].value
        assert 2.99 < float(aggregate) <= 3
        assert lines[f"noise share, {group}"].value == "none"


def test_a_plan_can_choose_the_baseline(federation: Federation, tmp_path: Path) -> None:
    plan = changed(tmp_path, _logit_noise)
    charter = plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())
    assert charter.secure_sum.values == 20 * 1 * 3
    assert charter.secure_sum.ring_bits == charter.bound_of_sum().bit_length() + 1
    lines = {line.quantity: line for line in explain(charter)}
    assert lines["sensitivity"].value == "6552 grid units"
    assert "two clips apart" in lines["sensitivity"].condition
    assert 2.99 < float(lines["epsilon (aggregate), large"].value) <= 3
    # Weight 2 and two clips: four times the clip, and the noise is the least for it.
    probe = plan_charter(
        federation.state("registrar"),
        changed(tmp_path, lambda plan: plan["rounds"].update(count=1)),
        make_public_set(),
        now=utc_now(),
    )
    assert charter.privacy.sigma_units == pytest.approx(2 * probe.privacy.sigma_units, abs=2)


UNSOUND_CHOICES: list[tuple[Callable[[dict[str, Any]], object], type[FedHelpError], str]] = [
    (
        lambda plan: (_dp_sgd(plan), plan["privacy"]["dp_sgd"].update(nominal_patients=19)),
        CharterRefused,
        "under one patient a step",
    ),
    (lambda plan: (_dp_sgd(plan), plan["rounds"].update(count=2)), CharterRefused, "rounds.count"),
    (
        lambda plan: (_dp_sgd(plan), plan["privacy"].update(epsilon="0.001", delta="1e-9")),
        AccountingError,
        "no noise keeps so small an epsilon",
    ),
    (
        lambda plan: (_logit_noise(plan), plan["rounds"].update(count=3)),
        CharterRefused,
        "rounds.count",
    ),
    (
        lambda plan: (
            _logit_noise(plan),
            plan["privacy"].update(clip="0.04", epsilon="100"),
            plan["secure_sum"].update(fraction_bits=5),
        ),
        CharterRefused,
        "under 4 grid units",
    ),
    (
        lambda plan: (_dp_sgd(plan), plan["secure_sum"].update(values=60)),
        PlanRefused,
        "secure_sum.values is for rehearsals",
    ),
]


@pytest.mark.parametrize(("change", "error", "sentence"), UNSOUND_CHOICES)
def test_an_unsound_choice_of_mechanism_is_refused_with_the_reason(
    federation: Federation,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    error: type[FedHelpError],
    sentence: str,
) -> None:
    plan = changed(tmp_path, change)
    with pytest.raises(error, match=sentence):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


@pytest.mark.parametrize(
    ("privacy", "sentence"),
    [
        ({"mechanism": "dp_sgd"}, "must be given for that mechanism and no other"),
        ({"dp_sgd": {"steps": 5}}, "privacy.dp_sgd"),
        ({"maximum_images": 0}, "maximum_images"),
    ],
)
def test_a_mechanisms_parameters_are_given_with_it_alone(
    tmp_path: Path, privacy: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PlanRefused, match=sentence):
        changed(tmp_path, lambda plan: plan["privacy"].update(privacy))


def test_the_cap_on_images_is_in_the_charter(federation: Federation, tmp_path: Path) -> None:
    registrar = federation.state("registrar")
    default = changed(tmp_path, lambda plan: None)
    lower = changed(tmp_path, lambda plan: plan["privacy"].update(maximum_images=7))
    for plan, expected in ((default, 100), (lower, 7)):
        charter = plan_charter(registrar, plan, make_public_set(), now=utc_now())
        assert charter.privacy.maximum_images == expected
        (line,) = [line for line in explain(charter) if line.quantity == "mechanism"]
        assert f"at most {expected} images" in line.condition


def test_how_parameters_were_chosen_is_in_the_charter(
    federation: Federation, tmp_path: Path
) -> None:
    registrar = federation.state("registrar")
    tuning = dict.fromkeys(("dimension", "rounds", "ridge"), "public defaults")
    tuning["clip"] = f"on patients, spent in sha256:{64 * 'a'}"
    plan = changed(tmp_path, lambda plan: plan["privacy"].update(tuning=tuning))
    charter = plan_charter(registrar, plan, make_public_set(), now=utc_now())
    assert charter.privacy.tuning is not None
    assert charter.privacy.tuning.of_patients() == {"clip": f"sha256:{64 * 'a'}"}
    (line,) = [line for line in explain(charter) if line.quantity == "tuning"]
    assert "clip: on patients, spent in sha256:aaa" in line.condition


@pytest.mark.parametrize("vague", ["on patients", "on patients, spent in 2025", "by eye", ""])
def test_a_vague_declaration_is_refused(tmp_path: Path, vague: str) -> None:
    said = dict.fromkeys(("dimension", "rounds", "ridge"), "public defaults") | {"clip": vague}
    with pytest.raises(PlanRefused, match=r"privacy\.tuning\.clip"):
        changed(tmp_path, lambda plan: plan["privacy"].update(tuning=said))


def _coarse(plan: dict[str, Any]) -> None:
    """Small sums: few patients, a coarse grid."""
    plan["secure_sum"].update(fraction_bits=8)
    plan["privacy"].update(maximum_patients=5, epsilon="30")


@pytest.mark.parametrize(
    ("change", "several"), [(lambda plan: None, False), (_coarse, True)], ids=["one", "several"]
)
def test_lanes_are_as_many_as_fit(
    federation: Federation,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    several: bool,
) -> None:
    """Any lane more, any bit of the ring or the scale less, and the charter is refused."""
    plan = changed(tmp_path, change)
    charter = plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())
    secure_sum = charter.secure_sum
    assert (secure_sum.lanes > 1) == several
    lanes, ring_bits = secure_sum.lanes, secure_sum.ring_bits
    more: dict[str, int] = {"lanes": lanes + 1, "packed_bits": ring_bits * (lanes + 1)}
    refusals: list[tuple[dict[str, int], str]] = [
        (more, "CKKS carries exactly; lower lanes|secure_sum.packed_bits"),
        ({"ring_bits": ring_bits - 1}, "holds less"),
        ({"scale_bits": secure_sum.scale_bits - 1}, "raise scale_bits"),
    ]
    for change_of, sentence in refusals:
        document = charter.document()
        sizes = document["secure_sum"]
        sizes |= change_of
        sizes["check_elements"] = check_elements(
            ring_bits=sizes["ring_bits"], packed_bits=sizes["packed_bits"]
        )
        with pytest.raises(CharterRefused, match=sentence):
            parse_charter(document)


@pytest.mark.parametrize(
    "entries",
    [
        {"provider": "openai-embeddings", "batch_images": 8, "idempotent": True},
        {"provider": "open-inference-grpc", "url": "https://fm.example.org:9001"},
        {"provider": "local-onnx", "url": None, "weights_digest": "sha256:" + "0" * 64},
    ],
)
def test_a_plan_can_choose_the_foundation_models_provider(
    federation: Federation, tmp_path: Path, entries: dict[str, Any]
) -> None:
    plan = changed(tmp_path, lambda document: document["foundation_model"].update(entries))
    registrar = federation.state("registrar")
    charter = plan_charter(registrar, plan, make_public_set(), now=utc_now())
    for name, value in entries.items():
        assert getattr(charter.foundation_model, name) == value
    envelope = sign_charter(charter, federation.governance_key)
    assert open_charter(envelope, federation.governance_key.public) == charter


def test_a_rehearsal_may_have_any_number_of_values(federation: Federation, tmp_path: Path) -> None:
    def rehearse(plan: dict[str, Any]) -> None:
        plan["privacy"].update(mechanism="rehearsal")
        plan["secure_sum"].update(values=1_000_000)

    plan = changed(tmp_path, rehearse)
    charter = plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())
    assert charter.privacy.mechanism == "rehearsal"
    assert charter.secure_sum.values == 1_000_000
    (line,) = [line for line in explain(charter) if line.quantity == "values in a release"]
    assert (line.value, "rehearsal" in line.condition) == ("1,000,000", True)


def _authenticator_key(federation: Federation, charter: Charter, hospital: str, by: str) -> bytes:
    """What ``by`` reads in the entry of ``hospital``."""
    info = key_info(
        federation=charter.federation,
        charter_name=charter.name,
        created=charter.created,
        hospital=hospital,
    )
    sealed = charter.hospital(hospital).sealed_authenticator_key()
    return federation.state(by).unsealing_key().open(sealed, info)


def test_hospitals_and_nobody_else_get_one_new_key_a_charter(
    federation: Federation, tmp_path: Path
) -> None:
    plan = load_plan(write(tmp_path, PLAN))
    registrar = federation.state("registrar")
    keys: list[bytes] = []
    for _ in range(2):
        charter = plan_charter(registrar, plan, make_public_set(), now=utc_now())
        names = [hospital.name for hospital in charter.hospitals]
        opened = {_authenticator_key(federation, charter, name, name) for name in names}
        assert [len(key) for key in opened] == [32]
        keys += opened
        for name in names:
            for other in {*federation.states} - {name, "registrar"}:
                with pytest.raises(SealRefused):
                    _authenticator_key(federation, charter, name, other)
    assert keys[0] != keys[1]


def test_a_key_is_bound_to_its_charter(federation: Federation, planned: Charter) -> None:
    for change in ({"name": "other"}, {"created": "2026-01-01T00:00:00Z"}, {"federation": "other"}):
        with pytest.raises(SealRefused):
            _authenticator_key(federation, planned.model_copy(update=change), "large-1", "large-1")


def test_a_clip_below_the_grid_is_refused(federation: Federation, tmp_path: Path) -> None:
    plan = changed(tmp_path, lambda plan: plan["privacy"].update(clip="0.0001"))
    with pytest.raises(PlanRefused, match="under one grid unit"):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


def test_a_budget_of_nothing_is_refused(federation: Federation, tmp_path: Path) -> None:
    plan = changed(tmp_path, lambda plan: plan["privacy"].update(epsilon="0"))
    with pytest.raises(FedHelpError, match="epsilon must be positive"):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


def test_a_hospital_that_is_not_enrolled_is_named(federation: Federation, tmp_path: Path) -> None:
    plan = changed(tmp_path, lambda plan: plan["hospitals"].append("small-9"))
    with pytest.raises(PlanRefused, match="hospital small-9 is not enrolled"):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


def test_a_public_set_of_another_dimension_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    plan = load_plan(write(tmp_path, PLAN))
    with pytest.raises(PublicSetRefused, match="another dimension"):
        plan_charter(federation.state("registrar"), plan, make_public_set(9), now=utc_now())


def test_two_aggregators_leave_the_choice_open(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "federation", large=1, small=3)
    registrar = federation.state("registrar")
    join(registrar, tmp_path, Identity(FEDERATION, Role.AGGREGATOR, "second"))
    plan = load_plan(write(tmp_path, PLAN))
    with pytest.raises(PlanRefused, match="2 parties are enrolled as aggregator"):
        plan_charter(registrar, plan, make_public_set(), now=utc_now())


def test_every_enrolled_unmasker_is_in_the_charter_in_order_of_name(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "federation", large=1, small=3)
    registrar = federation.state("registrar")
    plan = load_plan(write(tmp_path, PLAN))
    joined = {"unmasker": federation.state("unmasker")}
    for name in ("zeta", "alpha", "e-1", "e-10", "e-2", "beta", "y"):
        joined[name] = join(registrar, tmp_path, Identity(FEDERATION, Role.UNMASKER, name))
    charter = plan_charter(registrar, plan, make_public_set(), now=utc_now())
    unmaskers = charter.custodians.unmaskers
    assert [one.name for one in unmaskers] == sorted(joined)
    for one in unmaskers:
        assert one.verifying_key() == joined[one.name].signing_key().public
        assert one.recipient_key().raw == joined[one.name].unsealing_key().public.raw
    (line,) = [line for line in explain(charter) if line.quantity == "unmaskers"]
    assert line.value == "8"
    join(registrar, tmp_path, Identity(FEDERATION, Role.UNMASKER, "ninth"))
    with pytest.raises(PlanRefused, match="9 unmaskers are enrolled; a charter needs 1 to 8"):
        plan_charter(registrar, plan, make_public_set(), now=utc_now())


def test_a_charter_needs_an_unmasker(tmp_path: Path) -> None:
    registrar = found_federation(tmp_path / "registrar", FEDERATION, now=utc_now())
    for name in ("small-1", "small-2", "small-3"):
        join(registrar, tmp_path, Identity(FEDERATION, Role.HOSPITAL, name))
    for role in (Role.DECRYPTOR, Role.AGGREGATOR, Role.BROKER):
        join(registrar, tmp_path, Identity(FEDERATION, role, role.value))

    def without_large(plan: dict[str, Any]) -> None:
        plan["hospitals"] = ["small-1", "small-2", "small-3"]
        plan["cohort"].update(minimum_large=0)

    plan = changed(tmp_path, without_large)
    with pytest.raises(PlanRefused, match="0 unmaskers are enrolled; a charter needs 1 to 8"):
        plan_charter(registrar, plan, make_public_set(), now=utc_now())
    join(registrar, tmp_path, Identity(FEDERATION, Role.UNMASKER, "b"))
    plan_charter(registrar, plan, make_public_set(), now=utc_now())


BAD_PLANS = {
    "empty": ("", "no charter plan"),
    "a list": ("- 1", "no charter plan"),
    "not YAML": ("name: [", "is not YAML"),
    "a tab": ("\tname: x", "is not YAML"),
    "an object": ("name: !!python/object/apply:os.getcwd []", "is not YAML"),
    "a key twice": (PLAN + "name: other\n", "gives an entry twice"),
    "a nested key twice": (
        PLAN.replace('epsilon: "3",', 'epsilon: "3", epsilon: "30",'),
        "gives an entry twice",
    ),
    "an entry too many": (PLAN + "extra: 1\n", "extra"),
    "an entry missing": (PLAN.replace("name: pilot\n", ""), "name"),
    "a number for epsilon": (PLAN.replace('"3"', "3"), "privacy.epsilon.*put it in quotes"),
    "a negative epsilon": (PLAN.replace('"3"', '"-3"'), "privacy.epsilon"),
    "a float for the grid": (PLAN.replace("bits: 12", "bits: 12.0"), "secure_sum.fraction_bits"),
    "a text for the grid": (PLAN.replace("bits: 12", 'bits: "12"'), "secure_sum.fraction_bits"),
    "a fine grid": (PLAN.replace("bits: 12", "bits: 25"), "secure_sum.fraction_bits"),
    "a ring": (PLAN.replace("{fraction", "{ring_bits: 25, fraction"), "secure_sum.ring_bits"),
    "lanes": (PLAN.replace("{fraction", "{lanes: 2, fraction"), "secure_sum.lanes"),
    "a scale": (PLAN.replace("{fraction", "{scale_bits: 22, fraction"), "secure_sum.scale_bits"),
    "another mechanism": (PLAN.replace("{epsilon", "{mechanism: none, epsilon"), "mechanism"),
    "a truth for the count": (PLAN.replace("count: 3", "count: true"), "rounds.count"),
    "a date": (PLAN.replace("pilot", "2026-01-01"), "put other values in quotes"),
    "another task": (PLAN.replace("classification", "regression"), "task"),
    "plain http": (PLAN.replace("https://", "http://"), "foundation_model.url"),
    "a model in a file without its digest": (
        PLAN.replace("{purpose", "{provider: local-onnx, purpose"),
        "foundation_model.*weights_digest",
    ),
    "another provider": (PLAN.replace("{purpose", "{provider: telnet, purpose"), "provider"),
    "a path for a name": (PLAN.replace("small-2", "../small-2"), "hospitals.0"),
}


@pytest.mark.parametrize("case", sorted(BAD_PLANS))
def test_a_bad_plan_is_refused_with_the_place(tmp_path: Path, case: str) -> None:
    text, sentence = BAD_PLANS[case]
    with pytest.raises(PlanRefused, match=sentence):
        load_plan(write(tmp_path, text))


def test_a_missing_or_huge_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="cannot be read"):
        load_plan(tmp_path / "none.yaml")
    with pytest.raises(PlanRefused, match="too long"):
        load_plan(write(tmp_path, "#" * (1024 * 1024 + 1)))


def test_nobody_who_is_revoked_is_in_a_new_charter(federation: Federation, tmp_path: Path) -> None:
    shutil.copytree(federation.state("registrar").root, tmp_path / "registrar")
    registrar = StateDirectory.open(tmp_path / "registrar")
    for role, name in ((Role.AUDITOR, "second"), (Role.AGGREGATOR, "second")):
        join(registrar, tmp_path, Identity(FEDERATION, role, name))
    plan = load_plan(write(tmp_path, PLAN))

    def planned() -> Charter:
        return plan_charter(registrar, plan, make_public_set(), now=utc_now())

    with pytest.raises(PlanRefused, match="2 parties are enrolled as aggregator"):
        planned()
    for role, name in ((Role.AUDITOR, "auditor"), (Role.AGGREGATOR, "aggregator")):
        revoke(registrar, Identity(FEDERATION, role, name), reason="left", now=utc_now())
    charter = planned()
    assert charter.aggregator.name == "second"
    assert [auditor.name for auditor in charter.auditors] == ["second"]
    revoke(registrar, Identity(FEDERATION, Role.HOSPITAL, "small-2"), reason="x", now=utc_now())
    with pytest.raises(PlanRefused, match="small-2 is not enrolled, or was revoked"):
        planned()
