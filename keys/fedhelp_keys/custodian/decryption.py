"""Decryption in a child process: it alone parses foreign ciphertexts, and it may die alone.

The child reads the secret context from the state itself, and answers over a pipe with bytes of a
fixed form (nothing is unpickled from it). It lives as long as it behaves: a request that kills or
stalls it is refused, and the next request starts a new one.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import FedHelpError, InternalError
from fedhelp_secure.secure_sum.ckks import NotAnInteger, SecretContext
from fedhelp_secure.secure_sum.framing import CiphertextRefused, check_framing, frames
from fedhelp_secure.secure_sum.ring import pack, unpack

_LOG = logging.getLogger(__name__)

START_SECONDS = 60.0
"""What a sum may take besides its frames: starting the child on a busy machine."""

_SECONDS_PER_FRAME = 0.1
"""A hundred times what a frame takes on one core."""

_DONE = b"D"
_NOT_AN_INTEGER = b"N"
_REFUSED = b"R"
_FAILED = b"F"


class DecryptionFailed(InternalError):
    """The worker could not decrypt for a reason that is not the ciphertext's."""

    code = "decryption"


class DecryptionWorker:
    """Decrypts sums in a child process. Thread-safe; one sum at a time."""

    def __init__(self, secret_context: Path, *, start_seconds: float = START_SECONDS) -> None:
        """``secret_context`` is the file that `fedhelp custodian prepare` wrote."""
        self._secret_context = secret_context
        self.start_seconds = start_seconds
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def decrypt(self, ciphertext: bytes, secure_sum: SecureSum) -> NDArray[np.uint64]:
        """The integers in ``ciphertext`` modulo ``2**ring_bits``: uint64 [values].

        Raises CiphertextRefused for a wrong framing, for bytes that TenSEAL refuses, and for those
        that kill or stall the child; NotAnInteger as `SecretContext.decrypt` does.
        """
        check_framing(ciphertext, secure_sum)
        limit = self.start_seconds + _SECONDS_PER_FRAME * frames(secure_sum)
        with self._lock:
            reply = self._ask(ciphertext, secure_sum, limit)
        if reply[:1] == _DONE:
            return unpack(reply[1:], secure_sum.ring_bits, values=secure_sum.values)
        if reply == _NOT_AN_INTEGER:
            raise NotAnInteger(
                "a decrypted sum is not made of integers; a contribution in it was not encrypted "
                "under this charter."
            )
        if reply == _REFUSED:
            raise _refused()
        raise DecryptionFailed("the secret context does not fit the charter; see the worker's log.")

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int | None:
        """The child's, for supervision; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    def _ask(self, ciphertext: bytes, secure_sum: SecureSum, limit: float) -> bytes:
        connection = self._started()
        try:
            connection.send_bytes(canonical_json(secure_sum.model_dump(mode="json")))
            connection.send_bytes(ciphertext)
            if connection.poll(limit):
                return connection.recv_bytes()
        except (EOFError, OSError):
            _LOG.warning("the decryption worker died on a ciphertext; it will be started anew")
        else:
            _LOG.warning("the decryption worker stalled on a ciphertext; it will be started anew")
        self._stop()
        raise _refused()

    def _started(self) -> Connection:
        if self._process is not None and self._connection is not None and self._process.is_alive():
            return self._connection
        self._stop()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=_serve, args=(theirs, str(self._secret_context)), name="decryption", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        return ours

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._connection = None


def _serve(connection: Connection, secret_context: str) -> None:
    # A terminal's interrupt goes to the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            parameters = connection.recv_bytes()
            ciphertext = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_reply(parameters, ciphertext, Path(secret_context)))


def _reply(parameters: bytes, ciphertext: bytes, secret_context: Path) -> bytes:
    try:
        parse_json(parameters, "the parameters")
        secure_sum = SecureSum.model_validate_json(parameters)
        context = SecretContext(secret_context.read_bytes(), secure_sum)
        integers = context.decrypt(ciphertext)
    except NotAnInteger:
        return _NOT_AN_INTEGER
    except CiphertextRefused:
        return _REFUSED
    except (FedHelpError, OSError):
        _LOG.exception("the secret context cannot be used")
        return _FAILED
    return _DONE + pack(integers, secure_sum.ring_bits)


def _refused() -> CiphertextRefused:
    return CiphertextRefused(
        "the ciphertext sum cannot be decrypted; add the contributions again, each of them checked."
    )
