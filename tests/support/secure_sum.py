"""Contributions, sums and forged ciphertexts for tests, made of one federation's real keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import tenseal
from numpy.typing import NDArray
from support.federation import Federation

from fedhelp_keys.custodian.decryptor import public_context_path, secret_context_path
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext
from fedhelp_secure.secure_sum.contribution import Contribution, make_contribution

LEDGER_ENTRY = digest(b"a ledger entry")


def public_context(federation: Federation, charter: Charter | None = None) -> PublicContext:
    """The decryptor's public context under ``charter`` (the federation's unless given)."""
    state = federation.state("decryptor")
    chosen = charter or federation.charter
    return PublicContext(state.read(public_context_path(state)), chosen.secure_sum)


def secret_context(federation: Federation) -> SecretContext:
    """The decryptor's secret context."""
    state = federation.state("decryptor")
    return SecretContext(state.read(secret_context_path(state)), federation.charter.secure_sum)


def contribute(
    federation: Federation,
    hospital: str,
    *,
    release: NDArray[np.int64] | None = None,
    round_number: int = 1,
    charter: Charter | None = None,
) -> Contribution:
    """What ``hospital`` sends; a release of ones unless given."""
    chosen = charter or federation.charter
    values = np.ones(chosen.secure_sum.values, dtype=np.int64) if release is None else release
    return make_contribution(
        chosen,
        round_number,
        hospital=hospital,
        release=values,
        ledger_entry_digest=LEDGER_ENTRY,
        signing_key=federation.state(hospital).signing_key(),
        context=public_context(federation, chosen),
    )


def contribute_all(
    federation: Federation, hospitals: Iterable[str] | None = None, *, round_number: int = 1
) -> dict[str, Contribution]:
    """Every hospital's contribution, in ascending order of name."""
    names = (
        [hospital.name for hospital in federation.charter.hospitals]
        if hospitals is None
        else hospitals
    )
    return {name: contribute(federation, name, round_number=round_number) for name in sorted(names)}


def ciphertext_sum(
    federation: Federation,
    contributions: Mapping[str, Contribution],
    charter: Charter | None = None,
) -> bytes:
    """The weighted ciphertext sum, as an aggregator makes it."""
    chosen = charter or federation.charter
    return public_context(federation, charter).weighted_sum(
        [(chosen.weight_of(name), part.ciphertext) for name, part in contributions.items()]
    )


def encrypt_reals(federation: Federation, reals: list[float]) -> bytes:
    """One frame that holds ``reals`` as they are: what no honest hospital sends."""
    state = federation.state("decryptor")
    context = tenseal.context_from(state.read(public_context_path(state)), n_threads=1)
    padded = reals + [0.0] * (2048 - len(reals))
    frame: bytes = tenseal.ckks_vector(context, padded).serialize()
    return frame


def coefficients_out_of_range(ciphertext: bytes) -> bytes:
    """``ciphertext`` with headers intact and every coefficient at its largest 64-bit value."""
    block = 2 * 4096 * 8
    start = len(ciphertext) - 9 - block
    return ciphertext[:start] + b"\xff" * block + ciphertext[start + block :]
