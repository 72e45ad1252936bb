"""One round of the secure sum with the core's functions alone: no servers, no stores, no processes.

What a hospital, the aggregator, the decryptor and each unmasker compute, one function each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.federation import Federation
from support.keys import context_of, keys_at_first

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum.answers import (
    Answer,
    seal_decryptor_answer,
    seal_unmasker_answer,
)
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    Manifest,
    make_contribution,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import MaskStream
from fedhelp_secure.secure_sum.opening import Answers
from fedhelp_secure.secure_sum.residues import weighted_sum
from fedhelp_secure.secure_sum.ring import add, scale
from fedhelp_secure.secure_sum.round_keys import RoundKeys

LEDGER_ENTRY = digest(b"a ledger entry")


def public_context(federation: Federation, charter: Charter | None = None) -> PublicContext:
    """The decryptor's public context under ``charter`` (the federation's unless given)."""
    state = federation.state("decryptor")
    chosen = charter or federation.charter
    return PublicContext(state.read(state.role_directory() / "context.public"), chosen.secure_sum)


def secret_context(federation: Federation, charter: Charter | None = None) -> SecretContext:
    """The decryptor's secret context, likewise."""
    state = federation.state("decryptor")
    chosen = charter or federation.charter
    return SecretContext(state.read(state.role_directory() / "context.secret"), chosen.secure_sum)


def contribute(
    federation: Federation,
    hospital: str,
    out: Path,
    *,
    release: NDArray[np.int64] | None = None,
    round_number: int = 1,
    charter: Charter | None = None,
    ledger_entry_digest: str = LEDGER_ENTRY,
    round_keys: RoundKeys | None = None,
) -> Contribution:
    """What ``hospital`` sends, its ciphertext in the new file ``out``; ones unless given.

    Under the charter's own keys, unless ``round_keys`` are given.
    """
    chosen = charter or federation.charter
    keys = round_keys or keys_at_first(federation, chosen, round_number)
    values = np.ones(chosen.secure_sum.values, dtype=np.int64) if release is None else release
    state = federation.state(hospital)
    return make_contribution(
        chosen,
        keys,
        hospital=hospital,
        release=values,
        ledger_entry_digest=ledger_entry_digest,
        keys=ContributionKeys(
            signing_key=state.signing_key(),
            unsealing_key=state.unsealing_key(),
            context=context_of(federation, chosen, keys.context_digest),
        ),
        out=out,
    )


def chunks(ciphertext: bytes, charter: Charter, *, frames: int = 16) -> Iterator[bytes]:
    """``ciphertext`` in chunks of ``frames`` frames."""
    size = frames * charter.secure_sum.frame_bytes
    return (ciphertext[start : start + size] for start in range(0, len(ciphertext), size))


def summed(charter: Charter, contributions: Mapping[str, Contribution]) -> bytes:
    """The weighted ciphertext sum, as an aggregator makes it."""
    parts = [
        (charter.weight_of(name), chunks(part.ciphertext.read_bytes(), charter))
        for name, part in contributions.items()
    ]
    return b"".join(weighted_sum(parts, charter.secure_sum))


def decrypted(
    federation: Federation, charter: Charter, total: bytes
) -> Iterator[NDArray[np.uint64]]:
    """The frames of the masked sum, without padding, as the decryptor computes them."""
    context = secret_context(federation, charter)
    sizes = frame_sizes(charter.secure_sum)
    for size, frame in zip(sizes, chunks(total, charter, frames=1), strict=True):
        yield context.decrypt_frame(frame)[:size]


def decryptor_answer(
    federation: Federation, charter: Charter, total: bytes, out: Path, *, round_number: int = 1
) -> Answer:
    """The decryptor's answer to ``total``, its body in the new file ``out``."""
    return seal_decryptor_answer(
        charter,
        round_number,
        masked_sum=decrypted(federation, charter, total),
        sum_digest=digest(total),
        signing_key=federation.state("decryptor").signing_key(),
        out=out,
    )


def mask_sum(
    federation: Federation,
    charter: Charter,
    unmasker: str,
    contributions: Mapping[str, Contribution],
) -> Iterator[NDArray[np.uint64]]:
    """The frames of the weighted sum of the masks of which ``unmasker`` has the seeds."""
    names = [one.name for one in charter.custodians.unmaskers]
    key = federation.state(unmasker).unsealing_key()
    streams = []
    for hospital, part in contributions.items():
        manifest = open_manifest(charter, part.manifest)
        purpose = mask_purpose(charter, manifest.round, hospital=hospital, unmasker=unmasker)
        sealed = part.sealed_seeds[names.index(unmasker)]
        info = purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
        seed = key.open(sealed, info)
        streams.append((charter.weight_of(hospital), MaskStream(seed, purpose)))
    bits = charter.secure_sum.packed_bits
    for size in frame_sizes(charter.secure_sum):
        total = np.zeros(size, dtype=np.uint64)
        for weight, stream in streams:
            total = add(total, scale(stream.take(size), weight, bits), bits)
        yield total


def manifests_of(
    charter: Charter, contributions: Mapping[str, Contribution]
) -> list[tuple[bytes, Manifest]]:
    """Envelopes and contents, in ascending order of hospital."""
    return [
        (part.manifest, open_manifest(charter, part.manifest))
        for _, part in sorted(contributions.items())
    ]


def unmasker_answer(
    federation: Federation,
    charter: Charter,
    unmasker: str,
    contributions: Mapping[str, Contribution],
    out: Path,
    *,
    round_number: int = 1,
) -> Answer:
    """The answer of ``unmasker`` for this set, its body in the new file ``out``."""
    return seal_unmasker_answer(
        charter,
        round_number,
        unmasker=unmasker,
        mask_sum=mask_sum(federation, charter, unmasker, contributions),
        manifests=manifests_of(charter, contributions),
        signing_key=federation.state(unmasker).signing_key(),
        out=out,
    )


def answers_of(
    federation: Federation,
    contributions: Mapping[str, Contribution],
    directory: Path,
    *,
    round_number: int = 1,
    charter: Charter | None = None,
    total: bytes | None = None,
) -> Answers:
    """Every custodian's answer, bodies in ``directory``; ``total`` replaces the honest sum."""
    chosen = charter or federation.charter
    total = summed(chosen, contributions) if total is None else total
    directory.mkdir(parents=True, exist_ok=True)
    return Answers(
        decryptor_answer(
            federation, chosen, total, directory / "decryptor", round_number=round_number
        ),
        tuple(
            unmasker_answer(
                federation,
                chosen,
                unmasker.name,
                contributions,
                directory / unmasker.name,
                round_number=round_number,
            )
            for unmasker in chosen.custodians.unmaskers
        ),
    )
