"""The trust list that a party holds: the newest it has seen, never an older one."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fedhelp_secure.canonical import digest
from fedhelp_secure.errors import ConfigurationError, PeerError, PolicyError
from fedhelp_secure.keystore.files import exclusive, make_directory
from fedhelp_secure.state import StateDirectory, write_atomically
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.trust_list import TrustList, open_trust_list

CLOCK_SKEW = datetime.timedelta(minutes=5)
"""A list may seem to be issued so far in the future: clocks differ."""

_LOGGER = logging.getLogger(__name__)


class TrustListRolledBack(PeerError):
    """A trust list is older than the one that this party holds, or contradicts it."""

    code = "trust-list-rollback"


class TrustListFromFuture(PeerError):
    """A trust list is dated later than this party's clock, by more than clocks may differ."""

    code = "trust-list-future"


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

    def install(self, envelope: bytes, *, now: datetime.datetime) -> TrustList:
        """Take ``envelope``'s list if it is not older than the one held; returns the newest.

        Raises TrustListRolledBack, TrustListFromFuture, SignatureRefused or MalformedMessage, and
        changes nothing then.
        """
        offered = open_trust_list(envelope, self._state.governance_key())
        check_not_from_future(offered, now)
        with self.locked():
            if self._path.exists():
                if self._state.read(self._path) == envelope:
                    self._follow(offered)
                    return offered
                check_newer(offered, self.current())
            write_atomically(self._path, envelope)
            self._follow(offered)
        return offered

    def _follow(self, held: TrustList) -> None:
        """Trust the governance key that ``held`` leads to, from now on.

        After the list is there: until then, and after a crash in between, the list is opened from
        the former key, and the next list mends it.
        """
        known = self._state.governance_key()
        key = held.governance_key(known)
        if key != known:
            text = key.to_base64().encode("ascii") + b"\n"
            write_atomically(self._state.governance_key_path, text)
            _LOGGER.warning("the governance key is now %s", digest(key.raw))

    def replace(self, make: Callable[[TrustList], bytes]) -> bytes:
        """For the registrar, whose own list it is: keep and return what ``make`` gives.

        ``make`` gets the list held and returns the envelope of the next one; nobody else changes
        the list meanwhile.
        """
        with self.locked():
            envelope = make(self.current())
            write_atomically(self._path, envelope)
            self._follow(self.current())
        return envelope

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within it the list does not change, here and in other processes. Not to be nested."""
        make_directory(self._path.parent)
        with exclusive(self._path.with_suffix(".lock")):
            yield


class HeldTrust:
    """The trust list as a running process sees it: read again when its file changes.

    A file that goes back to an older list, or is none, does not replace the newest list seen.
    """

    def __init__(self, state: StateDirectory) -> None:
        """Raises what `TrustStore.current` raises."""
        self._store = TrustStore(state)
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._held = self._store.current()

    def fresh(self, now: datetime.datetime) -> TrustList:
        """The list, if it may be relied on at ``now``; raises TrustListOutdated otherwise."""
        held = self.newest()
        check_fresh(held, now)
        return held

    def newest(self) -> TrustList:
        """The list, however old."""
        seen = self._stamp()
        with self._lock:
            if seen != self._seen:
                self._held = self._newer(self._held)
                # As it was before the file was read: a change meanwhile shows the next time.
                self._seen = seen
            return self._held

    def _newer(self, held: TrustList) -> TrustList:
        try:
            offered = self._store.current()
            check_newer(offered, held)
        except (PeerError, ConfigurationError) as error:
            _LOGGER.error("%s is not taken (%s): %s", self._store.path, error.code, error)
            return held
        return offered

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._store.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


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
            f"{identity.role.value} {identity.name} was revoked and may neither call nor be "
            "called; ask the registrar why."
        )


def check_not_from_future(offered: TrustList, now: datetime.datetime) -> None:
    """Raises TrustListFromFuture if ``offered`` is later than ``now`` by more than clocks differ.

    It would be the newest for good: whatever is issued in the right time came before it.
    """
    if offered.issued_at > now + CLOCK_SKEW:
        raise TrustListFromFuture(
            "a trust list was issued later than this machine's clock shows; check the clock, "
            "and the registrar's, then get the list again."
        )


def check_newer(offered: TrustList, held: TrustList) -> None:
    """Raises TrustListRolledBack unless ``offered`` may take the place of ``held``."""
    same = {"issued": held.issued}
    if offered.governance[: len(held.governance)] != held.governance:
        raise TrustListRolledBack(
            "a trust list is of a governance key that has been succeeded; keep the present one."
        )
    if offered.federation != held.federation:
        raise TrustListRolledBack("a trust list is for another federation; keep the present one.")
    if (offered.sequence, offered.issued_at) < (held.sequence, held.issued_at) or (
        offered.sequence == held.sequence and offered.model_copy(update=same) != held
    ):
        raise TrustListRolledBack(
            "a trust list is older than the one held here, or contradicts it; keep the present "
            "one and ask the registrar whether its state was restored from a backup."
        )
