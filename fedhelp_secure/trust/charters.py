"""Charters as one party opens them: signed by the governance key that it trusts now.

Once that key has been rotated, a former one counts for those charters alone that its succession
names, in the party's trust list: the registrar had signed them by then. Nothing else that a former
key signs, whatever date it bears, is a charter.
"""

from __future__ import annotations

from fedhelp_secure.charter import Charter, open_charter
from fedhelp_secure.errors import SignatureRefused
from fedhelp_secure.signing import VerifyingKey
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.trust.governance import GovernanceSuccession
from fedhelp_secure.trust.store import TrustStore


def open_own_charter(state: StateDirectory, envelope: bytes) -> Charter:
    """The charter in ``envelope``; raises as `charter_signer` does."""
    return open_charter(envelope, charter_signer(state, envelope))


def charter_signer(state: StateDirectory, envelope: bytes) -> VerifyingKey:
    """The governance key that signed ``envelope`` and counts for it; the charter is checked.

    Raises SignatureRefused, MalformedMessage or CharterRefused.
    """
    present = state.governance_key()
    try:
        open_charter(envelope, present)
    except SignatureRefused as refused:
        for succession in _successions(state):
            if _is_named(envelope, succession):
                return succession.old_key
        raise refused
    return present


def _successions(state: StateDirectory) -> tuple[GovernanceSuccession, ...]:
    store = TrustStore(state)
    return store.current().successions() if store.path.exists() else ()


def _is_named(envelope: bytes, succession: GovernanceSuccession) -> bool:
    try:
        return open_charter(envelope, succession.old_key).digest in succession.charters
    except SignatureRefused:
        return False
