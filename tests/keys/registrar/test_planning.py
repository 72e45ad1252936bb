from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.federation import FEDERATION, Federation, join, make_federation

from fedhelp_keys.registrar.plan import CharterPlan, PlanRefused, load_plan
from fedhelp_keys.registrar.planning import explain, plan_charter
from fedhelp_secure.charter import Charter, CharterRefused, open_charter, sign_charter
from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.privacy.accountant import epsilon_of_rho
from fedhelp_secure.public_set import PublicSet, PublicSetRefused, fit_projection, proxy_digest
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.identity import Identity, Role

PLAN = """
name: pilot
task: classification
classes: [normal, benign, malignant]
hospitals: [small-2, small-1, large-1, small-3]
weights: {large: 2, small: 1}
privacy: {epsilon: "3", delta: "1e-6", clip: "0.8", maximum_patients: 2000}
secure_sum: {ring_bits: 32, fraction_bits: 12, scale_bits: 22}
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
    assert lines["largest masked sum"].value == "35 bits"
    assert "37 bits" in lines["largest masked sum"].condition
    assert lines["sigma of the sum"].value == f"{planned.privacy.sigma_units:,} grid units"
    for group in ("large", "small"):
        aggregate = float(lines[f"epsilon (aggregate), {group}"].value)
        collusion = float(lines[f"epsilon (collusion), {group}"].value)
        assert 0 < aggregate <= 3
        assert collusion > aggregate
        assert f"noise share, {group}" in lines


UNSOUND: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda plan: plan["secure_sum"].update(ring_bits=20), "ring of 20 bits holds less"),
    (lambda plan: plan["secure_sum"].update(ring_bits=36), "does not fit the 37 bits"),
    (lambda plan: plan["secure_sum"].update(scale_bits=29), "does not fit the 30 bits"),
    (lambda plan: plan["secure_sum"].update(ring_bits=49), "secure_sum.ring_bits"),
    (lambda plan: plan["cohort"].update(minimum=5), "above the number of hospitals"),
    (lambda plan: plan["cohort"].update(colluders=3), "t = m - c >= 1"),
    (lambda plan: plan["cohort"].update(minimum_large=2), "number of large hospitals"),
    (lambda plan: plan["privacy"].update(maximum_patients=10**6), "raise ring_bits"),
    (
        lambda plan: (
            plan["privacy"].update(clip="0.05", epsilon="100"),
            plan["secure_sum"].update(fraction_bits=5),
        ),
        "under 4 grid units",
    ),
    (lambda plan: plan.update(classes=["one"]), "classes"),
    (lambda plan: plan.update(hospitals=["small-1", "small-1"]), "each named once"),
]


@pytest.mark.parametrize(("change", "sentence"), UNSOUND)
def test_an_unsound_charter_is_refused_with_the_reason(
    federation: Federation,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    sentence: str,
) -> None:
    plan = changed(tmp_path, change)
    with pytest.raises(CharterRefused, match=sentence):
        plan_charter(federation.state("registrar"), plan, make_public_set(), now=utc_now())


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
    "a float for the ring": (PLAN.replace("32", "32.0"), "secure_sum.ring_bits"),
    "a text for the ring": (PLAN.replace("ring_bits: 32", 'ring_bits: "32"'), "ring_bits"),
    "a truth for the count": (PLAN.replace("count: 3", "count: true"), "rounds.count"),
    "a date": (PLAN.replace("pilot", "2026-01-01"), "put other values in quotes"),
    "another task": (PLAN.replace("classification", "regression"), "task"),
    "plain http": (PLAN.replace("https://", "http://"), "foundation_model.url"),
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
