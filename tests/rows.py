"""What a store's database holds, read and changed by its plain driver: past the store's own code, on either engine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

PATIENCE = 60.0
"""Seconds after which what never ends is a failure."""
Row = tuple[Any, ...]
REFUSED = (sqlite3.IntegrityError, psycopg.errors.RaiseException, psycopg.errors.IntegrityError)
"""What a driver raises where the database refuses to do as it is told."""


class Stranger:
    """Somebody with the database and a driver, and without this project; every statement is committed at once."""

    def __init__(self, url: str) -> None:
        """`url` is a store's: a URL, or the path of a SQLite file."""
        self.sqlite = "://" not in url or url.startswith("sqlite")
        self._path: Path | None = None
        self._connection: sqlite3.Connection | psycopg.Connection[Row]
        if self.sqlite:
            self._path = Path((make_url(url).database or "") if "://" in url else url)
            self._connection = sqlite3.connect(self._path, isolation_level=None)
        else:
            address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
            self._connection = psycopg.connect(address, autocommit=True)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _run(self, statement: str, parameters: tuple[object, ...]) -> Any:
        if isinstance(self._connection, sqlite3.Connection):
            return self._connection.execute(statement, parameters)
        # A statement without parameters is sent as it stands, whatever signs are in it.
        text = statement.replace("%", "%%").replace("?", "%s") if parameters else statement
        return self._connection.execute(text.encode(), parameters or None)

    def execute(self, statement: str, *parameters: object) -> None:
        """Run a statement; a value stands in it as `?`."""
        self._run(statement, parameters)

    def rows(self, statement: str, *parameters: object) -> list[Row]:
        """The rows of a query: bytes are bytes; what is true is 1 on SQLite and True on PostgreSQL, which are equal."""
        found: list[Row] = self._run(statement, parameters).fetchall()
        return found

    def records(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """The same, each row by the names of its columns."""
        cursor = self._run(statement, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tables(self) -> list[str]:
        """The names of all tables."""
        query = (
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            if self.sqlite
            else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        return sorted(name for (name,) in self.rows(query))

    def holds(self, marker: str) -> bool:
        """Whether this text stands anywhere in the database: in a value of any row of any table, or in SQLite's file at all."""
        if self._path is not None and marker.encode() in self._path.read_bytes():
            return True
        values = (value for table in self.tables() for row in self.rows(f"SELECT * FROM {table}") for value in row)
        return any(marker.encode() in (value if isinstance(value, bytes) else str(value).encode()) for value in values)

    def drop_guards(self) -> None:
        """Take away whatever keeps the store's rows from being changed."""
        if self.sqlite:
            for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
                self.execute(f"DROP TRIGGER {name}")
            return
        for table in self.tables():
            self.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")

    def drop_guard(self, table: str, name: str) -> None:
        """Take away one guard of a table."""
        self.execute(f"DROP TRIGGER {name}" if self.sqlite else f"DROP TRIGGER {name} ON {table}")


def rows(url: str, statement: str, *parameters: object) -> list[Row]:
    """The rows of one query to the store at a URL or path."""
    with Stranger(url) as stranger:
        return stranger.rows(statement, *parameters)


def change(url: str, *statements: str) -> None:
    """Run statements against the store at a URL or path."""
    with Stranger(url) as stranger:
        for statement in statements:
            stranger.execute(statement)


def wait_until_left(url: str) -> None:
    """Wait until nobody else is at work in the store: a PostgreSQL finishes what a killed client has asked of it last."""
    with Stranger(url) as stranger:
        if stranger.sqlite:
            return
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + PATIENCE
        while stranger.rows(others) != [(0,)]:
            assert time.monotonic() < deadline, "the database is never left"
            time.sleep(0.01)


@contextmanager
def held(url: str, *tables: str) -> Iterator[None]:
    """Another program that stands still in the midst of a write: to the whole SQLite file, or to these tables of a PostgreSQL.

    On both engines, who only reads goes on.
    """
    with Stranger(url) as other:
        if other.sqlite:
            other.execute("BEGIN EXCLUSIVE")
        else:
            other.execute("BEGIN")
            other.execute(f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
        yield
        other.execute("ROLLBACK")
