"""One round of the secure sum through the parties' own functions, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import digest
from fedhelp_secure.privacy_audit.parties import TARGET, Parties
from fedhelp_secure.secure_sum.answers import seal_decryptor_answer, seal_unmasker_answer
from fedhelp_secure.secure_sum.bodies import frame_sizes
from fedhelp_secure.secure_sum.ckks import PublicContext, SecretContext
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import MaskStream, weighted_mask_sum
from fedhelp_secure.secure_sum.opening import Answers, open_sum
from fedhelp_secure.secure_sum.residues import weighted_sum
from fedhelp_secure.secure_sum.round_keys import begin_under_first_epochs, open_round_keys
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.chunks import read_chunks


def encrypted_sum(
    parties: Parties,
    round_number: int,
    releases: Mapping[str, NDArray[np.int64]],
    ledger_entries: Mapping[str, str],
    folder: Path,
) -> NDArray[np.int64]:
    """The weighted sum of ``releases``: masked, encrypted, added, decrypted, unmasked and opened.

    Every release is int64 [values] of the parties' charter, ``ledger_entries`` are the digests of
    their debits. Files go to the new ``folder``.
    """
    charter = parties.charter
    folder.mkdir()
    context = PublicContext(parties.public_context, charter.secure_sum)
    stated = begin_under_first_epochs(charter, round_number, parties.signing_keys, now=utc_now())
    round_keys = open_round_keys(charter, round_number, stated)
    contributions = {
        name: make_contribution(
            charter,
            round_keys,
            hospital=name,
            release=release,
            ledger_entry_digest=ledger_entries[name],
            keys=ContributionKeys(
                parties.signing_keys[name], parties.unsealing_keys[name], context
            ),
            out=folder / name,
        )
        for name, release in releases.items()
    }
    parts = [
        (charter.weight_of(name), read_chunks(part.ciphertext))
        for name, part in contributions.items()
    ]
    total = b"".join(weighted_sum(parts, charter.secure_sum))
    return open_sum(
        charter,
        round_number,
        recipient=TARGET,
        unsealing_key=parties.unsealing_keys[TARGET],
        answers=_answers(parties, round_number, contributions, total, folder),
    ).values


def _answers(
    parties: Parties,
    round_number: int,
    contributions: Mapping[str, Contribution],
    total: bytes,
    folder: Path,
) -> Answers:
    charter = parties.charter
    (unmasker,) = charter.custodians.unmaskers
    decryptor = charter.custodians.decryptor
    manifests, streams = [], []
    for name, part in sorted(contributions.items()):
        manifest = open_manifest(charter, part.manifest)
        purpose = mask_purpose(charter, round_number, hospital=name, unmasker=unmasker.name)
        seed = parties.unsealing_keys[unmasker.name].open(
            part.sealed_seeds[0],
            purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest),
        )
        manifests.append((part.manifest, manifest))
        streams.append((charter.weight_of(name), MaskStream(seed, purpose)))
    return Answers(
        seal_decryptor_answer(
            charter,
            round_number,
            masked_sum=_decrypted(parties, total),
            sum_digest=digest(total),
            signing_key=parties.signing_keys[decryptor.name],
            out=folder / "decryptor",
        ),
        (
            seal_unmasker_answer(
                charter,
                round_number,
                unmasker=unmasker.name,
                mask_sum=weighted_mask_sum(
                    streams, frame_sizes(charter.secure_sum), charter.secure_sum.packed_bits
                ),
                manifests=manifests,
                signing_key=parties.signing_keys[unmasker.name],
                out=folder / "unmasker",
            ),
        ),
    )


def _decrypted(parties: Parties, total: bytes) -> Iterator[NDArray[np.uint64]]:
    secure_sum = parties.charter.secure_sum
    context = SecretContext(parties.secret_context, secure_sum)
    size = secure_sum.frame_bytes
    for number, elements in enumerate(frame_sizes(secure_sum)):
        yield context.decrypt_frame(total[number * size : (number + 1) * size])[:elements]
