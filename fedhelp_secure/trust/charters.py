"""Charters as one party opens them: signed by the governance key that it trusts now.

Once that key has been rotated, a former one counts for those charters alone that its succession
names, in the party's trust list: the registrar had signed them by then. Nothing else that a former
key signs, whatever date it bears, is a charter.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_secure.charter import Charter, open_charter
from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.trust.governance import GovernanceSuccession
from fedhelp_secure.trust.store import TrustStore


@dataclass(frozen=True, slots=True)
class OwnCharter:
    """A charter that one party may act under, and the governance key that signed it."""

    charter: Charter
    signer: VerifyingKey


def open_own_charter(state: StateDirectory, envelope: bytes) -> OwnCharter:
    """The charter in ``envelope``, if the key that signed it counts for it.

    Raises SignatureRefused, MalformedMessage or CharterRefused.
    """
    present = state.governance_key()
    try:
        return OwnCharter(open_charter(envelope, present), present)
    except SignatureRefused:
        for succession in _successions(state):
            former = _opened(envelope, succession.old_key)
            if former is not None and former.digest in succession.charters:
                return OwnCharter(former, succession.old_key)
        raise


def _successions(state: StateDirectory) -> tuple[GovernanceSuccession, ...]:
    store = TrustStore(state)
    return store.current().successions() if store.path.exists() else ()


def _opened(envelope: bytes, key: VerifyingKey) -> Charter | None:
    try:
        return open_charter(envelope, key)
    except SignatureRefused:
        return None
