"""The book of the rounds: what happens to them, in order, and who is told of it.

Every step is one change of the `Journal` (state and log entry together); then watchers are told.
A refused step raises before anything has changed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter
from fedhelp_secure.errors import InternalError, PeerError, PolicyError
from fedhelp_secure.secure_sum.contribution import Manifest, check_round_keys
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1.coordinator_pb2 import AnswerHeader
from fedhelp_secure.wire.v1.evidence_pb2 import (
    CharterAdopted,
    ContributionAccepted,
    ContributionRejected,
    LogEntry,
    RoundClosed,
    RoundFailed,
    RoundOpened,
    RoundSummed,
)
from fedhelp_server.aggregator.blobs import BlobStore, IncomingBlob
from fedhelp_server.aggregator.journal import Journal, unix_milliseconds, write_entry
from fedhelp_server.aggregator.key_book import BegunRound, KeyBook
from fedhelp_server.aggregator.membership import custodians_of
from fedhelp_server.aggregator.rounds import RoundEventKind, RoundState, advance
from fedhelp_server.aggregator.store import (
    Change,
    StoredAnswer,
    StoredContribution,
    StoredRound,
)

MAXIMUM_LOGGED_REJECTIONS = 100
"""Of one hospital in one round: nobody can fill the log with refusals."""

MAXIMUM_REASON_CHARACTERS = 200
"""Of what watchers are told, as the wire contract says."""

EARLIER_ROUND_FAILED = "earlier-round-failed"
"""Code with which the rounds after a failed one fail."""

_WATCH_POLL_SECONDS = 2.0


class ContributionConflict(PeerError):
    """A hospital sent other bytes for a round to which it has already contributed."""

    code = "contribution-conflict"


class RoundNotOpen(PolicyError):
    """A contribution came for a round that does not take any now."""

    code = "round-not-open"


class Book:
    """The rounds of one charter: durable, logged and watchable."""

    def __init__(self, charter: Charter, journal: Journal, blobs: BlobStore) -> None:
        """Takes up where the journal ends; logs the charter's adoption if it is new."""
        self._charter = charter
        self._charter_digest = charter.digest
        self._journal = journal
        self._store = journal.store
        self._blobs = blobs
        self.keys = KeyBook(charter, self._store)
        self._keys_digests: dict[int, str] = {}
        # The journal's own lock: what watchers see is never ahead of the log.
        self._changed = threading.Condition(journal.lock)
        self._closed = False
        self._history: list[StoredRound] = []
        self._present = self._store.rounds()
        if self._store.journal_size() == 0:
            event = CharterAdopted(charter_digest=self._charter_digest)
            with journal.change() as change:
                write_entry(change, LogEntry(charter_adopted=event))

    # What is, and what changes

    def check(self) -> None:
        """Raises LogFailed if the log takes no more entries: only a restart can mend that."""
        self._journal.log.checkpoint()

    def rounds(self) -> tuple[StoredRound, ...]:
        """Every round as it is now, in order."""
        with self._changed:
            return self._present

    def round(self, number: int) -> StoredRound:
        """Round ``number``; raises RoundNotOpen if the charter has no such round."""
        if not 1 <= number <= self._charter.rounds.count:
            raise RoundNotOpen(
                f"this charter has rounds 1 to {self._charter.rounds.count}; ask for one of them."
            )
        return self.rounds()[number - 1]

    def watch(self, active: Callable[[], bool]) -> Iterator[StoredRound]:
        """Each round as it is, then every change, for as long as ``active()`` and not closed."""
        with self._changed:
            position, present = len(self._history), self._present
        yield from present
        while True:
            with self._changed:
                while position == len(self._history) and active() and not self._closed:
                    self._changed.wait(_WATCH_POLL_SECONDS)
                if not active() or self._closed:
                    return
                news = self._history[position:]
                position = len(self._history)
            yield from news

    def wait(self, seen: tuple[StoredRound, ...], seconds: float) -> None:
        """Return when the rounds are no longer as ``seen``, or after ``seconds``, or on close."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._present != seen, seconds)

    def wake(self) -> None:
        """Let every watcher look whether its client is still there."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End every watch and every wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def _change(self) -> Iterator[Change]:
        with self._changed:
            with self._journal.change() as change:
                yield change
            before, self._present = self._present, self._store.rounds()
            pairs = zip(before, self._present, strict=True)
            self._history += [new for old, new in pairs if _shown(old) != _shown(new)]
            self._changed.notify_all()

    # Contributions

    def earlier(
        self, manifest: Manifest, *, envelope: bytes, sealed_seeds: tuple[bytes, ...]
    ) -> StoredContribution | None:
        """The accepted contribution that these bytes repeat, or None if there is none yet.

        Raises ContributionConflict if the hospital has contributed other bytes to this round.
        """
        stored = self._store.contribution(manifest.round, manifest.hospital)
        if stored is None:
            return None
        if (stored.manifest, stored.sealed_seeds) != (envelope, sealed_seeds):
            raise ContributionConflict(
                f"round {manifest.round} already has another contribution of this hospital; send "
                "the bytes of the first one again, never new ones."
            )
        return stored

    def contribution(self, number: int, hospital: str) -> StoredContribution | None:
        """``hospital``'s accepted contribution to round ``number``, or None."""
        return self._store.contribution(number, hospital)

    def check_open(self, number: int) -> None:
        """Raises RoundNotOpen unless round ``number`` takes contributions."""
        state = self.round(number).state
        if state is not RoundState.OPEN:
            raise RoundNotOpen(
                f"round {number} is {state.name.lower()} and takes no contributions now; wait for "
                "the next round that is open."
            )

    def check_begun(self, number: int) -> None:
        """Raises RoundNotOpen unless every custodian has begun round ``number``."""
        self.round(number)
        if not self.keys.begun(number):
            raise RoundNotOpen(
                f"round {number} has not begun: its custodians have bound no keys to it; watch the "
                "rounds until it is open."
            )

    def check_keys(self, manifest: Manifest) -> None:
        """Raises ManifestRefused unless ``manifest`` names the keys of its round, which is open."""
        number = manifest.round
        if number not in self._keys_digests:
            self._keys_digests[number] = self.keys.digest(number)
        check_round_keys(manifest, self._keys_digests[number])

    def accept(
        self,
        manifest: Manifest,
        blob: IncomingBlob,
        *,
        envelope: bytes,
        sealed_seeds: tuple[bytes, ...],
    ) -> StoredContribution:
        """Record a checked contribution whose ciphertext is the finished ``blob``.

        Raises ContributionConflict or RoundNotOpen, and then nothing has changed.
        """
        with self._changed:
            stored = self.earlier(manifest, envelope=envelope, sealed_seeds=sealed_seeds)
            if stored is not None:
                return stored
            self.check_open(manifest.round)
            advance(self.round(manifest.round).state, RoundEventKind.CONTRIBUTION)
            # The blob is durable before anything refers to it.
            ciphertext_digest = self._blobs.keep(blob)
            event = ContributionAccepted(
                charter_digest=self._charter_digest,
                round=manifest.round,
                hospital=manifest.hospital,
                manifest_digest=digest(envelope),
                ciphertext_digest=ciphertext_digest,
                ciphertext_bytes=blob.size,
            )
            with self._change() as change:
                contribution = StoredContribution(
                    round_number=manifest.round,
                    hospital=manifest.hospital,
                    manifest=envelope,
                    sealed_seeds=sealed_seeds,
                    ciphertext_digest=ciphertext_digest,
                    position=write_entry(change, LogEntry(contribution_accepted=event)),
                )
                change.add_contribution(contribution)
            return contribution

    def reject(self, number: int, hospital: str, *, ciphertext_digest: str, code: str) -> None:
        """Log that a contribution was refused, unless that was logged too often already.

        ``number`` is the round that the sender claimed; one that the charter has not is logged
        as 0. ``ciphertext_digest`` is empty when no ciphertext was read.
        """
        known = number if 1 <= number <= self._charter.rounds.count else 0
        event = ContributionRejected(
            charter_digest=self._charter_digest,
            round=known,
            hospital=hospital,
            ciphertext_digest=ciphertext_digest,
            code=code,
        )
        with self._changed:
            if self._store.rejections(known, hospital) >= MAXIMUM_LOGGED_REJECTIONS:
                return
            with self._change() as change:
                change.count_rejection(known, hospital)
                write_entry(change, LogEntry(contribution_rejected=event))

    # Rounds

    def begin(self, number: int, begun: BegunRound) -> None:
        """Open round ``number`` for contributions; its deadline starts to run."""
        event = RoundOpened(
            charter_digest=self._charter_digest, round=number, round_begun_digests=begun.digests
        )
        deadline = unix_milliseconds() + 1000 * self._charter.rounds.deadline_seconds
        with self._change() as change:
            self._advance(change, number, RoundEventKind.BEGIN)
            change.set_deadline(number, deadline)
            self.keys.record(change, number, begun)
            write_entry(change, LogEntry(round_opened=event))

    def extend_deadline(self, number: int, deadline: int) -> None:
        """Move the deadline of round ``number`` to ``deadline`` (Unix milliseconds) if later."""
        with self._changed:
            if deadline > self.round(number).deadline:
                with self._change() as change:
                    change.set_deadline(number, deadline)

    def close_round(self, number: int, why: RoundEventKind) -> None:
        """Fix the set of contributions of round ``number``."""
        with self._changed:
            hospitals = [stored.hospital for stored in self._store.contributions(number)]
            event = RoundClosed(
                charter_digest=self._charter_digest, round=number, hospitals=hospitals
            )
            with self._change() as change:
                self._advance(change, number, why)
                write_entry(change, LogEntry(round_closed=event))

    def record_sum(self, number: int, sum_digest: str) -> None:
        """Name the blob of the ciphertext sum of round ``number``."""
        with self._change() as change:
            change.set_sum(number, sum_digest)

    def record_answer(self, answer: StoredAnswer) -> None:
        """Keep a custodian's answer whose statement was checked."""
        with self._change() as change:
            change.add_answer(answer)

    def say(self, number: int, reason: str) -> None:
        """Tell watchers why round ``number`` is waiting."""
        with self._changed:
            current = self.round(number)
            if current.reason != reason:
                with self._change() as change:
                    change.set_state(number, current.state, reason[:MAXIMUM_REASON_CHARACTERS])

    def open_round(self, number: int) -> None:
        """Every answer is stored: the recipients of round ``number`` may fetch them."""
        with self._changed:
            decryptor, *unmaskers = map(_statement_digest, self.answers(number))
            event = RoundSummed(
                charter_digest=self._charter_digest,
                round=number,
                sum_digest=self.round(number).sum_digest,
                decryptor_statement_digest=decryptor,
                unmasker_statement_digests=unmaskers,
            )
            with self._change() as change:
                self._advance(change, number, RoundEventKind.ANSWERED)
                write_entry(change, LogEntry(round_summed=event))

    def answers(self, number: int) -> tuple[StoredAnswer, ...]:
        """Every custodian's answer for round ``number``, all of which must have been given.

        The decryptor's comes first, then the unmaskers' in the charter's order.
        """
        return tuple(self._answer(number, one) for one in custodians_of(self._charter))

    def _answer(self, number: int, custodian: Identity) -> StoredAnswer:
        stored = self._store.answer(number, custodian)
        if stored is None:
            raise InternalError(f"round {number} lacks the answer of {custodian}; report this.")
        return stored

    def fail(self, number: int, why: RoundEventKind, *, code: str, reason: str) -> None:
        """End round ``number``, and with it every later one, without a sum."""
        with self._change() as change:
            self._advance(change, number, why, reason)
            self._log_failure(change, number, code)
            for later in range(number + 1, self._charter.rounds.count + 1):
                told = f"round {number} ended without a sum."
                self._advance(change, later, RoundEventKind.EARLIER_FAILED, told)
                self._log_failure(change, later, EARLIER_ROUND_FAILED)

    def _advance(
        self, change: Change, number: int, event: RoundEventKind, reason: str = ""
    ) -> None:
        state = advance(self.round(number).state, event)
        change.set_state(number, state, reason[:MAXIMUM_REASON_CHARACTERS])

    def _log_failure(self, change: Change, number: int, code: str) -> None:
        event = RoundFailed(charter_digest=self._charter_digest, round=number, code=code)
        write_entry(change, LogEntry(round_failed=event))


def _statement_digest(answer: StoredAnswer) -> str:
    return digest(AnswerHeader.FromString(answer.header).statement)


def _shown(stored: StoredRound) -> tuple[RoundState, int, str]:
    return stored.state, stored.contributions, stored.reason
