"""The certificates with which parties bring what is logged: kept for the auditor's bundle.

Once each, with the trust list under which it was admitted: a certificate is bound to its party by
its authority's signature, and the list by the registrar's, so that nothing rests on the
aggregator's word. How many there are is bounded by what the log takes of a party.
"""

from __future__ import annotations

import threading

import grpc

from fedhelp_secure.canonical import digest
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.access import presented_chain
from fedhelp_secure.trust.store import TrustStore
from fedhelp_server.aggregator.journal import Journal


class Certificates:
    """Remembers the caller's and this aggregator's own; safe for many threads."""

    def __init__(self, state: StateDirectory, journal: Journal) -> None:
        self._state = state
        self._journal = journal
        self._lock = threading.Lock()
        self._kept: set[str] = set()

    def remember(self, context: grpc.ServicerContext) -> None:
        """Keep the chain of the connection that this call came by, and the present one of ours."""
        self._keep(presented_chain(context))
        self._keep(self._state.tls_certificate_path.read_bytes())

    def _keep(self, chain: bytes) -> None:
        name = digest(chain)
        with self._lock:
            if name in self._kept:
                return
            with self._journal.change() as change:
                change.add_certificate(chain, TrustStore(self._state).path.read_bytes())
            self._kept.add(name)
