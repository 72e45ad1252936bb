"""What tests ask the custodians' real services, and ciphertexts that no honest hospital makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.federation import Federation
from support.keys import keys_of_stores, rounds_begun
from support.sums import chunks, contribute, public_context

from fedhelp_keys.custodian.decryptor import DecryptorService
from fedhelp_keys.custodian.unmasker import SealedContribution, UnmaskerService
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.secure_sum import residues
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.secure_sum.contribution import Contribution
from fedhelp_secure.secure_sum.residues import MODULUS, weighted_sum


def contribute_all(
    federation: Federation,
    directory: Path,
    *,
    releases: Mapping[str, NDArray[np.int64]] | None = None,
    hospitals: Iterable[str] | None = None,
    round_number: int = 1,
    charter: Charter | None = None,
    begun: bool = True,
) -> dict[str, Contribution]:
    """Every hospital's contribution, in ascending order of name, files in a new ``directory``.

    The custodians' stores have begun the round then, unless that is not wanted.
    """
    chosen = charter or federation.charter
    names = [one.name for one in chosen.hospitals] if hospitals is None else hospitals
    directory.mkdir(parents=True)
    keys = keys_of_stores(federation, chosen, round_number) if begun else None
    return {
        name: contribute(
            federation,
            name,
            directory / name,
            release=None if releases is None else releases[name],
            round_number=round_number,
            charter=chosen,
            round_keys=keys,
        )
        for name in sorted(names)
    }


def ask_decryptor(
    service: DecryptorService, charter: Charter, total: bytes, *, round_number: int = 1
) -> Answer:
    """The decryptor's answer to the ciphertext sum ``total``, sent as it should be."""
    service.epochs.begin(charter, round_number)
    return service.answer(
        charter, round_number, sum_digest=digest(total), chunks=chunks(total, charter)
    )


def members_for(
    charter: Charter, unmasker: str, sent: Mapping[str, Contribution]
) -> list[SealedContribution]:
    """A set as ``unmasker`` is sent it."""
    index = [one.name for one in charter.custodians.unmaskers].index(unmasker)
    return [SealedContribution(part.manifest, part.sealed_seeds[index]) for part in sent.values()]


def ask_unmaskers(
    federation: Federation,
    services: Mapping[str, UnmaskerService],
    charter: Charter,
    sent: Mapping[str, Contribution],
    *,
    round_number: int = 1,
) -> tuple[Answer, ...]:
    """Every unmasker's answer, in the charter's order."""
    begun = rounds_begun(federation, charter, round_number)
    return tuple(
        services[one.name].answer(
            charter, round_number, members_for(charter, one.name, sent), rounds_begun=begun
        )
        for one in charter.custodians.unmaskers
    )


def with_offset(
    federation: Federation, charter: Charter, total: bytes, offset: NDArray[np.uint64]
) -> bytes:
    """``total`` with ``offset`` added to the elements of its first frame, under encryption."""
    size = charter.secure_sum.frame_bytes
    frame = public_context(federation, charter).encrypt_frame(offset)
    parts = [(1, iter([total[:size]])), (1, iter([frame]))]
    return b"".join(weighted_sum(parts, charter.secure_sum)) + total[size:]


def encrypt_reals(federation: Federation, charter: Charter, real: float) -> bytes:
    """A whole ciphertext of which every number is ``real``."""
    secure_sum = charter.secure_sum
    zeros = np.zeros(secure_sum.polynomial_degree, dtype=np.uint64)
    words = np.frombuffer(public_context(federation, charter).encrypt_frame(zeros), dtype="<u8")
    message = np.full(zeros.size, round(real * 2**secure_sum.scale_bits), dtype=np.int64)
    first, second = words[: zeros.size], words[zeros.size :]
    frame = residues.add(first, residues.of_signed(message)).tobytes() + second.tobytes()
    return frame * secure_sum.frames


def residues_out_of_range(ciphertext: bytes) -> bytes:
    """``ciphertext`` with its first residue at the modulus: one more than the largest."""
    return MODULUS.to_bytes(8, "little") + ciphertext[8:]
