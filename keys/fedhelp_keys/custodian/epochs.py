"""A custodian's key epochs: made, bound to rounds, and destroyed when no round needs them.

Every statement is signed here and kept; `fedhelp_secure.secure_sum.epochs` says what each means.
A round is bound to the epoch that is present when it begins, once. An earlier epoch whose rounds
are all answered is destroyed: its file overwritten and removed first, the statement signed then.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from fedhelp_keys.custodian import destruction, key_files
from fedhelp_keys.custodian.database import FILE_NAME, Database, present_epoch
from fedhelp_keys.custodian.destruction import EpochRefused
from fedhelp_keys.custodian.restating import Stated, own_document, restated
from fedhelp_keys.custodian.store import EpochGone
from fedhelp_secure.canonical import digest
from fedhelp_secure.charter import Charter, CharterRefused
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.secure_sum.epochs import (
    DESTROYED_KIND,
    EPOCH_KIND,
    CustodianParty,
    sign_begun,
    sign_epoch,
)
from fedhelp_secure.secure_sum.round_keys import MOST_EPOCHS, custodian_parties
from fedhelp_secure.signing import SigningKey
from fedhelp_secure.state import KeyNotHeld, StateDirectory, StateError
from fedhelp_secure.transport.certificates import utc_now
from fedhelp_secure.wire.v1.coordinator_pb2 import CustodianKeys

_LOST = "restored from a backup, which has no secrets"

_LOG = logging.getLogger(__name__)


class RoundNotBegun(PolicyError):
    """A round was to be answered that this custodian has not begun."""

    code = "round-not-begun"


class RoundOutOfOrder(PolicyError):
    """A round was to be begun while an earlier one waits for its answer, or after a later one."""

    code = "round-order"


@dataclass(frozen=True, slots=True)
class Bound:
    """The epoch to which a round is bound, and the statement that says so."""

    epoch: int
    begun: bytes


@dataclass(frozen=True, slots=True)
class EpochStatus:
    """What an operator is told of one epoch."""

    number: int
    key: str
    """Digest of the public key."""
    created: str
    waiting: tuple[str, ...]
    """The rounds bound to it that are not answered, for a person."""
    fate: str
    """``present``, ``waiting``, ``destroyed: reason`` or ``lost: reason``."""


class EpochStore:
    """The epochs of one custodian's state directory. Thread-safe, also between processes."""

    def __init__(self, state: StateDirectory) -> None:
        """States the first epoch if that was never done.

        Raises StateError unless the present epoch's key files are there, and are those stated.
        """
        self._state = state
        self._database = Database(state.role_directory() / FILE_NAME)
        with self._database.transaction() as database:
            present = present_epoch(database) or key_files.FIRST
            key = key_files.public_key(state, present)
            if present_epoch(database) == 0:
                _state(state, database, present, key)
            elif self._document(_statement(database, present))["key"] != key:
                raise StateError(
                    f"the key files of epoch {present} are not those that this custodian stated; "
                    "put them back, or restore this custodian from its shares."
                )

    def rotate(self) -> int:
        """Make the next epoch's keys and statement; returns its number.

        Earlier epochs that no round waits for are destroyed. Raises EpochRefused if there are as
        many epochs as a chain may have.
        """
        with self._database.transaction() as database:
            number = present_epoch(database) + 1
            if number > MOST_EPOCHS:
                raise EpochRefused(
                    f"a custodian has at most {MOST_EPOCHS} epochs; enrol a new one in its place."
                )
            _make(self._state, database, number)
        self.destroy_finished()
        return number

    def begin(self, charter: Charter, round_number: int) -> CustodianKeys:
        """Bind a round to the present epoch, or say again to which it is bound.

        Raises CharterRefused if the charter pins another key than this custodian's, and
        RoundOutOfOrder unless the charter's rounds are begun one after another, each when the one
        before is answered: nobody can bind later rounds to today's keys.
        """
        key = self._key_of(charter)
        with self._database.transaction() as database:
            bound = _bound(database, charter.digest, round_number)
            if bound is None:
                _check_order(database, charter.digest, round_number)
                number = present_epoch(database)
                begun = sign_begun(
                    key,
                    self._state.identity,
                    charter_digest=charter.digest,
                    round_number=round_number,
                    epoch=number,
                    epoch_envelope=_stated(self._state, database, key)[-1].statement,
                )
                row = (charter.digest, round_number, number, begun)
                database.execute("INSERT INTO begun VALUES (?, ?, ?, ?)", row)
                bound = Bound(number, begun)
                _LOG.info("round %d of %s: begun, epoch %d", round_number, charter.digest, number)
            stated = _stated(self._state, database, key)
        chain = self._chain(stated, charter, last=bound.epoch)
        destroyed = [
            each.destroyed
            for each in stated
            if each.destroyed is not None and each.number >= charter.custodians.epoch
        ]
        return CustodianKeys(round_begun=bound.begun, key_epochs=chain, destroyed=destroyed)

    def bound(self, charter: Charter, round_number: int) -> Bound:
        """To which epoch a round is bound; raises RoundNotBegun."""
        with self._database.transaction() as database:
            bound = _bound(database, charter.digest, round_number)
        if bound is None:
            raise RoundNotBegun(
                "this custodian has not begun this round under the keys that it has; begin it "
                "first. A custodian that was restored answers no round begun before."
            )
        return bound

    def secret(self, epoch: int) -> bytes:
        """The secret key of ``epoch``; raises EpochGone if it was destroyed or not restored."""
        with self._database.transaction() as database:
            row = database.execute(
                "SELECT closing FROM epochs WHERE number = ?", (epoch,)
            ).fetchone()
            if row is None or row[0] is not None:
                raise EpochGone(
                    f"the secret of key epoch {epoch} is gone, and what was sent under it cannot "
                    "be opened any more; run another round."
                )
            return self._state.read_secret(key_files.secret_path(self._state, epoch))

    def public_context(self, epoch: int) -> bytes:
        """A decryptor's public context of ``epoch``; raises EpochRefused if it has no such one."""
        path = key_files.public_context_path(self._state, epoch)
        with self._database.transaction() as database:
            known = 1 <= epoch <= present_epoch(database)
        if not known or not path.exists():
            raise EpochRefused("the decryptor has no keys of this epoch; ask for a stated one.")
        return self._state.read(path)

    def destroy_finished(self) -> tuple[int, ...]:
        """Destroy every earlier epoch that no round waits for; returns their numbers.

        Also ends what a crash, or another process, left half done.
        """
        destruction.close_finished(self._database)
        return destruction.destroy_closed(self._state, self._database)

    def give_up(self, epoch: int, reason: str, *, abandon: bool) -> None:
        """Destroy an earlier epoch now.

        With ``abandon`` also if rounds wait for it, which can never be opened then. Raises
        EpochRefused as `destruction.close` does; then nothing has changed.
        """
        destruction.close(self._database, epoch, reason, abandon=abandon)
        destruction.destroy_closed(self._state, self._database)

    def status(self) -> tuple[EpochStatus, ...]:
        """Every epoch, in order."""
        with self._database.transaction() as database:
            rows = database.execute(
                "SELECT number, statement, closing, lost FROM epochs ORDER BY number"
            ).fetchall()
            waiting: dict[int, list[str]] = {}
            for charter, number, epoch in database.execute("SELECT * FROM waiting"):
                waiting.setdefault(epoch, []).append(f"round {number} of {charter}")
        return tuple(
            self._status(row, tuple(waiting.get(row[0], ())), present=row[0] == rows[-1][0])
            for row in rows
        )

    def statements(self) -> dict[str, bytes]:
        """Every statement about an epoch, by a name for its file; under the present signing key."""
        rows = self.rows()
        made = {f"epoch-{number}.json": statement for number, statement, _ in rows}
        gone = {f"epoch-{number}-destroyed.json": gone for number, _, gone in rows if gone}
        return made | gone

    @classmethod
    def restored(
        cls, state: StateDirectory, rows: Sequence[tuple[int, bytes, bytes | None]]
    ) -> EpochStore:
        """The epochs of a state made from a backup: those in ``rows`` without their secrets, which
        are lost, and the next one, with new keys.
        """
        database = Database(state.role_directory() / FILE_NAME)
        with database.transaction() as connection:
            for number, statement, destroyed in rows:
                connection.execute(
                    "INSERT INTO epochs (number, statement, closing, lost, destroyed)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (
                        number,
                        statement,
                        _LOST if destroyed is None else _reason(state, destroyed),
                        destroyed is None,
                        destroyed,
                    ),
                )
            _make(state, connection, rows[-1][0] + 1)
        return cls(state)

    def rows(self) -> list[tuple[int, bytes, bytes | None]]:
        """Number, statement and record of destruction of every epoch: what `restored` takes."""
        with self._database.transaction() as database:
            stated = _stated(self._state, database, self._state.signing_key())
        return [(each.number, each.statement, each.destroyed) for each in stated]

    def _key_of(self, charter: Charter) -> SigningKey:
        """The signing key that ``charter`` names, present or former; raises CharterRefused."""
        try:
            return self._state.signing_key_for(self._own(charter).key)
        except KeyNotHeld as error:
            raise _pins_another() from error

    def _own(self, charter: Charter) -> CustodianParty:
        parties = custodian_parties(charter)
        return next(party for party in parties if party.identity == self._state.identity)

    def _chain(self, stated: Sequence[Stated], charter: Charter, *, last: int) -> list[bytes]:
        """The statements from the charter's epoch to ``last``."""
        own = self._own(charter)
        chain = [each.statement for each in stated if own.first_epoch <= each.number <= last]
        if not chain or self._document(chain[0])["key"] != own.pinned:
            raise _pins_another()
        return chain

    def _document(self, statement: bytes) -> dict[str, str]:
        return own_document(EPOCH_KIND, statement, self._state.verifying_keys())

    def _status(
        self, row: tuple[int, bytes, str | None, int], waiting: tuple[str, ...], *, present: bool
    ) -> EpochStatus:
        number, statement, closing, lost = row
        document = self._document(statement)
        fate = "present" if present else "waiting"
        if closing is not None:
            fate = f"{'lost' if lost else 'destroyed'}: {closing}"
        key = digest(document["key"].encode("ascii"))
        return EpochStatus(number, key, document["created"], waiting, fate)


def _pins_another() -> CharterRefused:
    return CharterRefused(
        "the charter pins another key than this custodian's; ask the registrar for a new charter."
    )


def _reason(state: StateDirectory, destroyed: bytes) -> str:
    return str(own_document(DESTROYED_KIND, destroyed, state.verifying_keys())["reason"])


def _make(state: StateDirectory, database: sqlite3.Connection, number: int) -> None:
    """Make and state an epoch, in a transaction: two processes do not make one twice."""
    _state(state, database, number, key_files.make(state, number))


def _state(state: StateDirectory, database: sqlite3.Connection, number: int, key: str) -> None:
    signing_key = state.signing_key()
    statement = sign_epoch(
        signing_key,
        state.identity,
        epoch=number,
        key=key,
        previous=_stated(state, database, signing_key)[-1].statement
        if number > key_files.FIRST
        else None,
        now=utc_now(),
    )
    database.execute("INSERT INTO epochs (number, statement) VALUES (?, ?)", (number, statement))


def _stated(
    state: StateDirectory, database: sqlite3.Connection, key: SigningKey
) -> tuple[Stated, ...]:
    """Every epoch, as it is stated under ``key``."""
    rows = database.execute("SELECT number, statement, destroyed FROM epochs ORDER BY number")
    stored = [Stated(*row) for row in rows]
    return restated(stored, key, state.verifying_keys())


def _statement(database: sqlite3.Connection, number: int) -> bytes:
    row = database.execute("SELECT statement FROM epochs WHERE number = ?", (number,)).fetchone()
    return bytes(row[0])


def _bound(database: sqlite3.Connection, charter_digest: str, round_number: int) -> Bound | None:
    row = database.execute(
        "SELECT epoch, statement FROM begun WHERE charter = ? AND round = ?",
        (charter_digest, round_number),
    ).fetchone()
    return None if row is None else Bound(*row)


def _check_order(database: sqlite3.Connection, charter_digest: str, round_number: int) -> None:
    later = database.execute(
        "SELECT 1 FROM begun WHERE charter = ? AND round > ?", (charter_digest, round_number)
    ).fetchone()
    waiting = database.execute(
        "SELECT 1 FROM waiting WHERE charter = ?", (charter_digest,)
    ).fetchone()
    if later or waiting:
        raise RoundOutOfOrder(
            "a round of a charter begins when the one before it is answered, and never after a "
            "later one; get the earlier round's answer first."
        )
