"""Decryption in a child process: SEAL meets foreign bytes there alone, and it may die alone.

The child gets the secret key over a pipe for one sum, forgets it after that, and answers with bytes
of a fixed form (nothing is unpickled from it). It lives as long as it behaves: a request that kills
or stalls it is refused, and the next request starts a new one.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import numpy as np
from numpy.typing import NDArray

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.charter import SecureSum
from fedhelp_secure.errors import FedHelpError, InternalError
from fedhelp_secure.secure_sum.ckks import NotAnInteger, SecretContext
from fedhelp_secure.secure_sum.residues import CiphertextRefused
from fedhelp_secure.secure_sum.ring import pack, unpack, word_bytes
from fedhelp_secure.transport.chunks import CHUNK_BYTES

_LOG = logging.getLogger(__name__)

LIMIT_SECONDS = 60.0
"""What starting the child may take, and then every chunk: thousands of times what either takes."""

MEMORY_BYTES = 4 << 30
"""Address space of the child; decryption takes a tenth of it. SEAL may hang where it gets no more
memory (a lock that its pool does not give back), which the time limit then ends."""

# What the parent sends begins with one of these.
_KEY = b"K"
_PARAMETERS = b"P"
_CHUNK = b"C"
_FORGET = b"E"
# What the child answers begins with one of these.
_DONE = b"D"
_NOT_AN_INTEGER = b"N"
_REFUSED = b"R"
_FAILED = b"F"


class DecryptionFailed(InternalError):
    """The worker could not decrypt for a reason that is not the ciphertext's."""

    code = "decryption"


class DecryptionWorker:
    """Decrypts sums in a child process. Thread-safe; one sum at a time."""

    def __init__(self, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.limit_seconds = limit_seconds
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def decrypt(
        self, chunks: Iterable[bytes], secure_sum: SecureSum, *, secret: bytes
    ) -> Generator[NDArray[np.uint64], None, None]:
        """The integers in each frame modulo ``2**packed_bits``: uint64 [polynomial_degree].

        ``secret`` is the CKKS secret key of the sum's epoch. Each chunk is 1 to 16 whole frames,
        which the child checks. Other sums wait from the first frame that is taken until the last,
        or until the iterator is closed: so ``chunks`` must come from where nobody can stall them.

        Raises CiphertextRefused for anything but residues, for bytes that SEAL refuses, and for
        those that kill or stall the child; NotAnInteger as `SecretContext.decrypt_frame` does; and
        DecryptionFailed if the secret context cannot be used.
        """
        parameters = canonical_json(secure_sum.model_dump(mode="json"))
        with self._lock:
            self._ask(_KEY + secret)
            try:
                self._ask(_PARAMETERS + parameters)
                for chunk in chunks:
                    yield from self._decrypted(chunk, secure_sum)
            finally:
                # Also after a refusal. A child that died has nothing to forget.
                if self._process is not None:
                    self._ask(_FORGET)

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int | None:
        """The child's, for supervision; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    def _decrypted(self, chunk: bytes, secure_sum: SecureSum) -> Iterator[NDArray[np.uint64]]:
        answer = self._ask(_CHUNK + chunk)
        frames = len(chunk) // secure_sum.frame_bytes
        degree, bits = secure_sum.polynomial_degree, secure_sum.packed_bits
        if len(answer) != frames * degree * word_bytes(bits):
            self._stop()
            raise DecryptionFailed("the decryption worker gave an answer of another form; report.")
        yield from unpack(answer, bits, values=frames * degree).reshape(frames, degree)

    def _ask(self, message: bytes) -> bytes:
        """The body of the child's answer; raises what its first byte says."""
        answer = self._exchanged(message)
        if answer[:1] == _DONE:
            return answer[1:]
        if answer == _NOT_AN_INTEGER:
            raise NotAnInteger(
                "a decrypted sum is not made of integers; a contribution in it was not encrypted "
                "under this charter."
            )
        if answer == _REFUSED:
            raise _refused()
        raise DecryptionFailed("the secret context does not fit the charter; see the worker's log.")

    def _exchanged(self, message: bytes) -> bytes:
        connection, process = self._started()
        # Not poll(): a child that stalls can also stall the sending of a chunk, which is longer
        # than a pipe's buffer, or the rest of an answer that has begun.
        timer = threading.Timer(self.limit_seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            connection.send_bytes(message)
            return connection.recv_bytes(maxlength=1 + CHUNK_BYTES)
        except (EOFError, OSError) as error:
            _LOG.warning("the decryption worker died or stalled; it will be started anew")
            self._cancel(timer)
            self._stop()
            raise _refused() from error
        except BaseException:
            # An answer would be left in the pipe for the next sum.
            self._cancel(timer)
            self._stop()
            raise
        finally:
            self._cancel(timer)

    @staticmethod
    def _cancel(timer: threading.Timer) -> None:
        """End ``timer``; afterwards it kills nothing."""
        timer.cancel()
        timer.join()

    def _started(self) -> tuple[Connection, SpawnProcess]:
        if self._process is not None and self._connection is not None and self._process.is_alive():
            return self._connection, self._process
        self._stop()
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_serve, args=(theirs,), name="decryption", daemon=True)
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        return ours, process

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    # A terminal's interrupt goes to the whole group; the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # No core file may hold the secret key, and no ciphertext may take the machine's memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    secret = b""
    decryption: _Decryption | None = None
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        kind, body = message[:1], message[1:]
        try:
            if kind in (_KEY, _FORGET):
                secret, decryption = body, None
                answer = _DONE
            elif kind == _PARAMETERS:
                decryption = _Decryption(body, secret)
                answer = _DONE
            else:
                answer = _FAILED if decryption is None else _DONE + decryption.of(body)
        except NotAnInteger:
            answer = _NOT_AN_INTEGER
        except CiphertextRefused:
            answer = _REFUSED
        except FedHelpError:
            _LOG.exception("the secret context cannot be used")
            answer = _FAILED
        connection.send_bytes(answer)


class _Decryption:
    """One sum's, in the child."""

    def __init__(self, parameters: bytes, secret: bytes) -> None:
        parse_json(parameters, "the parameters")
        self._secure_sum = SecureSum.model_validate_json(parameters)
        self._context = SecretContext(secret, self._secure_sum)

    def of(self, chunk: bytes) -> bytes:
        """The packed elements of every frame in ``chunk``."""
        size = self._secure_sum.frame_bytes
        return b"".join(
            pack(
                self._context.decrypt_frame(chunk[start : start + size]),
                self._secure_sum.packed_bits,
            )
            for start in range(0, len(chunk), size)
        )


def _refused() -> CiphertextRefused:
    return CiphertextRefused(
        "the ciphertext sum cannot be decrypted; add the contributions again, each of them checked."
    )
