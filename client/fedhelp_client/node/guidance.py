"""The foundation model's answer, fetched from the broker beside the node's other work."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from fedhelp_client.node.coordinator import retried
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import FedHelpError, InternalError
from fedhelp_secure.foundation_model import fetch_answer
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.identity import Identity, Role


class Guidance:
    """The foundation model's answer about the proxy set, fetched while other work goes on."""

    def __init__(self, state: StateDirectory, charter: Charter, address: str) -> None:
        broker = Identity(charter.federation, Role.BROKER, charter.broker.name)
        self._answer: NDArray[np.float32] | None = None
        self._error: FedHelpError | None = None

        def fetch() -> None:
            try:
                self._answer, _ = retried(lambda: fetch_answer(state, address, charter, broker))
            except FedHelpError as error:
                self._error = error

        # A daemon: a node that fails for another reason must not wait for the broker.
        self._thread = threading.Thread(target=fetch, name="guidance", daemon=True)
        self._thread.start()

    def embeddings(self) -> NDArray[np.float32]:
        """The embeddings [N, 768] once they are there; raises what fetching them raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise InternalError("fetching the foundation model's answer failed; see the log.")
        return self._answer
