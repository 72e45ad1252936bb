"""A rehearsal: every round of a charter with invented integers, before any patient is in it.

The same uploads, checks and openings as a release, and the same bytes on the wire. No images, no
models, no noise and no ledger: the integers are random and mean nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.node.coordinator import Coordinator, connect, read_context
from fedhelp_client.node.files import ReleaseFiles, answers_folder
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.memory import peak_rss_mb
from fedhelp_secure.own_keys import hospital_keys
from fedhelp_secure.privacy.witness import rehearsal_entry_digest
from fedhelp_secure.secure_sum.bodies import body_bytes
from fedhelp_secure.secure_sum.contribution import (
    Contribution,
    ContributionKeys,
    make_contribution,
)
from fedhelp_secure.secure_sum.round_keys import RoundKeys
from fedhelp_secure.state import StateDirectory

Listener = Callable[[str], None]
"""Called with a sentence for the operator."""


class NotARehearsal(PolicyError):
    """A charter is for patients; invented numbers must not spoil its sums."""

    code = "not-a-rehearsal"


@dataclass(frozen=True, slots=True)
class RehearsalOptions:
    """Where a rehearsal finds its peers, and where it leaves figures."""

    context: Path
    aggregator: tuple[str, str]
    """Name and host:port."""
    figures: Path | None
    """One JSON line a round: see `RoundFigures`."""
    reveal: Path | None
    """The invented integers, one int64 array [values] a round, as `numpy.save` writes them one
    after the other. Of a round whose contribution an earlier run made, there is none."""


@dataclass(slots=True)
class RoundFigures:
    """What one round took. Times are of `time.monotonic`, so they compare between processes."""

    round: int
    values: int
    started: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    upload_bytes: int = 0
    download_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: keys, encrypt, upload, wait (for the others and the custodians), fetch, open."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """The same stages, the processor time of this process."""
    hospitals: tuple[str, ...] = ()
    """In the sum."""
    invented_digest: str = ""
    """Of this hospital's integers as little-endian int64; empty if an earlier run made them."""
    sum_digest: str = ""
    """Of the opened sum, likewise."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as the stage called ``name``."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = round(time.perf_counter() - wall, 6)
        self.cpu_seconds[name] = round(time.process_time() - processor, 6)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        figures = {name: getattr(self, name) for name in self.__slots__}
        peak = round(peak_rss_mb(), 1)
        return figures | {"hospitals": list(self.hospitals), "peak_rss_mb": peak}


def rehearse(
    state: StateDirectory, options: RehearsalOptions, say: Listener
) -> Iterator[RoundFigures]:
    """Take part in every round of the rehearsal that the aggregator runs; yields their figures.

    Raises NotARehearsal before anything is sent if the charter is for patients, RoundFailed if a
    round ends without a sum, and what `Coordinator.open_sum` raises.
    """
    coordinator = connect(state, options.aggregator[1], options.aggregator[0])
    charter = coordinator.charter
    check_rehearsal(charter)
    context = read_context(charter, options.context)
    own = hospital_keys(state, charter)
    keys = ContributionKeys(own.signing_key, own.unsealing_key, context)
    rehearsal = Rehearsal(coordinator, keys, ReleaseFiles.of_charter(state, charter.digest), say)
    for path in (options.figures, options.reveal):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
    context.prepare(charter.rounds.count * charter.secure_sum.frames)
    for number in range(1, charter.rounds.count + 1):
        figures, invented = rehearsal.take_part(number)
        if options.figures is not None:
            with options.figures.open("a") as lines:
                lines.write(json.dumps(figures.document()) + "\n")
        if options.reveal is not None and invented is not None:
            with options.reveal.open("ab") as arrays:
                np.save(arrays, invented)
        yield figures


def check_rehearsal(charter: Charter) -> None:
    """Raises NotARehearsal unless ``charter`` is one."""
    if charter.privacy.mechanism != "rehearsal":
        raise NotARehearsal(
            "this charter is for patients; invented numbers would spoil its sums. Ask the "
            "registrar for a charter whose privacy.mechanism is rehearsal."
        )


def invent(charter: Charter) -> NDArray[np.int64]:
    """Integers of nobody, int64 [values], as large as the charter lets a release be."""
    bound = charter.privacy.clip_units * charter.privacy.maximum_patients
    # Nothing depends on their being secret, and hospitals that draw slowly would be measured.
    return np.random.default_rng().integers(
        -bound, bound, charter.secure_sum.values, dtype=np.int64, endpoint=True
    )


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One hospital's part in a rehearsal."""

    coordinator: Coordinator
    keys: ContributionKeys
    files: ReleaseFiles
    say: Listener

    def take_part(self, number: int) -> tuple[RoundFigures, NDArray[np.int64] | None]:
        """One round; returns its figures and the integers, None if an earlier run made them."""
        charter = self.coordinator.charter
        self.coordinator.wait_until_open(number, self.say)
        figures = RoundFigures(number, charter.secure_sum.values)
        invented = None
        contribution = self.files.stored(number)
        if contribution is None:
            invented = invent(charter)
            figures.started = time.monotonic()
            with figures.stage("keys"):
                round_keys = self.coordinator.round_keys(number, self.keys)
            with figures.stage("encrypt"):
                contribution = self._contribution(round_keys, invented)
        with figures.stage("upload"):
            receipt = self.coordinator.contribute(number, contribution)
        self.files.store_receipt(number, receipt.SerializeToString(deterministic=True))
        figures.upload_bytes = charter.secure_sum.ciphertext_bytes + sum(
            map(len, (contribution.manifest, *contribution.sealed_seeds))
        )
        with figures.stage("wait"):
            self.coordinator.wait_until_opened(number, self.say)
        self._open(number, figures)
        self.coordinator.cosign_log()
        if invented is not None:
            figures.invented_digest = digest_of_integers(invented)
        return figures, invented

    def _contribution(self, round_keys: RoundKeys, invented: NDArray[np.int64]) -> Contribution:
        charter = self.coordinator.charter
        return self.files.store(
            round_keys.round_number,
            lambda ciphertext: make_contribution(
                charter,
                round_keys,
                hospital=self.coordinator.state.identity.name,
                release=invented,
                # There is no ledger: the digest only says so, in the place of an entry's.
                ledger_entry_digest=rehearsal_entry_digest(charter.digest),
                keys=self.keys,
                out=ciphertext,
            ),
        )

    def _open(self, number: int, figures: RoundFigures) -> None:
        with answers_folder(self.coordinator.state) as folder:
            with figures.stage("fetch"):
                answers = self.coordinator.fetch_answers(number, folder)
            with figures.stage("open"):
                opened = self.coordinator.open_sum(number, answers)
        figures.ended = time.monotonic()
        every = (answers.decryptor, *answers.unmaskers)
        figures.download_bytes = len(every) * body_bytes(self.coordinator.charter.secure_sum) + sum(
            len(answer.statement) + sum(map(len, answer.sealed_keys.values())) for answer in every
        )
        figures.hospitals = opened.hospitals
        figures.sum_digest = digest_of_integers(opened.values)


def digest_of_integers(integers: NDArray[np.int64]) -> str:
    """Of ``integers`` as little-endian 64-bit words."""
    # Without a copy: a segmentation's sum has half a gigabyte.
    return digest(integers.astype("<i8", copy=False).data)
