"""Asking the registrar for the present trust list, again and again.

A revocation reaches every party that can reach the registrar within `BOUND_SECONDS`: one wait, one
call, one review of what runs.
"""

from __future__ import annotations

import logging
import time

from fedhelp_secure.errors import FedHelpError
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.transport.client import open_channel, translated_errors
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.trust.store import TrustStore
from fedhelp_secure.trust.trust_list import TrustList
from fedhelp_secure.wire.v1 import enrolment_pb2, enrolment_pb2_grpc

POLL_SECONDS = 3.0
CALL_SECONDS = 5.0
BOUND_SECONDS = 10.0

_LOGGER = logging.getLogger(__name__)


def refresh_trust_list(
    state: StateDirectory, address: str, *, registrar: str = "registrar"
) -> TrustList:
    """Fetch the present list from the registrar called ``registrar`` and keep it.

    Works with a list that is out of date, which it mends: the answer is signed. Raises
    UnavailablePeer, PeerNotAuthenticated, PeerRefused (code ``revoked``: this party is out) or what
    `TrustStore.install` raises, and then the present list stays.
    """
    expected = Identity(state.identity.federation, Role.REGISTRAR, registrar)
    with (
        open_channel(state, address, expected=expected, even_if_outdated=True) as channel,
        translated_errors("the registrar"),
    ):
        stub = enrolment_pb2_grpc.EnrolmentStub(channel)
        response = stub.GetTrustList(enrolment_pb2.GetTrustListRequest(), timeout=CALL_SECONDS)
    return TrustStore(state).install(response.trust_list, now=utc_now())


class TrustListRefresh:
    """The task of fetching the list, for an `Upkeep`.

    Unlike others it does not back off when it fails: a registrar that comes back may have a
    revocation to tell.
    """

    what = "fetching the trust list"

    def __init__(self, state: StateDirectory, address: str) -> None:
        self._state = state
        self._address = address
        self._due = time.monotonic()
        self._failing = ""

    def due_in(self) -> float:
        """Seconds until the next poll."""
        return self._due - time.monotonic()

    def run(self) -> None:
        """Poll once; a failure is logged when it begins, not every few seconds."""
        self._due = time.monotonic() + POLL_SECONDS
        failing = ""
        try:
            refresh_trust_list(self._state, self._address)
        except FedHelpError as error:
            failing = str(error)
        except OSError as error:
            # Of this machine, such as a full disk: no reason to poll less often either.
            failing = type(error).__name__
        if failing != self._failing:
            if failing:
                _LOGGER.warning("%s failed, will be tried again: %s", self.what, failing)
            else:
                _LOGGER.warning("%s works again", self.what)
        self._failing = failing

    def failure_level(self) -> int:
        """Of what `run` does not expect."""
        return logging.ERROR
