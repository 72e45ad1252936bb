"""The end of a key epoch: closed first, then its file destroyed, then the record signed.

From the moment an epoch is closed nothing is answered under it, whatever runs at the time
(`fedhelp_keys.custodian.store`). The record is signed when the file is gone, so it never says too
much; a crash in between leaves a closed epoch, which the next start ends.
"""

from __future__ import annotations

import logging

from fedhelp_keys.custodian import key_files
from fedhelp_keys.custodian.database import Database, present_epoch
from fedhelp_secure.errors import PolicyError
from fedhelp_secure.secure_sum.epochs import ANSWERED, sign_destroyed
from fedhelp_secure.state import StateDirectory
from fedhelp_secure.transport.certificates import utc_now

_LOG = logging.getLogger(__name__)


class EpochRefused(PolicyError):
    """What was asked of an epoch is not for it."""

    code = "epoch"


def close_finished(database: Database) -> None:
    """Close every earlier epoch that no round waits for."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE epochs SET closing = ? WHERE closing IS NULL"
            " AND number < (SELECT MAX(number) FROM epochs)"
            " AND number NOT IN (SELECT epoch FROM waiting)",
            (ANSWERED,),
        )


def close(database: Database, epoch: int, reason: str, *, abandon: bool) -> None:
    """Close an earlier epoch, with ``abandon`` also if rounds wait for it.

    Raises EpochRefused for the present epoch, one that is gone, one that rounds wait for unless
    they are abandoned, or an unsuitable reason; then nothing has changed.
    """
    if not reason.isprintable() or not 1 <= len(reason) <= 200:
        raise EpochRefused("--reason must be one line of 1 to 200 characters.")
    with database.transaction() as connection:
        if not 1 <= epoch < present_epoch(connection):
            raise EpochRefused(
                "only an earlier epoch can be destroyed; make the next one first, with "
                "'fedhelp custodian rotate'."
            )
        waiting = connection.execute("SELECT 1 FROM waiting WHERE epoch = ?", (epoch,)).fetchone()
        if waiting and not abandon:
            raise EpochRefused(
                f"rounds wait for epoch {epoch}; let them be answered, or give them up for good "
                "with --abandon."
            )
        closed = connection.execute(
            "UPDATE epochs SET closing = ?, abandoned = ? WHERE number = ? AND closing IS NULL",
            (reason, waiting is not None, epoch),
        )
        if closed.rowcount != 1:
            raise EpochRefused(f"epoch {epoch} is gone already; there is nothing to destroy.")


def destroy_closed(state: StateDirectory, database: Database) -> tuple[int, ...]:
    """Destroy the secrets of closed epochs and record that; returns the epochs' numbers."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT number, statement, closing, abandoned FROM epochs"
            " WHERE closing IS NOT NULL AND destroyed IS NULL AND NOT lost ORDER BY number"
        ).fetchall()
    for number, statement, reason, abandoned in rows:
        key_files.destroy(state, number)
        record = sign_destroyed(
            state.signing_key(),
            state.identity,
            epoch=number,
            epoch_envelope=statement,
            reason=reason,
            abandoned=bool(abandoned),
            now=utc_now(),
        )
        with database.transaction() as connection:
            connection.execute(
                "UPDATE epochs SET destroyed = ? WHERE number = ? AND destroyed IS NULL",
                (record, number),
            )
        _LOG.warning("the secret of key epoch %d is destroyed: %s", number, reason)
    return tuple(row[0] for row in rows)
