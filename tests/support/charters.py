"""A charter with real keys but no running federation: for tests of what is computed from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, bound_of_sum, parse_charter, share_units
from fedhelp_secure.privacy.accountant import sigma_for_budget
from fedhelp_secure.privacy.parameters import MechanismName, largest_release, sensitivity_of
from fedhelp_secure.privacy.renyi import sigma_for_sampled_budget
from fedhelp_secure.sealing import SealingKey, UnsealingKey
from fedhelp_secure.secure_sum.authenticator import seal_new_key
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.signing import SigningKey

PARTIES = ("aggregator", "auditor", "broker", "decryptor", "unmasker")
HOSPITALS = ("large-1", "large-2", "small-1", "small-2", "small-3", "small-4")

MECHANISMS: Mapping[MechanismName, dict[str, Any]] = {
    "probe": {},
    "logit_noise": {
        "rounds": {"count": 1},
        "privacy": {"mechanism": "logit_noise", "logit_noise": {"tokens": 1}},
    },
    "dp_sgd": {
        "rounds": {"count": 1},
        "privacy": {
            "mechanism": "dp_sgd",
            "dp_sgd": {
                "model": "linear_head",
                "tokens": 1,
                "sampling_rate": "0.1",
                "steps": 20,
                "nominal_patients": 60,
                "learning_rate": "2.0",
            },
        },
    },
}
"""What a charter document changes for each mechanism that releases patients."""


@dataclass(frozen=True, slots=True)
class CharterKit:
    """A valid charter document and the keys in it."""

    template: Mapping[str, Any]
    keys: Mapping[str, SigningKey]

    def document(self, **overrides: object) -> dict[str, Any]:
        """The document with ``overrides`` merged in, completed by `complete`."""
        document = copy.deepcopy(dict(self.template))
        merge(document, overrides)
        return complete(document)

    def charter(self, **overrides: object) -> Charter:
        """The charter with ``overrides``; raises CharterRefused as `parse_charter` does."""
        return parse_charter(self.document(**overrides))


def make_charter_kit() -> CharterKit:
    """Two large and four small hospitals, three classes, two rounds, epsilon 3."""
    keys = {name: SigningKey.generate() for name in (*PARTIES, *HOSPITALS)}
    sealing = UnsealingKey.generate().public.to_base64()

    def party(name: str) -> dict[str, Any]:
        return {"name": name, "signing_key": keys[name].public.to_base64()}

    template: dict[str, Any] = {
        "version": 1,
        "federation": "testfed",
        "name": "tiny",
        "created": "2026-01-01T00:00:00Z",
        "task": "classification",
        "classes": ["benign", "malignant", "normal"],
        "proxy": {
            "digest": digest(b"proxy images"),
            "count": 8,
            "height": 32,
            "width": 32,
            "public_set_digest": digest(b"public set"),
        },
        "hospitals": [
            {**party(name), "group": name.split("-")[0], "sealing_key": sealing}
            for name in HOSPITALS
        ],
        "weights": {"large": 2, "small": 1},
        "secure_sum": {"values": 12, "fraction_bits": 12},
        "privacy": {"epsilon": "3", "delta": "1e-6", "clip_units": 3276, "maximum_patients": 500},
        "probe": {"dimension": 4, "ridge": "0.1", "step": "1.0", "nominal_patients": 50},
        "cohort": {"minimum": 5, "colluders": 1, "minimum_large": 1, "minimum_small": 1},
        "rounds": {"count": 2, "deadline_seconds": 60},
        "foundation_model": {
            "purpose": "proxy-embeddings",
            "url": "https://127.0.0.1:9000",
            "model": "dinov2-small",
        },
        "custodians": {
            "epoch": 1,
            "decryptor": {**party("decryptor"), "context_digest": digest(b"context")},
            "unmaskers": [{**party("unmasker"), "sealing_key": sealing}],
        },
        "aggregator": party("aggregator"),
        "broker": party("broker"),
        "auditors": [party("auditor")],
        "retention_days": 365,
    }
    return CharterKit(template, keys)


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` with what follows from the rest, where it is not given.

    sigma from the budget, ring and lanes and scale from the bounds, and a new authenticator key
    sealed to every hospital (always: it is bound to the charter's name).
    """
    weights = [document["weights"][hospital["group"]] for hospital in document["hospitals"]]
    privacy, secure_sum = document["privacy"], document["secure_sum"]
    mechanism: MechanismName = privacy.get("mechanism", "probe")
    if "sigma_units" not in privacy:
        privacy["sigma_units"] = _sigma(document, mechanism, max(weights))
    labels = privacy.get(mechanism)
    if labels is not None:
        rows = document["proxy"]["count"] * labels["tokens"]
        secure_sum["values"] = rows * len(document["classes"])
    honest = max(1, document["cohort"]["minimum"] - document["cohort"]["colluders"])
    bound = bound_of_sum(
        [
            (
                weight,
                share_units(sigma_units=privacy["sigma_units"], weight=weight, honest=honest)
                if mechanism != "dp_sgd"
                else 0,
            )
            for weight in weights
        ],
        largest_release=largest_release(
            mechanism,
            clip_units=privacy["clip_units"],
            maximum_patients=privacy["maximum_patients"],
            fraction_bits=secure_sum["fraction_bits"],
        ),
    )
    planned = plan_secure_sum(
        values=secure_sum["values"],
        fraction_bits=secure_sum["fraction_bits"],
        bound_of_sum=bound,
        weights=weights,
    )
    document["secure_sum"] = planned.model_dump(mode="json") | secure_sum
    keys = seal_new_key(
        {
            hospital["name"]: SealingKey.from_base64(hospital["sealing_key"])
            for hospital in document["hospitals"]
        },
        federation=document["federation"],
        charter_name=document["name"],
        created=document["created"],
    )
    document["hospitals"] = [
        hospital | {"authenticator_key": keys[hospital["name"]]}
        for hospital in document["hospitals"]
    ]
    return document


def _sigma(document: dict[str, Any], mechanism: MechanismName, weight: int) -> int:
    """The least that keeps the budget."""
    privacy = document["privacy"]
    if mechanism == "dp_sgd":
        return sigma_for_sampled_budget(
            epsilon=privacy["epsilon"],
            delta=privacy["delta"],
            clip_units=privacy["clip_units"],
            rate=Fraction(privacy["dp_sgd"]["sampling_rate"]),
            steps=privacy["dp_sgd"]["steps"],
        )
    return sigma_for_budget(
        epsilon=privacy["epsilon"],
        delta=privacy["delta"],
        sensitivity=weight * int(sensitivity_of(mechanism, privacy["clip_units"]).units),
        rounds=document["rounds"]["count"],
    )


def merge(document: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Put ``overrides`` into ``document``; mappings are merged."""
    for name, value in overrides.items():
        if isinstance(value, Mapping) and isinstance(document.get(name), dict):
            merge(document[name], value)
        else:
            document[name] = value
