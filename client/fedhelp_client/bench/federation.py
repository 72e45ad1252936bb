"""A federation's rounds in this process: the product's contributions, shares and model, no network.

The secure sum is exact (DESIGN section 5), so that adding the releases here gives the very integers
that the recipients would open; gRPC, masks and CKKS change nothing about accuracy. Keys are made
anew and thrown away: they only make the charter one that every bound of the product is checked on.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.data.types import Task
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import (
    Charter,
    Group,
    bound_of_sum,
    parse_charter,
    share_units,
)
from fedhelp_secure.privacy import probe
from fedhelp_secure.privacy.accountant import sigma_for_budget
from fedhelp_secure.privacy.defaults import ProbeDefaults
from fedhelp_secure.privacy.noise import draw_share
from fedhelp_secure.public_set import PublicSet, proxy_digest
from fedhelp_secure.sealing import SealingKey, UnsealingKey
from fedhelp_secure.secure_sum.authenticator import seal_new_key
from fedhelp_secure.secure_sum.plan import plan_secure_sum
from fedhelp_secure.signing import SigningKey

Noise = Literal["shared", "local", "none"]
"""Shares of one noise; each hospital's own full noise; or none at all, which protects nobody."""

_FRACTION_BITS = 12
_MAXIMUM_PATIENTS = 10_000
_PARTIES = ("aggregator", "auditor", "broker", "decryptor", "unmasker")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a federation agrees on, as its registrar would plan it."""

    task: Task
    classes: tuple[str, ...]
    hospitals: Mapping[str, Group]
    minimum: int
    colluders: int
    epsilon: str
    delta: str
    rounds: int
    probe: ProbeDefaults


def make_charter(terms: Terms, public_set: PublicSet) -> Charter:
    """A charter of ``terms``, every bound checked; raises CharterRefused as the product does."""
    keys = {name: SigningKey.generate() for name in (*_PARTIES, *terms.hospitals)}
    sealing = UnsealingKey.generate().public.to_base64()
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = {"federation": "bench", "name": "bench", "created": now}

    def party(name: str) -> dict[str, str]:
        return {"name": name, "signing_key": keys[name].public.to_base64()}

    clip_units = int(Fraction(terms.probe.clip) * 2**_FRACTION_BITS)
    sigma = sigma_for_budget(
        epsilon=terms.epsilon, delta=terms.delta, sensitivity=clip_units, rounds=terms.rounds
    )
    tags = seal_new_key(
        {name: SealingKey.from_base64(sealing) for name in terms.hospitals},
        federation=names["federation"],
        charter_name=names["name"],
        created=now,
    )
    count, height, width = public_set.images.shape
    document: dict[str, Any] = {
        **names,
        "task": terms.task,
        "classes": list(terms.classes),
        "proxy": {
            "digest": proxy_digest(public_set.images),
            "count": count,
            "height": height,
            "width": width,
            "public_set_digest": public_set.digest,
        },
        "hospitals": [
            party(name) | {"group": group, "sealing_key": sealing, "authenticator_key": tags[name]}
            for name, group in sorted(terms.hospitals.items())
        ],
        "weights": {"large": 1, "small": 1},
        "secure_sum": _secure_sum(terms, sigma=sigma, clip_units=clip_units),
        "privacy": {
            "epsilon": terms.epsilon,
            "delta": terms.delta,
            "clip_units": clip_units,
            "sigma_units": sigma,
            "maximum_patients": _MAXIMUM_PATIENTS,
        },
        "probe": {
            "dimension": terms.probe.dimension,
            "update": terms.probe.update,
            "ridge": terms.probe.ridge,
            "step": terms.probe.step,
            "nominal_patients": terms.probe.nominal,
        },
        "cohort": {
            "minimum": terms.minimum,
            "colluders": terms.colluders,
            "minimum_large": 0,
            "minimum_small": 0,
        },
        "rounds": {"count": terms.rounds, "deadline_seconds": 60},
        "foundation_model": {
            "purpose": "none",
            "url": "https://127.0.0.1:9",
            "model": "none",
        },
        "custodians": {
            "epoch": 1,
            "decryptor": party("decryptor") | {"context_digest": digest(b"bench")},
            "unmaskers": [party("unmasker") | {"sealing_key": sealing}],
        },
        "aggregator": party("aggregator"),
        "broker": party("broker"),
        "auditors": [party("auditor")],
        "retention_days": 1,
    }
    return parse_charter(document)


def run_rounds(
    charter: Charter,
    public_set: PublicSet,
    patients: Mapping[str, Sequence[probe.PatientExamples]],
    noise: Noise,
) -> NDArray[np.float64]:
    """The public model [D, C] after all rounds of ``charter`` with every hospital in the sum."""
    model = probe.initial_model(charter)
    for round_number in range(1, charter.rounds.count + 1):
        opened = np.zeros(charter.secure_sum.values, dtype=np.int64)
        for name, cohort in patients.items():
            group = charter.hospital(name).group
            release = probe.contribution(charter, model, cohort)
            if noise == "shared":
                release = release + draw_share(len(release), charter.share_units(group))
            elif noise == "local":
                release = release + draw_share(len(release), charter.privacy.sigma_units)
            opened += charter.weights.of(group) * release
        model = probe.apply_step(charter, public_set, model, opened, round_number=round_number)
    return model


def _secure_sum(terms: Terms, *, sigma: int, clip_units: int) -> dict[str, Any]:
    weights = [1] * len(terms.hospitals)
    share = share_units(sigma_units=sigma, weight=1, honest=max(1, terms.minimum - terms.colluders))
    bound = bound_of_sum(
        [(weight, share) for weight in weights], largest_release=_MAXIMUM_PATIENTS * clip_units
    )
    return plan_secure_sum(
        values=terms.probe.dimension * len(terms.classes),
        fraction_bits=_FRACTION_BITS,
        bound_of_sum=bound,
        weights=weights,
    ).model_dump(mode="json")
