"""A federation in one process, for an audit: real keys, a real charter, nobody's patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, bound_of_sum, parse_charter, share_units
from fedhelp_secure.privacy.accountant import sigma_for_budget
from fedhelp_secure.privacy.parameters import (
    DpSgdChoices,
    MechanismName,
    largest_release,
    sensitivity_of,
)
from fedhelp_secure.privacy.renyi import sigma_for_sampled_budget
from fedhelp_secure.sealing import UnsealingKey
from fedhelp_secure.secure_sum.authenticator import seal_new_key
from fedhelp_secure.secure_sum.ckks import generate_keys
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.signing import SigningKey

TARGET = "large-1"
"""The canaries' hospital: one of the group whose weight sets sigma, so that its claim is the
charter's whole epsilon."""
COLLUDERS = ("small-3",)
"""c contributors whose releases the adversary knows."""
COHORT = (TARGET, "large-2", "small-1", "small-2", *COLLUDERS)
"""The smallest cohort that the charter opens, m: any other has more noise."""
PROXIES = 2
"""Of the public set: black images."""
_ABSENT = "small-4"
_UNMASKER = "unmasker"
_SIGNED = ("aggregator", "auditor", "broker", "decryptor", _UNMASKER)

_NAMES = {
    "federation": "audit",
    "name": "empirical-audit",
    "created": "2026-01-01T00:00:00Z",
}
_WEIGHTS = {"large": 2, "small": 1}
_OTHER_PATIENTS = 8
"""At most so many in the target's data beside canaries."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one audit's charter is made for."""

    epsilon: str
    """Of all rounds together."""
    rounds: int
    dimension: int
    """D."""
    classes: int
    """C."""
    clip_units: int
    fraction_bits: int
    canaries: int
    mechanism: MechanismName = "probe"
    delta: str = "1e-6"
    dp_sgd: DpSgdChoices | None = None
    """For that mechanism, and no other."""


@dataclass(frozen=True, slots=True, repr=False)
class Parties:
    """Everybody's keys, and the charter that names them."""

    charter: Charter
    signing_keys: Mapping[str, SigningKey]
    unsealing_keys: Mapping[str, UnsealingKey]
    secret_context: bytes
    """The decryptor's; its public half is the charter's."""
    public_context: bytes

    def widened(self, runs: int) -> Parties:
        """The same with a charter whose sums carry ``runs`` releases one after the other.

        A rehearsal's charter, as the number of values then is not the probe's; noise, weights,
        cohort, ring and keys are those of ``charter``.
        """
        document = self.charter.document()
        document["privacy"] |= {"mechanism": "rehearsal", "logit_noise": None}
        document["secure_sum"]["values"] = runs * self.charter.secure_sum.values
        return Parties(
            parse_charter(document),
            self.signing_keys,
            self.unsealing_keys,
            self.secret_context,
            self.public_context,
        )


def make_parties(plan: Plan) -> Parties:
    """New keys for everybody and a charter with the least noise that keeps ``plan``'s budget.

    Raises CharterRefused if there is no such charter.
    """
    hospitals = (*COHORT, _ABSENT)
    signing = {name: SigningKey.generate() for name in (*_SIGNED, *hospitals)}
    unsealing = {name: UnsealingKey.generate() for name in (*hospitals, _UNMASKER)}
    secret, public = generate_keys()

    def party(name: str) -> dict[str, Any]:
        return {"name": name, "signing_key": signing[name].public.to_base64()}

    sealed = seal_new_key(
        {name: unsealing[name].public for name in hospitals},
        federation=_NAMES["federation"],
        charter_name=_NAMES["name"],
        created=_NAMES["created"],
    )
    document = {
        **_NAMES,
        **_parameters(plan, hospitals),
        "hospitals": [
            {
                **party(name),
                "group": _group(name),
                "sealing_key": unsealing[name].public.to_base64(),
                "authenticator_key": sealed[name],
            }
            for name in sorted(hospitals)
        ],
        "custodians": {
            "epoch": 1,
            "decryptor": {**party("decryptor"), "context_digest": digest(public)},
            "unmaskers": [
                {**party(_UNMASKER), "sealing_key": unsealing[_UNMASKER].public.to_base64()}
            ],
        },
        "aggregator": party("aggregator"),
        "broker": party("broker"),
        "auditors": [party("auditor")],
    }
    return Parties(parse_charter(document), signing, unsealing, secret, public)


def _parameters(plan: Plan, hospitals: tuple[str, ...]) -> dict[str, Any]:
    weights = [_WEIGHTS[_group(name)] for name in hospitals]
    sigma = _sigma(plan, max(weights))
    honest = len(COHORT) - len(COLLUDERS)
    shares = [
        share_units(sigma_units=sigma, weight=weight, honest=honest) if plan.dp_sgd is None else 0
        for weight in weights
    ]
    # A matrix that is clipped as a whole is no longer with more patients.
    patients = 1 if plan.mechanism == "logit_noise" else plan.canaries + _OTHER_PATIENTS
    values = plan.classes * (plan.dimension if plan.dp_sgd is None else PROXIES)
    secure_sum = plan_secure_sum(
        values=values,
        fraction_bits=plan.fraction_bits,
        bound_of_sum=bound_of_sum(
            list(zip(weights, shares, strict=True)),
            largest_release=largest_release(
                plan.mechanism,
                clip_units=plan.clip_units,
                maximum_patients=patients,
                fraction_bits=plan.fraction_bits,
            ),
        ),
        weights=weights,
    )
    return {
        "task": "classification",
        "classes": [f"class {number}" for number in range(plan.classes)],
        "proxy": {
            "digest": digest(b"no proxy images"),
            "count": PROXIES,
            "height": 16,
            "width": 16,
            "public_set_digest": digest(b"no public set"),
        },
        "weights": _WEIGHTS,
        "secure_sum": secure_sum.model_dump(mode="json"),
        "privacy": {
            "mechanism": plan.mechanism,
            "logit_noise": {"tokens": 1} if plan.mechanism == "logit_noise" else None,
            "dp_sgd": plan.dp_sgd and {**plan.dp_sgd.model_dump(), "tokens": 1},
            "epsilon": plan.epsilon,
            "delta": plan.delta,
            "clip_units": plan.clip_units,
            "sigma_units": sigma,
            "maximum_patients": patients,
        },
        "probe": {
            "dimension": plan.dimension,
            "ridge": "1",
            "step": "1",
            "nominal_patients": 1,
        },
        "cohort": {
            "minimum": len(COHORT),
            "colluders": len(COLLUDERS),
            "minimum_large": 1,
            "minimum_small": 1,
        },
        "rounds": {"count": plan.rounds, "deadline_seconds": 60},
        "foundation_model": {"purpose": "none", "url": "https://127.0.0.1:1", "model": "none"},
        "retention_days": 1,
    }


def _sigma(plan: Plan, largest_weight: int) -> int:
    """The least noise that keeps the plan's budget, in grid units."""
    if plan.dp_sgd is not None:
        return sigma_for_sampled_budget(
            epsilon=plan.epsilon,
            delta=plan.delta,
            clip_units=plan.clip_units,
            rate=Fraction(plan.dp_sgd.sampling_rate),
            steps=plan.dp_sgd.steps,
        )
    return sigma_for_budget(
        epsilon=plan.epsilon,
        delta=plan.delta,
        sensitivity=largest_weight * int(sensitivity_of(plan.mechanism, plan.clip_units).units),
        rounds=plan.rounds,
    )


def _group(name: str) -> str:
    return name.partition("-")[0]
