"""From a plan, the registry and the public set to a charter; and how its numbers came about."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedhelp_keys.registrar.plan import CharterPlan, PlanRefused, PrivacyPlan
from fedhelp_keys.registrar.registry import Member, Registry
from fedhelp_secure.charter import (
    MAXIMUM_UNMASKERS,
    Charter,
    Group,
    SecureSum,
    bound_of_sum,
    parse_charter,
    share_units,
)
from fedhelp_secure.privacy.accountant import sigma_for_budget
from fedhelp_secure.privacy.parameters import RULES, DpSgd, largest_release, sensitivity_of
from fedhelp_secure.privacy.renyi import sigma_for_sampled_budget
from fedhelp_secure.public_set import PublicSet, proxy_digest
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.secure_sum.authenticator import FORGING_BITS, seal_new_key
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore

FIRST_EPOCH = 1
"""Custodians' keys are of this epoch until they are replaced."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One line of ``--explain``."""

    quantity: str
    value: str
    condition: str


def plan_charter(
    state: StateDirectory, plan: CharterPlan, public_set: PublicSet, *, now: datetime.datetime
) -> Charter:
    """The charter that ``plan`` describes, for who is enrolled in ``state``, every bound checked.

    The noise is the least that keeps the budget over all rounds. Raises PlanRefused,
    PublicSetRefused or CharterRefused (with the bound that does not hold).
    """
    registry = _Standing(state)
    hospitals = [_hospital(registry, state.identity.federation, name) for name in plan.hospitals]
    groups = {member.group for member in hospitals if member.group is not None}
    privacy = _privacy(plan, groups, tokens=public_set.features.shape[1])
    count, height, width = public_set.images.shape
    names = {
        "federation": state.identity.federation,
        "name": plan.name,
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    document = {
        **names,
        "task": plan.task,
        "classes": list(plan.classes),
        "proxy": {
            "digest": proxy_digest(public_set.images),
            "count": count,
            "height": height,
            "width": width,
            "public_set_digest": public_set.digest,
        },
        "hospitals": _hospitals(hospitals, names),
        "weights": plan.weights.model_dump(),
        "secure_sum": _secure_sum(
            plan, hospitals, privacy, values=_values(plan, public_set)
        ).model_dump(mode="json"),
        "privacy": privacy,
        "probe": plan.probe.model_dump(),
        "cohort": plan.cohort.model_dump(),
        "rounds": plan.rounds.model_dump(),
        "foundation_model": plan.foundation_model.model_dump(),
        **_other_parties(registry),
        "retention_days": plan.retention_days,
    }
    charter = parse_charter(document)
    public_set.check(charter)
    return charter


def explain(charter: Charter) -> tuple[Explained, ...]:
    """The bounds of DESIGN section 5 and 6 as computed for ``charter``, one line each."""
    secure_sum, privacy, cohort = charter.secure_sum, charter.privacy, charter.cohort
    unit = Fraction(1, 1 << secure_sum.fraction_bits)
    largest = charter.total_weight << secure_sum.packed_bits
    bytes_a_value = secure_sum.ciphertext_bytes / secure_sum.values
    lines = [
        Explained(
            "values in a release",
            f"{secure_sum.values:,}",
            _what_values_are(charter),
        ),
        Explained(
            "largest sum",
            f"{charter.bound_of_sum():,} grid units",
            f"below {1 << (secure_sum.ring_bits - 1):,} (ring of {secure_sum.ring_bits} bits)",
        ),
        Explained(
            "lanes in an element",
            f"{secure_sum.lanes}",
            f"{secure_sum.lanes} x {secure_sum.ring_bits} bits in {secure_sum.packed_bits}; with a "
            f"total weight of {charter.total_weight}: {(largest - 1).bit_length()} bits, at most "
            f"the {secure_sum.capacity_bits} bits that CKKS carries exactly",
        ),
        Explained(
            "tags",
            f"{secure_sum.check_elements}",
            f"each passes a forgery with 2^-{secure_sum.packed_bits - secure_sum.ring_bits + 1}; "
            f"all together with at most 2^-{FORGING_BITS}",
        ),
        Explained(
            "scale",
            f"2^{secure_sum.scale_bits}",
            "the least that keeps CKKS noise within a quarter of an integer",
        ),
        Explained(
            "ciphertext",
            f"{secure_sum.ciphertext_bytes:,} bytes",
            f"{secure_sum.frames} frames of {secure_sum.polynomial_degree:,} elements, "
            f"{bytes_a_value:.1f} bytes a value",
        ),
        Explained(
            "unmaskers",
            f"{len(charter.custodians.unmaskers)}",
            "each holds a part of every mask; all must answer",
        ),
        Explained(
            "mechanism",
            privacy.mechanism,
            "adjacency: one patient more or less, with at most "
            f"{privacy.maximum_images} images that count",
        ),
        Explained(
            "tuning",
            "declared" if privacy.tuning else "not declared",
            privacy.tuning.sentence if privacy.tuning else "privacy.tuning says how it was chosen",
        ),
        Explained(
            "clip of one patient",
            f"{privacy.clip_units:,} grid units",
            f"{float(privacy.clip_units * unit):.6g} as a real",
        ),
        Explained(
            "sensitivity",
            f"{privacy.sensitivity.units} grid units",
            RULES[privacy.sensitivity.rule],
        ),
    ]
    if privacy.dp_sgd is not None:
        lines += _explain_steps(charter, privacy.dp_sgd)
    else:
        lines.append(
            Explained(
                "sigma of the sum",
                f"{privacy.sigma_units:,} grid units",
                f"{float(privacy.sigma_units * unit):.6g} as a real, by {cohort.honest} honest of "
                f"{cohort.minimum} contributors",
            )
        )
    for group in _groups(charter):
        lines += _explain_group(charter, group)
    return tuple(lines)


def _what_values_are(charter: Charter) -> str:
    if charter.privacy.mechanism == "rehearsal":
        return "a rehearsal: invented numbers, no patients"
    labels = charter.privacy.dp_sgd or charter.privacy.logit_noise
    if labels is not None:
        rows = f"{charter.proxy.count} proxy images x {labels.tokens} rows"
        return f"{rows} x {len(charter.classes)} classes"
    return f"{charter.probe.dimension} dimensions x {len(charter.classes)} classes"


def _explain_steps(charter: Charter, parameters: DpSgd) -> list[Explained]:
    sigma, clip = charter.privacy.sigma_units, charter.privacy.clip_units
    nominal = parameters.rate * parameters.nominal_patients
    return [
        Explained(
            "noise of a step",
            f"{sigma:,} grid units",
            f"noise multiplier {sigma}/{clip} = {sigma / clip:.4f}, drawn at each hospital",
        ),
        Explained(
            "sampling",
            parameters.sampling_rate,
            "probability of each patient to be in a step, by the operating system's coins",
        ),
        Explained(
            "steps",
            f"{parameters.steps:,}",
            f"each divides by {parameters.sampling_rate} x {parameters.nominal_patients} = "
            f"{float(nominal):g}, public, whoever was sampled",
        ),
        Explained("model", parameters.model, f"learning rate {parameters.learning_rate}"),
    ]


def _explain_group(charter: Charter, group: Group) -> list[Explained]:
    rounds, delta = charter.rounds.count, charter.privacy.delta
    aggregate = charter.round_loss(group).times(rounds).epsilon(delta)
    collusion = charter.round_loss_collusion(group).times(rounds).epsilon(delta)
    share = charter.share_units(group)
    return [
        Explained(
            f"noise share, {group}",
            f"{share:,} grid units" if share else "none",
            f"weight {charter.weights.of(group)} in the sum",
        ),
        Explained(
            f"epsilon (aggregate), {group}",
            f"{float(aggregate):.6f}",
            f"at most {charter.privacy.epsilon} after {rounds} rounds, delta {delta}",
        ),
        Explained(
            f"epsilon (collusion), {group}",
            f"{float(collusion):.6f}",
            "if aggregator and all custodians collude",
        ),
    ]


def _groups(charter: Charter) -> list[Group]:
    present: set[Group] = {hospital.group for hospital in charter.hospitals}
    return sorted(present)


def _privacy(plan: CharterPlan, groups: set[Group], *, tokens: int) -> dict[str, Any]:
    chosen = plan.privacy
    clip_units = _clip_units(chosen, plan.secure_sum.fraction_bits)
    if chosen.dp_sgd is not None:
        sigma = sigma_for_sampled_budget(
            epsilon=chosen.epsilon,
            delta=chosen.delta,
            clip_units=clip_units,
            rate=Fraction(chosen.dp_sgd.sampling_rate),
            steps=chosen.dp_sgd.steps,
        )
    else:
        sensitivity = int(sensitivity_of(chosen.mechanism, clip_units).units)
        sigma = sigma_for_budget(
            epsilon=chosen.epsilon,
            delta=chosen.delta,
            sensitivity=max(plan.weights.of(group) for group in groups) * sensitivity,
            rounds=plan.rounds.count,
        )
    own: dict[str, Any] = {}
    if chosen.dp_sgd is not None:
        own["dp_sgd"] = {**chosen.dp_sgd.model_dump(), "tokens": tokens}
    if chosen.mechanism == "logit_noise":
        own["logit_noise"] = {"tokens": tokens}
    return {
        "mechanism": chosen.mechanism,
        "epsilon": chosen.epsilon,
        "delta": chosen.delta,
        "clip_units": clip_units,
        "sigma_units": sigma,
        "maximum_patients": chosen.maximum_patients,
        "maximum_images": chosen.maximum_images,
        "tuning": None if chosen.tuning is None else chosen.tuning.model_dump(),
        **own,
    }


def _hospitals(members: Sequence[Member], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The hospitals' entries, in order of name, with a new authenticator key sealed to each."""
    keys = seal_new_key(
        {member.name: SealingKey.from_base64(member.sealing_key) for member in members},
        federation=names["federation"],
        charter_name=names["name"],
        created=names["created"],
    )
    return [
        {
            **_signed(member),
            "group": member.group,
            "sealing_key": member.sealing_key,
            "authenticator_key": keys[member.name],
        }
        for member in sorted(members, key=lambda member: member.name)
    ]


def _secure_sum(
    plan: CharterPlan, hospitals: Sequence[Member], privacy: Mapping[str, Any], *, values: int
) -> SecureSum:
    if plan.cohort.honest < 1:
        raise PlanRefused("cohort.minimum must be above cohort.colluders (t = m - c >= 1).")
    weights = [plan.weights.of(member.group) for member in hospitals if member.group is not None]
    with_shares = plan.privacy.dp_sgd is None
    bound = bound_of_sum(
        [
            (
                weight,
                share_units(
                    sigma_units=privacy["sigma_units"], weight=weight, honest=plan.cohort.honest
                )
                if with_shares
                else 0,
            )
            for weight in weights
        ],
        largest_release=largest_release(
            plan.privacy.mechanism,
            clip_units=privacy["clip_units"],
            maximum_patients=privacy["maximum_patients"],
            fraction_bits=plan.secure_sum.fraction_bits,
        ),
    )
    return plan_secure_sum(
        values=values,
        fraction_bits=plan.secure_sum.fraction_bits,
        bound_of_sum=bound,
        weights=weights,
    )


def _values(plan: CharterPlan, public_set: PublicSet) -> int:
    of_probe = plan.probe.dimension * len(plan.classes)
    if plan.privacy.mechanism == "rehearsal":
        return plan.secure_sum.values or of_probe
    if plan.secure_sum.values is not None:
        raise PlanRefused(
            "secure_sum.values is for rehearsals; leave it out, or set privacy.mechanism."
        )
    if plan.privacy.mechanism == "probe":
        return of_probe
    count, tokens = public_set.features.shape[:2]
    return int(count * tokens * len(plan.classes))


def _clip_units(privacy: PrivacyPlan, fraction_bits: int) -> int:
    # Rounded down: the clip that people decided is never exceeded.
    units = int(Fraction(privacy.clip) * 2 ** max(0, fraction_bits))
    if units < 1:
        raise PlanRefused("privacy.clip is under one grid unit; raise it, or fraction_bits.")
    return units


class _Standing(Registry):
    """The registry without those who are revoked: a charter is made for who may take part."""

    def __init__(self, state: StateDirectory) -> None:
        super().__init__(state)
        self._federation = state.identity.federation
        self._trusted = TrustStore(state).current()

    def members(self) -> tuple[Member, ...]:
        return tuple(
            member
            for member in super().members()
            if self._trusted.revocation_of(
                Identity(self._federation, Role(member.role), member.name)
            )
            is None
        )


def _other_parties(registry: Registry) -> dict[str, Any]:
    decryptor = _only(registry, Role.DECRYPTOR)
    unmaskers = sorted(registry.with_role(Role.UNMASKER), key=lambda member: member.name)
    if not 1 <= len(unmaskers) <= MAXIMUM_UNMASKERS:
        raise PlanRefused(
            f"{len(unmaskers)} unmaskers are enrolled; a charter needs 1 to {MAXIMUM_UNMASKERS}."
        )
    return {
        "custodians": {
            "epoch": FIRST_EPOCH,
            "decryptor": {**_signed(decryptor), "context_digest": decryptor.context_digest},
            "unmaskers": [
                {**_signed(unmasker), "sealing_key": unmasker.sealing_key} for unmasker in unmaskers
            ],
        },
        "aggregator": _signed(_only(registry, Role.AGGREGATOR)),
        "broker": _signed(_only(registry, Role.BROKER)),
        "auditors": [_signed(member) for member in registry.with_role(Role.AUDITOR)],
    }


def _hospital(registry: Registry, federation: str, name: str) -> Member:
    member = registry.find(Identity(federation, Role.HOSPITAL, name))
    if member is None:
        raise PlanRefused(
            f"hospital {name} is not enrolled, or was revoked; enrol it, or take it off the plan."
        )
    return member


def _only(registry: Registry, role: Role) -> Member:
    members = registry.with_role(role)
    if len(members) != 1:
        raise PlanRefused(
            f"{len(members)} parties are enrolled as {role.value}; a charter needs exactly one."
        )
    return members[0]


def _signed(member: Member) -> dict[str, str]:
    return {"name": member.name, "signing_key": member.signing_key}
