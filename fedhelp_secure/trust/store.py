"""The trust list that a party holds: the newest it has seen, never an older one."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from fedhelp_secure.errors import ConfigurationError, PeerError, PolicyError
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.trust_list import TrustList, open_trust_list

CLOCK_SKEW = datetime.timedelta(minutes=5)
"""A list may seem to be issued so far in the future: clocks differ."""


class TrustListRolledBack(PeerError):
    """A trust list is older than the one that this party holds, or contradicts it."""

    code = "trust-list-rollback"


class TrustListOutdated(ConfigurationError):
    """This party's trust list is older than it allows: nobody is admitted until it is renewed."""

    code = "trust-list-outdated"


class Revoked(PolicyError):
    """The party was revoked."""

    code = "revoked"


class TrustStore:
    """One state's trust list. Safe between threads and processes."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._path = path_of(state)

    @property
    def path(self) -> Path:
        """The envelope's file."""
        return self._path

    def current(self) -> TrustList:
        """The list held now; raises StateError if there is none, and SignatureRefused."""
        return open_trust_list(self._state.read(self._path), self._state.governance_key())

    def install(self, envelope: bytes) -> TrustList:
        """Take ``envelope``'s list if it is not older than the one held; returns the newest.

        Raises TrustListRolledBack, SignatureRefused or MalformedMessage, and changes nothing then.
        """
        offered = open_trust_list(envelope, self._state.governance_key())
        with self._locked():
            if self._path.exists():
                _check_newer(offered, self.current())
            write_atomically(self._path, envelope)
        return offered

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def path_of(state: StateDirectory) -> Path:
    """Where ``state`` keeps its trust list."""
    return state.root / "trust" / "trust-list.json"


def check_fresh(trusted: TrustList, now: datetime.datetime) -> None:
    """Raises TrustListOutdated unless ``now`` is within the list's time."""
    if not trusted.issued_at - CLOCK_SKEW <= now <= trusted.expires_at:
        raise TrustListOutdated(
            "this party's trust list is out of date: check the clock and the connection to the "
            "registrar, or install a new list with 'fedhelp enrol trust FILE'."
        )


def check_not_revoked(trusted: TrustList, identity: Identity) -> None:
    """Raises Revoked if ``trusted`` puts ``identity`` out."""
    if trusted.revocation_of(identity) is not None:
        raise Revoked(
            "this party was revoked and may not call or be called; ask the registrar why."
        )


def _check_newer(offered: TrustList, held: TrustList) -> None:
    same = {"issued": held.issued}
    if offered.federation != held.federation:
        raise TrustListRolledBack("a trust list is for another federation; keep the present one.")
    if (offered.sequence, offered.issued_at) < (held.sequence, held.issued_at) or (
        offered.sequence == held.sequence and offered.model_copy(update=same) != held
    ):
        raise TrustListRolledBack(
            "a trust list is older than the one held here, or contradicts it; keep the present "
            "one and ask the registrar whether its state was restored from a backup."
        )
