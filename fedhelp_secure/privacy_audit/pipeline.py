"""The pipeline under attack: contribution, debit, noise share, weighted sum, opened integers.

Every step is the product's own: the mechanism as a node prepares it, the ledger, the sampler, each
looked up in its module when it is called, so that a mistake in any of them shows here. What the
adversary sees is the opened sum less all that it knows: other patients, the public model, the
colluders' whole releases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.privacy import noise
from fedhelp_secure.privacy.ledger import Ledger
from fedhelp_secure.privacy.mechanisms import Mechanism, PublicState, Setting
from fedhelp_secure.privacy_audit.encrypted import encrypted_sum
from fedhelp_secure.privacy_audit.parties import COHORT, COLLUDERS, PROXIES, TARGET, Parties
from fedhelp_secure.public_set import PublicSet, fit_projection

View = Literal["aggregate", "collusion"]
"""Who looks: everybody outside, at the opened sum; or aggregator and all custodians, at the
hospital's own noised release."""
VIEWS: tuple[View, ...] = ("aggregate", "collusion")

_Inputs = TypeVar("_Inputs")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the adversary has after all rounds, less what it knows: int64 [runs, rounds, values]."""

    aggregate: NDArray[np.int64]
    """Scaled by the weights of the sum."""
    collusion: NDArray[np.int64]

    def of(self, view: View) -> NDArray[np.int64]:
        """The array of one view."""
        return self.aggregate if view == "aggregate" else self.collusion


@dataclass(frozen=True, slots=True)
class Claim:
    """What the hospital's ledger says of all rounds."""

    aggregate: Fraction
    collusion: Fraction
    delta: str

    def of(self, view: View) -> Fraction:
        """The epsilon of one view."""
        return self.aggregate if view == "aggregate" else self.collusion


@dataclass(slots=True)
class Pipeline(Generic[_Inputs]):
    """One federation and its ledgers; use it as a context manager."""

    parties: Parties
    mechanism: Callable[[Setting], Mechanism[_Inputs]]
    """What makes a hospital's mechanism; it takes ``_Inputs`` of the hospital's patients."""
    states: Sequence[PublicState]
    """What is public before each round: privacy must hold for any."""
    encrypt: bool
    _stack: ExitStack = field(default_factory=ExitStack)
    _scratch: Path = field(init=False)
    _ledgers: dict[str, Ledger] = field(init=False, default_factory=dict)
    _worlds: int = 0

    def __enter__(self) -> Pipeline[_Inputs]:
        self._scratch = Path(self._stack.enter_context(TemporaryDirectory(prefix="fedhelp-audit-")))
        self._ledgers = {
            name: Ledger.open(
                self._scratch / f"{name}.sqlite",
                hospital=name,
                signing_key=self.parties.signing_keys[name],
            )
            for name in COHORT
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def debit(self) -> list[dict[str, str]]:
        """Reserve every round in every ledger; digests of the entries by hospital."""
        charter = self.parties.charter
        return [
            {name: ledger.reserve(charter, number).digest for name, ledger in self._ledgers.items()}
            for number in range(1, charter.rounds.count + 1)
        ]

    def claim(self) -> Claim:
        """What the target's ledger says after `debit`."""
        spent = self._ledgers[TARGET].spent(self.parties.charter)
        return Claim(
            spent.epsilon_aggregate, spent.epsilon_collusion, self.parties.charter.privacy.delta
        )

    def query(self, round_number: int, inputs: _Inputs) -> NDArray[np.int64]:
        """A hospital's query of ``inputs`` in one round, without noise: int64 [values]."""
        return self._mechanism(TARGET).contribution(self.states[round_number - 1], inputs)

    def _mechanism(self, hospital: str) -> Mechanism[_Inputs]:
        return self.mechanism(Setting(self.parties.charter, black_images(), hospital))

    def _releases(
        self, round_number: int, hospital: str, inputs: _Inputs, *, runs: int
    ) -> NDArray[np.int64]:
        """What ``hospital`` would send in each of ``runs`` worlds, one after the other."""
        prepared = self._mechanism(hospital).prepare(self.states[round_number - 1], inputs)
        shares: list[NDArray[np.int64]] = []

        def one_of_many(values: int, scale_units: int) -> NDArray[np.int64]:
            # All worlds' shares in one draw: they are independent integers all the same.
            if not shares:
                shares.extend(noise.draw_share(runs * values, scale_units).reshape(runs, values))
            return shares.pop()

        return np.concatenate([prepared(one_of_many) for _ in range(runs)])

    def observe(
        self, debits: Sequence[dict[str, str]], inputs: _Inputs, known: _Inputs, *, runs: int
    ) -> Seen:
        """``runs`` independent worlds in which the target releases ``inputs``.

        The adversary knows that they are these or ``known``, which the other hospitals release.
        """
        self._worlds += 1
        rounds = [
            self._round(number, entries, inputs, known, runs=runs)
            for number, entries in enumerate(debits, start=1)
        ]
        return Seen(
            np.stack([seen.aggregate for seen in rounds], axis=1),
            np.stack([seen.collusion for seen in rounds], axis=1),
        )

    def _round(
        self,
        number: int,
        entries: dict[str, str],
        inputs: _Inputs,
        known: _Inputs,
        *,
        runs: int,
    ) -> Seen:
        charter = self.parties.charter
        known_query = self.query(number, known)
        releases = {
            name: self._releases(number, name, inputs if name == TARGET else known, runs=runs)
            for name in COHORT
        }
        opened = self._opened(number, entries, releases, runs=runs)
        for name in COHORT:
            certain = releases[name] if name in COLLUDERS else np.tile(known_query, runs)
            opened = opened - charter.weight_of(name) * certain
        own = releases[TARGET] - np.tile(known_query, runs)
        return Seen(opened.reshape(runs, -1), own.reshape(runs, -1))

    def _opened(
        self,
        number: int,
        entries: dict[str, str],
        releases: dict[str, NDArray[np.int64]],
        *,
        runs: int,
    ) -> NDArray[np.int64]:
        if self.encrypt:
            parties = self.parties if runs == 1 else self.parties.widened(runs)
            folder = self._scratch / f"world-{self._worlds}-round-{number}"
            return encrypted_sum(parties, number, releases, entries, folder)
        charter = self.parties.charter
        total = np.zeros_like(releases[TARGET])
        for name, release in releases.items():
            total += charter.weight_of(name) * release
        return total


@cache
def black_images() -> PublicSet:
    """A public set, which mechanisms use after a round only, and for the number of labels."""
    embeddings = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    projection = fit_projection(embeddings, 2)
    images = np.zeros((PROXIES, 16, 16), dtype=np.uint8)
    return PublicSet(images, projection.apply(embeddings), projection)
