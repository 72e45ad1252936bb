"""The signing keys with which a hospital writes its ledger, and the way from one to the next."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedhelp_secure.signing import SigningKey, VerifyingKey
from fedhelp_secure.state import KeyNotHeld


class KeyRing(Protocol):
    """The signing keys of one hospital; `fedhelp_secure.state.StateDirectory` is one."""

    def signing_key(self) -> SigningKey:
        """The present one."""

    def signing_key_for(self, public: VerifyingKey) -> SigningKey:
        """The present one, or a former one; raises KeyNotHeld."""

    def verifying_keys(self) -> tuple[VerifyingKey, ...]:
        """All that the hospital has or had, the present one first."""


@dataclass(frozen=True, slots=True)
class OneKey:
    """The ring of a hospital that never had another key."""

    key: SigningKey

    def signing_key(self) -> SigningKey:
        """The key."""
        return self.key

    def signing_key_for(self, public: VerifyingKey) -> SigningKey:
        """The key; raises KeyNotHeld for another."""
        if public != self.key.public:
            raise KeyNotHeld("this hospital has another signing key than the one asked for.")
        return self.key

    def verifying_keys(self) -> tuple[VerifyingKey, ...]:
        """The key's public half."""
        return (self.key.public,)


def steps(keys: KeyRing, present: VerifyingKey | None) -> Iterator[tuple[SigningKey, SigningKey]]:
    """(old, new) from the key that signs a ledger to the hospital's present one, one by one.

    Also through those under which nothing was written, and, with None for a ledger that is empty,
    from the first on: whichever of them a charter names, its auditors find it. Raises KeyNotHeld if
    the ledger's own key was destroyed.
    """
    known = keys.verifying_keys()[::-1]
    held = _held(keys, known if present is None else known[known.index(present) :])
    if present is not None and held[0].public != present:
        raise KeyNotHeld("the key that signed the ledger's last entry was destroyed.")
    return itertools.pairwise(held)


def _held(keys: KeyRing, known: Sequence[VerifyingKey]) -> list[SigningKey]:
    """The private halves of those that were not destroyed; the present one is the last."""
    held = []
    for public in known:
        with contextlib.suppress(KeyNotHeld):
            held.append(keys.signing_key_for(public))
    return held
