"""One answer for each (charter, round), kept so that it survives a crash and is never made twice.

SQLite enforces the rule itself (a primary key), also between two processes on one state directory.
Bodies are files in a directory beside the database, complete and on the disk before their row
exists: a crash in between leaves a file that no row names, and the next start removes it.
Restoring an older copy of the database would forget answers: a custodian's state is never to be put
back from a copy, only restored from its backup and shares (`fedhelp_keys.custodian.backup`), which
begins a new epoch and answers no round begun before.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from fedhelp_keys.custodian.database import Database
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.secure_sum.answer_wire import answer_of, header_of
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.state import StateError, synchronise
from fedhelp_secure.wire.v1 import coordinator_pb2

REFUSALS_ALLOWED = 3
"""Sums of one (charter, round) that may fail to be integers before no more are tried."""

_LOG = logging.getLogger(__name__)


class AlreadyAnswered(PolicyError):
    """This (charter, round) was answered for another request."""

    code = "already-answered"


class EpochGone(PolicyError):
    """The secret to which a round was bound is destroyed, or was never restored."""

    code = "epoch-gone"


class TooManyRefusals(PolicyError):
    """This (charter, round) had too many sums that were no sums of contributions."""

    code = "too-many-refusals"


class AnswerStore:
    """The answers of one custodian: one SQLite file, one directory of bodies. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file and the directory, for their owner only; removes stray bodies."""
        self._database = Database(path)
        self._bodies = path.with_suffix(".bodies")
        self._lock = threading.Lock()
        self._round_locks: dict[tuple[str, int], threading.Lock] = {}
        self._bodies.mkdir(mode=0o700, exist_ok=True)
        self._remove_strays()

    def answer_once(
        self,
        charter_digest: str,
        round_number: int,
        *,
        request_digest: str,
        make: Callable[[Path], Answer],
    ) -> Answer:
        """The stored answer to this request, or what ``make`` returns, stored before returning.

        ``request_digest`` names all that the answer depends on; ``make`` writes the body to the new
        file that it is given. Requests for one (charter, round) wait for each other, and for no
        others. Raises AlreadyAnswered if the (charter, round) was answered for another request,
        EpochGone if its epoch ended meanwhile, and StateError if a stored body is gone; what
        ``make`` raises leaves the store as it was.
        """
        with self._lock:
            lock = self._round_locks.setdefault((charter_digest, round_number), threading.Lock())
        with lock:
            stored = self._find(charter_digest, round_number, request_digest)
            if stored is not None:
                _LOG.info("round %d of %s: stored answer sent again", round_number, charter_digest)
                return stored
            body = self._bodies / secrets.token_hex(16)
            try:
                answer = make(body)
                _make_durable(body)
            except BaseException:
                body.unlink(missing_ok=True)
                raise
            try:
                # From here on a failure leaves the body: the row that names it may exist.
                self._record(charter_digest, round_number, request_digest, answer)
            except EpochGone:
                body.unlink()
                raise
            except sqlite3.IntegrityError:
                # Another process on this state was faster; its answer is the one that counts.
                body.unlink()
                return self._stored(charter_digest, round_number, request_digest)
        _LOG.info("round %d of %s: answered and stored", round_number, charter_digest)
        return answer

    def check_refusals(self, charter_digest: str, round_number: int) -> None:
        """Raises TooManyRefusals if `record_refusal` was called too often for this round."""
        with self._database.transaction() as database:
            row = database.execute(
                "SELECT count FROM refusals WHERE charter = ? AND round = ?",
                (charter_digest, round_number),
            ).fetchone()
        if row is not None and row[0] >= REFUSALS_ALLOWED:
            raise TooManyRefusals(
                "too many sums of this round were no sums of contributions; end the round and "
                "begin a new charter."
            )

    def record_refusal(self, charter_digest: str, round_number: int) -> None:
        """Count one sum that decrypted to something else than integers.

        Whether it did depends on the secret key, so each refusal tells the sender something of it.
        """
        with self._database.transaction() as database:
            database.execute(
                "INSERT INTO refusals VALUES (?, ?, 1) "
                "ON CONFLICT (charter, round) DO UPDATE SET count = count + 1",
                (charter_digest, round_number),
            )

    def _find(self, charter_digest: str, round_number: int, request_digest: str) -> Answer | None:
        with self._database.transaction() as database:
            row = database.execute(
                "SELECT request, header, body FROM answers WHERE charter = ? AND round = ?",
                (charter_digest, round_number),
            ).fetchone()
        if row is None:
            return None
        if row[0] != request_digest:
            raise AlreadyAnswered(
                "this round was already answered for another set; send the first set again to get "
                "its answer, and run another round for another set."
            )
        body = self._bodies / row[2]
        if not body.is_file():
            raise StateError(f"{body}, a stored answer, is gone; run another round.")
        return answer_of(coordinator_pb2.AnswerHeader.FromString(row[1]), body)

    def _stored(self, charter_digest: str, round_number: int, request_digest: str) -> Answer:
        stored = self._find(charter_digest, round_number, request_digest)
        if stored is None:
            raise StateError(
                f"{self._database.path} lost an answer; restart this custodian and try again."
            )
        return stored

    def _record(
        self, charter_digest: str, round_number: int, request_digest: str, answer: Answer
    ) -> None:
        header = header_of(answer).SerializeToString(deterministic=True)
        with self._database.transaction() as database:
            made = database.execute(
                "INSERT INTO answers SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS ("
                " SELECT 1 FROM begun JOIN epochs ON epoch = number"
                " WHERE charter = ?1 AND round = ?2 AND closing IS NOT NULL)",
                (charter_digest, round_number, request_digest, header, answer.body.name),
            )
            if made.rowcount != 1:
                raise EpochGone(
                    "the keys of this round were given up while it was answered; it cannot be "
                    "opened any more: run another round."
                )

    def _remove_strays(self) -> None:
        """Remove bodies that no row names, unless another process may be writing one now."""
        descriptor = os.open(self._bodies, os.O_RDONLY)
        # Held, shared, for as long as this store lives: whoever starts besides removes nothing.
        weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            with self._database.transaction() as database:
                known = {row[0] for row in database.execute("SELECT body FROM answers")}
            for body in self._bodies.iterdir():
                if body.name not in known:
                    _LOG.warning("%s was left by a crash and is removed", body)
                    body.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _make_durable(body: Path) -> None:
    """Put the file ``body`` and its name on the disk, readable by its owner only."""
    body.chmod(0o600)
    for path in (body, body.parent):
        synchronise(path)
