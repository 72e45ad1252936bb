"""Moving the rounds on: one thread that begins, closes, sums, asks the custodians, and opens.

It keeps nothing of its own: at every step it looks at the book, so it goes on after a restart where
the book says. All custodians are asked at the same time: to begin a round, which binds it to their
keys, and for their answers, the decryptor as soon as the sum is made.
One that is away is waited for; a definite refusal fails the round.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from fedhelp_secure.charter import Charter, SecureSum
from fedhelp_secure.errors import (
    FedHelpError,
    MalformedMessage,
    PeerError,
    PolicyError,
    SignatureRefused,
    UnavailablePeer,
)
from fedhelp_secure.secure_sum.answer_wire import header_of
from fedhelp_secure.secure_sum.answers import Answer
from fedhelp_secure.secure_sum.cohort import CohortTooSmall, check_cohort
from fedhelp_secure.secure_sum.epochs import KeyEpoch, KeysRefused
from fedhelp_secure.secure_sum.residues import CiphertextRefused, weighted_sum
from fedhelp_secure.transport.identity import Identity
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys
from fedhelp_server.aggregator.asking import Asking
from fedhelp_server.aggregator.blobs import BlobDamaged, BlobStore, IncomingBlob, check
from fedhelp_server.aggregator.book import Book
from fedhelp_server.aggregator.custodians import Custodians
from fedhelp_server.aggregator.journal import unix_milliseconds
from fedhelp_server.aggregator.key_book import BegunRound
from fedhelp_server.aggregator.membership import custodians_of
from fedhelp_server.aggregator.rounds import FINAL, RoundEventKind, RoundState
from fedhelp_server.aggregator.store import Store, StoredAnswer, StoredRound

RECONNECT_SECONDS = 300
"""After a restart a round waits at least so long (or its whole deadline, if that is shorter): the
aggregator's absence must not be what shuts a hospital out."""

_LONGEST_WAIT_SECONDS = 10.0
_JOIN_SECONDS = 10.0

_LOG = logging.getLogger(__name__)


class Driver:
    """The thread. Start it once; a failure that it cannot mend is told to ``on_failure``."""

    def __init__(
        self,
        charter: Charter,
        book: Book,
        *,
        store: Store,
        blobs: BlobStore,
        custodians: Custodians,
    ) -> None:
        self._charter = charter
        self._book = book
        self._store = store
        self._blobs = blobs
        self._custodians = custodians
        self._stopping = threading.Event()
        self._asking = Asking(charter, book, custodians)
        self._thread: threading.Thread | None = None
        self.failed = False

    def start(self, on_failure: Callable[[], None]) -> None:
        """Go on where the book ends. ``on_failure`` is called from the thread, once, at its end."""
        for stored in self._book.rounds():
            if stored.state is RoundState.OPEN:
                grace = min(self._charter.rounds.deadline_seconds, RECONNECT_SECONDS)
                self._book.extend_deadline(stored.number, unix_milliseconds() + 1000 * grace)
        self._thread = threading.Thread(target=self._run, args=(on_failure,), name="rounds")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it was asking a custodian is asked again after the next start."""
        self._stopping.set()
        self._asking.give_up()
        self._book.close()
        self._custodians.close()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _run(self, on_failure: Callable[[], None]) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except Exception:  # noqa: BLE001 - whatever it is, the process must end
            # Whatever it was (a full disk, a damaged file), the state on disk is whole: the
            # process ends, and a person or a supervisor starts it again.
            _LOG.exception("the rounds cannot go on; the aggregator stops")
            self.failed = True
            on_failure()

    def _step(self) -> None:
        self._book.check()
        rounds = self._book.rounds()
        current = next((stored for stored in rounds if stored.state not in FINAL), None)
        if current is None:
            self._book.wait(rounds, _LONGEST_WAIT_SECONDS)
        elif current.state is RoundState.PENDING:
            self._begin(current.number)
        elif current.state is RoundState.OPEN:
            self._wait_for_contributions(current, rounds)
        else:
            self._finish(current)

    def _begin(self, number: int) -> None:
        """Have every custodian begin the round, then open it; or fail as `_finish` does."""
        self._asking.begin()
        if self._stopping.is_set():
            return
        try:
            begun = self._all_begin(number)
        except (PeerError, PolicyError) as error:
            self._fail(number, "its beginning", error)
            return
        if begun is not None:
            self._book.begin(number, begun)

    def _all_begin(self, number: int) -> BegunRound | None:
        """What all custodians state; None if that is given up before."""
        custodians = custodians_of(self._charter)
        asked = [
            partial(self._asking.patiently, number, custodian, partial(self._begun, index, number))
            for index, custodian in enumerate(custodians)
        ]
        found = self._asking.together(asked)
        stated = tuple(each[0] for each in found if each is not None)
        if len(stated) < len(custodians) or found[0] is None:
            return None
        _, epoch, context = found[0]
        return BegunRound(stated, context_digest=epoch.key, context=context)

    def _begun(self, index: int, number: int) -> tuple[CustodianKeys, KeyEpoch, bytes | None]:
        """What custodian ``index`` states, its epoch, and a context that the store lacks.

        Statements that do not hold are waited out: the custodian's operator can mend that, and no
        budget is spent yet.
        """
        stated = self._custodians.begin(index, number)
        try:
            epoch = self._book.keys.check(index, number, stated)
            context = None
            if index == 0 and not self._book.keys.has_context(epoch.key):
                context = self._custodians.public_context(epoch.epoch, epoch.key)
        except (KeysRefused, MalformedMessage, SignatureRefused) as error:
            raise UnavailablePeer(str(error)) from error
        return stated, epoch, context

    def _wait_for_contributions(
        self, current: StoredRound, rounds: tuple[StoredRound, ...]
    ) -> None:
        left = (current.deadline - unix_milliseconds()) / 1000
        if current.contributions == len(self._charter.hospitals):
            self._book.close_round(current.number, RoundEventKind.ALL_IN)
        elif left <= 0:
            self._close_at_deadline(current.number)
        else:
            self._book.wait(rounds, min(left, _LONGEST_WAIT_SECONDS))

    def _close_at_deadline(self, number: int) -> None:
        hospitals = [stored.hospital for stored in self._store.contributions(number)]
        try:
            check_cohort(self._charter, hospitals)
        except CohortTooSmall as error:
            reason = f"the deadline passed without a cohort: {error}"
            self._book.fail(number, RoundEventKind.DEADLINE_SHORT, code=error.code, reason=reason)
        else:
            self._book.close_round(number, RoundEventKind.DEADLINE_COHORT)

    def _finish(self, current: StoredRound) -> None:
        """Sum, ask every custodian, open; or fail with the code of what was definitely refused."""
        number = current.number
        self._asking.begin()
        if self._stopping.is_set():
            return
        try:
            answered = self._all_answer(current)
        except (PeerError, PolicyError) as error:
            self._fail(number, "the sum", error)
            return
        if answered:
            self._book.open_round(number)

    def _fail(self, number: int, what: str, error: FedHelpError) -> None:
        if self._stopping.is_set():
            return
        _LOG.warning("round %d fails with code %s", number, error.code)
        self._book.fail(
            number,
            RoundEventKind.REFUSED,
            code=error.code,
            reason=f"{what} was refused with code {error.code}.",
        )

    def _all_answer(self, current: StoredRound) -> bool:
        """Whether every custodian's answer is stored; raises the first definite refusal."""
        number = current.number
        decryptor, *unmaskers = custodians_of(self._charter)

        def decrypted() -> bool:
            sum_digest = current.sum_digest or self._make_sum(number)
            return self._ask(number, decryptor, partial(self._ask_decryptor, number, sum_digest))

        asked = [decrypted]
        for index, unmasker in enumerate(unmaskers):
            ask = partial(self._ask_unmasker, index, number)
            asked.append(partial(self._ask, number, unmasker, ask))
        return all(self._asking.together(asked))

    def _make_sum(self, number: int) -> str:
        """Add the contributions of round ``number``; returns the digest of the sum's blob."""
        parts = [
            (self._charter.weight_of(stored.hospital), stored.ciphertext_digest)
            for stored in self._store.contributions(number)
        ]
        with self._blobs.incoming() as blob:
            for window in summed(parts, self._blobs, self._charter.secure_sum):
                if self._stopping.is_set():
                    raise UnavailablePeer("the aggregator is stopping; start it again to go on.")
                blob.write(window)
            blob.finish()
            sum_digest = self._blobs.keep(blob)
        self._book.record_sum(number, sum_digest)
        return sum_digest

    def _ask_unmasker(self, index: int, number: int, body: IncomingBlob) -> Answer:
        contributions = self._store.contributions(number)
        return self._custodians.ask_unmasker(
            index,
            number,
            contributions,
            rounds_begun=self._book.keys.rounds_begun(number),
            body=body,
        )

    def _ask_decryptor(self, number: int, sum_digest: str, body: IncomingBlob) -> Answer:
        # Before the call: in the middle of it, damage would look like a broken connection.
        check(self._blobs, sum_digest)
        return self._custodians.ask_decryptor(
            number, self._blobs.read(sum_digest), sum_digest=sum_digest, body=body
        )

    def _ask(self, number: int, custodian: Identity, ask: Callable[[IncomingBlob], Answer]) -> bool:
        """Get and keep ``custodian``'s answer; False if that is given up before."""
        if self._store.answer(number, custodian) is not None:
            return True

        def answered() -> bool:
            with self._blobs.incoming() as body:
                self._keep(number, custodian, ask(body), body)
            return True

        return bool(self._asking.patiently(number, custodian, answered))

    def _keep(self, number: int, custodian: Identity, answer: Answer, body: IncomingBlob) -> None:
        self._book.record_answer(
            StoredAnswer(
                round_number=number,
                custodian=custodian,
                header=header_of(answer).SerializeToString(deterministic=True),
                body_digest=self._blobs.keep(body),
            )
        )


def summed(
    parts: Sequence[tuple[int, str]], blobs: BlobStore, secure_sum: SecureSum
) -> Iterator[bytes]:
    """The sum of weight times ciphertext, each named by its digest, window by window.

    A window is READ_BYTES. No more than ten are in memory at once, whatever the number and the
    length of the ciphertexts. Raises BlobDamaged if one is not as it was when it was accepted.
    """
    try:
        yield from weighted_sum(
            [(weight, blobs.read(ciphertext_digest)) for weight, ciphertext_digest in parts],
            secure_sum,
        )
    except CiphertextRefused as error:
        # Each was checked on arrival: it is no hospital's fault, and must not cost a round.
        raise BlobDamaged(
            "a stored ciphertext is no ciphertext any more; restore the blob store."
        ) from error
