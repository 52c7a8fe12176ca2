"""Inserting many rows of the driver's own values in few statements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Insert, Table
from sqlalchemy.engine import Dialect

ROWS_IN_A_STATEMENT = (512, 64, 8, 1)
"""Rows in one INSERT on SQLite, largest first: few statements to keep prepared. 36 columns of the widest table times 512 stay
below SQLite's 32 766 parameters."""


class BulkInsert:
    """An INSERT (or upsert) of many rows, in the table's column order. SQLAlchemy compiles it, once.

    The rows go to the driver as they are: SQLAlchemy's own handling of each row would be half the time of an insert.

    On SQLite many rows go into one statement, because Python's driver gives up the interpreter lock at each: with another
    thread at work it waits for it anew every time. A statement that fails rolls the transaction back (OR ROLLBACK, and the
    guards do the same): one that could be undone alone would have to keep a copy of every page it touches.

    On PostgreSQL all rows go into one, as one array a column; in binary, for as text each byte string would be spelt out in
    hexadecimal, at five times the cost. That is as fast as COPY to within a tenth.
    """

    def __init__(self, statement: Insert, table: Table, dialect: Dialect) -> None:
        sql = str(statement.prefix_with("OR ROLLBACK", dialect="sqlite").compile(dialect=dialect))
        self.sql = ""
        self._statements: list[tuple[int, str]] = []
        if dialect.positional:
            group = "(" + ", ".join("?" * len(table.columns)) + ")"
            for rows in ROWS_IN_A_STATEMENT:
                self._statements.append((rows, _with_values(sql, "VALUES " + ", ".join([group] * rows))))
        else:
            arrays = ", ".join(f"%b::{column.type.compile(dialect)}[]" for column in table.columns)
            self.sql = _with_values(sql, f"SELECT * FROM unnest({arrays})")  # noqa: S608 - types of our own tables

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows inside the connection's transaction."""
        for sql, values in self.statements(rows):
            connection.exec_driver_sql(sql, values)

    def statements(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """What is executed to insert the rows: texts of SQL with their parameters."""
        if self.sql:
            yield self.sql, tuple(columns(rows))
            return
        start = 0
        for size, sql in self._statements:
            while len(rows) - start >= size:
                yield sql, tuple(chain.from_iterable(rows[start : start + size]))
                start += size


def columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """The rows' values column by column, as PostgreSQL's statement takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


_VALUES = re.compile(r"VALUES \((?:(?:\?|%\(\w+\)s(?:::\w+)?)(?:, )?)+\)")


def _with_values(sql: str, values: str) -> str:
    """The compiled INSERT with something else in the place of its one row of parameters."""
    replaced, found = _VALUES.subn(lambda _: values, sql)
    assert found == 1
    return replaced
