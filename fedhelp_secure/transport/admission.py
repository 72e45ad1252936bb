"""Who may make a call to a server: asked when the call comes, and again for as long as it runs.

Everything follows from the server's trust list: whether it is fresh, whom the caller's certificates
speak for, and whether that party is revoked. What a call was admitted by is asked again whenever
the list changes; a call that would not be admitted any more is cancelled.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from cryptography import x509

from fedhelp_secure.errors import FedHelpError, UnavailablePeer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import (
    CallerNotAuthenticated,
    authorise,
    presented_chain,
    remember_caller,
)
from fedhelp_secure.transport.certificates import CertificateRefused, utc_now
from fedhelp_secure.transport.chain import verified_identity
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.trust.review import keep_reviewing
from fedhelp_secure.trust.store import HeldTrust, TrustListOutdated, check_not_revoked
from fedhelp_secure.trust.trust_list import TrustList

CLOSED_SENTENCE = "this party admits nobody at the moment; try again later."

_LOGGER = logging.getLogger(__name__)


_Verified = tuple[tuple[int, datetime.datetime], dict[bytes, Identity]]
"""Whom chains speak for, by one list (its sequence number) at one second."""


@dataclass(eq=False, slots=True)
class _RunningCall:
    """One admitted call; each is only equal to itself."""

    context: grpc.ServicerContext
    method: str
    chain: bytes
    """PEM, the caller's own certificate first."""
    admitted: datetime.datetime
    sequence: int
    """Of the list that it was last checked against."""


class Admission:
    """The calls of one server."""

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError or SignatureRefused if ``state`` has no trust list."""
        self._serving = state.identity
        self._trust = HeldTrust(state)
        self._running: set[_RunningCall] = set()
        self._lock = threading.Lock()
        self._outdated = False
        self._verified: _Verified = ((0, datetime.datetime.min), {})
        keep_reviewing(self)

    def admit(self, method: str, context: grpc.ServicerContext) -> Identity:
        """Who makes this call, from now on known to `access.caller`; the call is watched then.

        Raises UnavailablePeer if the trust list is out of date, CallerNotAuthenticated, Revoked or
        AccessRefused.
        """
        now = utc_now()
        try:
            trusted = self._trust.fresh(now)
        except TrustListOutdated as error:
            # Why is in the log, by `review`. It passes: who waits for that loses no round.
            raise UnavailablePeer(CLOSED_SENTENCE) from error
        chain = presented_chain(context)
        identity = self._allowed(method, chain, trusted, now)
        remember_caller(context, identity)
        call = _RunningCall(context, method, chain, now, trusted.sequence)
        with self._lock:
            self._running.add(call)
        if not context.add_callback(lambda: self._forget(call)):
            self._forget(call)
        return identity

    def identify(self, context: grpc.ServicerContext) -> Identity | None:
        """Whom the caller's certificates speak for, whatever it may do; None if for nobody."""
        now = utc_now()
        try:
            # The newest, fresh or not: callers are told apart also while nobody is admitted.
            return self._identity(presented_chain(context), self._trust.newest(), now)
        except FedHelpError:
            return None

    def review(self) -> None:
        """Cancel the running calls that would not be admitted under the present list."""
        try:
            trusted = self._trust.fresh(utc_now())
        except FedHelpError as error:
            self._note_outdated(error)
            self._cancel(self._calls(), error)
            return
        self._note_outdated(None)
        for call in self._calls():
            if call.sequence == trusted.sequence:
                continue
            call.sequence = trusted.sequence
            try:
                # As of then: a call does not end because a certificate has been replaced since.
                self._allowed(call.method, call.chain, trusted, call.admitted)
            except FedHelpError as error:
                self._cancel([call], error)

    def _allowed(
        self,
        method: str,
        chain: bytes,
        trusted: TrustList,
        now: datetime.datetime,
    ) -> Identity:
        identity = self._identity(chain, trusted, now)
        check_not_revoked(trusted, identity)
        authorise(method, identity, self._serving)
        return identity

    def _identity(self, chain: bytes, trusted: TrustList, now: datetime.datetime) -> Identity:
        # A burst of calls costs one verification: by the same list and in the same second it would
        # come out the same.
        moment, verified = (trusted.sequence, now), self._verified
        if verified[0] != moment:
            verified = self._verified = (moment, {})
        # Of this moment, whatever another thread has put in its place.
        known = verified[1]
        if chain not in known:
            known[chain] = _verified(chain, trusted, now)
        return known[chain]

    def _calls(self) -> list[_RunningCall]:
        with self._lock:
            return list(self._running)

    def _forget(self, call: _RunningCall) -> None:
        with self._lock:
            self._running.discard(call)

    def _cancel(self, calls: Sequence[_RunningCall], error: FedHelpError) -> None:
        for call in calls:
            _LOGGER.warning("a running call of %s is ended: %s", call.method, error)
            call.context.cancel()
            self._forget(call)

    def _note_outdated(self, error: FedHelpError | None) -> None:
        if error is not None and not self._outdated:
            _LOGGER.error("nobody is admitted any more: %s", error)
        elif error is None and self._outdated:
            _LOGGER.warning("the trust list is up to date again: calls are admitted")
        self._outdated = error is not None


def _verified(chain: bytes, trusted: TrustList, now: datetime.datetime) -> Identity:
    try:
        return verified_identity(x509.load_pem_x509_certificates(chain), trusted, now=now)
    except (CertificateRefused, ValueError) as error:
        cause = str(error) if isinstance(error, CertificateRefused) else "it cannot be read."
        raise CallerNotAuthenticated(f"this call's certificate is refused: {cause}") from error
