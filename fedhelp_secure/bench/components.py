"""What encrypting, adding and opening cost by themselves: one process, one thread, no network.

Each repeat measures every scheme once, one after the other, so that a ratio compares figures taken
within seconds of one another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.bench.schemes import Scheme
from fedhelp_secure.canonical import Digesting, digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import InternalError
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
    make_contribution,
    mask_purpose,
    open_manifest,
)
from fedhelp_secure.secure_sum.masks import MaskStream, weighted_mask_sum
from fedhelp_secure.secure_sum.opening import Answers, open_sum
from fedhelp_secure.secure_sum.residues import check_chunk, weighted_sum
from fedhelp_secure.secure_sum.round_keys import begin_under_first_epochs, open_round_keys
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.chunks import read_chunks

_LARGEST = 500
"""Invented values lie below this magnitude; a clip of 1 at 9 fraction bits allows 512."""

_T = TypeVar("_T")


class InexactSum(InternalError):
    """A scheme did not open the sum of what went in."""

    code = "bench-inexact"


@dataclass(frozen=True, slots=True)
class ComponentCost:
    """Microseconds a value."""

    encrypt: float
    prepare: float
    """The part of ``encrypt`` that is done before a round."""
    aggregate: float
    """Of one hospital's contribution."""
    open: float

    @property
    def total(self) -> float:
        """Encrypt, aggregate and open, as in one hospital's round."""
        return self.encrypt + self.aggregate + self.open


@dataclass(frozen=True, slots=True)
class Parties:
    """The parties' states of a rehearsal, by name, and its charter."""

    charter: Charter
    states: dict[str, StateDirectory]


def invented(values: int) -> NDArray[np.int64]:
    """Integers of nobody, int64 [values]."""
    return np.random.default_rng().integers(-_LARGEST, _LARGEST + 1, values, dtype=np.int64)


def measure_ours(parties: Parties, round_number: int, folder: Path) -> ComponentCost:
    """One sum through the product's own code; every file goes to the new ``folder``."""
    charter = parties.charter
    folder.mkdir()
    decryptor = parties.states[charter.custodians.decryptor.name]
    context = PublicContext(
        decryptor.read(decryptor.role_directory() / "context.public"), charter.secure_sum
    )
    secret = SecretContext(
        decryptor.read_secret(decryptor.role_directory() / "context.secret"), charter.secure_sum
    )
    custodians = (charter.custodians.decryptor, *charter.custodians.unmaskers)
    signing_keys = {one.name: parties.states[one.name].signing_key() for one in custodians}
    stated = begin_under_first_epochs(charter, round_number, signing_keys, now=utc_now())
    round_keys = open_round_keys(charter, round_number, stated)
    releases = {item.name: invented(charter.secure_sum.values) for item in charter.hospitals}
    contributions: dict[str, Contribution] = {}
    preparing, encrypting = [], []
    for name, release in releases.items():
        state = parties.states[name]
        preparing.append(timed(lambda: context.prepare(charter.secure_sum.frames))[0])
        keys = ContributionKeys(state.signing_key(), state.unsealing_key(), context)
        seconds, contributions[name] = timed(
            lambda name=name, release=release, keys=keys: make_contribution(  # type: ignore[misc]
                charter,
                round_keys,
                hospital=name,
                release=release,
                ledger_entry_digest=digest(b"rehearsal"),
                keys=keys,
                out=folder / name,
            )
        )
        encrypting.append(preparing[-1] + seconds)
    adding, sum_digest = timed(lambda: _add(charter, contributions, folder / "sum"))
    opening, opened = timed(
        lambda: _open(parties, round_number, contributions, secret, sum_digest, folder)
    )
    if (opened != sum(charter.weight_of(name) * x for name, x in releases.items())).any():
        raise InexactSum("the secure sum is not exact; report this with the charter.")
    cost = _cost(charter.secure_sum.values, encrypting, adding, opening)
    prepare = sum(preparing) / len(preparing) * 1e6 / charter.secure_sum.values
    return replace(cost, prepare=prepare)


def measure_baseline(scheme: Scheme, *, values: int, hospitals: int) -> ComponentCost:
    """One sum through ``scheme``."""
    releases = [invented(values) for _ in range(hospitals)]
    encrypting, contributions = [], []
    for release in releases:
        seconds, contribution = timed(lambda release=release: scheme.encode(release))  # type: ignore[misc]
        encrypting.append(seconds)
        contributions.append(contribution)
    adding, total = timed(lambda: scheme.add(contributions))
    opening, opened = timed(lambda: scheme.decode(total, values))
    if (opened != sum(releases)).any():
        raise InexactSum(f"{scheme.name} did not open the sum of what went in.")
    return _cost(values, encrypting, adding, opening)


def timed(call: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds that ``call`` took, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _cost(values: int, encrypting: Sequence[float], adding: float, opening: float) -> ComponentCost:
    micro = 1e6 / values
    count = len(encrypting)
    return ComponentCost(
        encrypt=sum(encrypting) / count * micro,
        prepare=0.0,
        aggregate=adding / count * micro,
        open=opening * micro,
    )


def _add(charter: Charter, contributions: dict[str, Contribution], out: Path) -> str:
    """As the aggregator: every chunk checked and hashed, the sum written and hashed."""
    parts = [
        (charter.weight_of(name), _hashed(read_chunks(contribution.ciphertext)))
        for name, contribution in contributions.items()
    ]
    hashed = Digesting()
    with out.open("xb") as file:
        for chunk in weighted_sum(parts, charter.secure_sum):
            hashed.update(chunk)
            file.write(chunk)
    return hashed.digest


def _open(
    parties: Parties,
    round_number: int,
    contributions: dict[str, Contribution],
    secret: SecretContext,
    sum_digest: str,
    folder: Path,
) -> NDArray[np.int64]:
    """As decryptor, unmaskers and one recipient, one after the other."""
    charter = parties.charter
    decryptor = seal_decryptor_answer(
        charter,
        round_number,
        masked_sum=_decrypted(charter, secret, folder / "sum"),
        sum_digest=sum_digest,
        signing_key=parties.states[charter.custodians.decryptor.name].signing_key(),
        out=folder / "decryptor",
    )
    unmaskers = tuple(
        _unmask(parties, round_number, index, contributions, folder)
        for index in range(len(charter.custodians.unmaskers))
    )
    recipient = charter.hospitals[0].name
    return open_sum(
        charter,
        round_number,
        recipient=recipient,
        unsealing_key=parties.states[recipient].unsealing_key(),
        answers=Answers(decryptor, unmaskers),
    ).values


def _decrypted(
    charter: Charter, secret: SecretContext, total: Path
) -> Iterator[NDArray[np.uint64]]:
    sizes = iter(frame_sizes(charter.secure_sum))
    for chunk in _hashed(read_chunks(total)):
        check_chunk(chunk, charter.secure_sum)
        for start in range(0, len(chunk), charter.secure_sum.frame_bytes):
            frame = chunk[start : start + charter.secure_sum.frame_bytes]
            yield secret.decrypt_frame(frame)[: next(sizes)]


def _unmask(
    parties: Parties,
    round_number: int,
    index: int,
    contributions: dict[str, Contribution],
    folder: Path,
) -> Answer:
    charter = parties.charter
    name = charter.custodians.unmaskers[index].name
    state = parties.states[name]
    manifests, streams = [], []
    for hospital, contribution in contributions.items():
        manifest = open_manifest(charter, contribution.manifest)
        purpose = mask_purpose(charter, round_number, hospital=hospital, unmasker=name)
        info = purpose.seed_info(manifest.ciphertext_digest, manifest.round_keys_digest)
        seed = state.unsealing_key().open(contribution.sealed_seeds[index], info)
        manifests.append((contribution.manifest, manifest))
        streams.append((charter.weight_of(hospital), MaskStream(seed, purpose)))
    return seal_unmasker_answer(
        charter,
        round_number,
        unmasker=name,
        mask_sum=weighted_mask_sum(
            streams, frame_sizes(charter.secure_sum), charter.secure_sum.packed_bits
        ),
        manifests=manifests,
        signing_key=state.signing_key(),
        out=folder / name,
    )


def _hashed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """``chunks``, digested on their way, as the aggregator and the decryptor do."""
    hashed = Digesting()
    for chunk in chunks:
        hashed.update(chunk)
        yield chunk
