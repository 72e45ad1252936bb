"""A change of a database is there whole, or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedhelp_secure.database import write_transaction


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "d", isolation_level=None)) as opened:
        opened.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        yield opened


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


def test_a_change_is_there_when_the_block_has_ended(connection: sqlite3.Connection) -> None:
    with write_transaction(connection):
        connection.execute("INSERT INTO numbers VALUES (1), (2)")
    assert not connection.in_transaction
    assert numbers(connection) == [1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_change_that_raises_is_undone(
    connection: sqlite3.Connection, error: type[BaseException]
) -> None:
    def change() -> None:
        with write_transaction(connection):
            connection.execute("INSERT INTO numbers VALUES (1)")
            raise error

    with pytest.raises(error):
        change()
    assert not connection.in_transaction
    assert numbers(connection) == []


def test_what_sqlite_undid_itself_keeps_its_error(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO numbers VALUES (1)")

    def change() -> None:
        with write_transaction(connection):
            connection.execute("INSERT INTO numbers VALUES (2)")
            connection.execute("INSERT OR ROLLBACK INTO numbers VALUES (1)")

    with pytest.raises(sqlite3.IntegrityError):
        change()
    assert numbers(connection) == [1]


def test_writers_do_not_overlap(connection: sqlite3.Connection, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "d", isolation_level=None, timeout=0)) as other:
        with write_transaction(connection):
            with pytest.raises(sqlite3.OperationalError, match="locked"), write_transaction(other):
                other.execute("INSERT INTO numbers VALUES (2)")
            connection.execute("INSERT INTO numbers VALUES (1)")
        assert numbers(other) == [1]
