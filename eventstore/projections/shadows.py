"""The tables that a rebuild fills beside those that are read, and the moment in which they take their place.

A shadow is nobody's but its rebuild's. What it replaces stays under the projection's name and OLD until the next rebuild has
put its own there; what is to go is renamed to a shadow in the swap, and dropped afterwards, a piece at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.schema import CreateIndex

from eventstore.log.engine import is_sqlite, write_transaction
from eventstore.log.roles import act_as_owner
from eventstore.projections import tables
from eventstore.projections.catalogue import Catalogue, Projection

if TYPE_CHECKING:
    import pyarrow as pa

SHADOW = tables.SHADOW
OLD = "__old"
"""Ends the name of the table that a projection had before its last rebuild."""
DROP_ROWS = 100_000
"""Rows that leave a SQLite table in one transaction before it is dropped: SQLite frees its pages one by one, and those who
append would wait for all of a large one."""
LOCK_WAIT_MS = 200
"""How long the swap waits for readers of a table on PostgreSQL before it lets them go on and is tried again later: nobody can
append meanwhile. Less than the second after which PostgreSQL looks for deadlocks: a reader of two tables may have locked the
second one first."""


class Writing(NamedTuple):
    """Two steps for each batch of rows: `prepare`, which another thread may do ahead, and `write`, which gets what it made."""

    prepare: Callable[[pa.RecordBatch], Any]
    write: Callable[[Any], None]


class Shadows:
    """The shadow tables of one rebuild."""

    def __init__(self, engine: Engine, models: Sequence[Projection]) -> None:
        self._engine = engine
        self._models = tuple(models)
        self._run = secrets.token_hex(4)
        self.names = {model.name: f"{model.name}{SHADOW}{self._run}" for model in models}

    def make(self, model: Projection) -> None:
        """Make the model's shadow table, empty."""
        with write_transaction(self._engine) as connection:
            # An index over many rows is made faster at the end, but on SQLite nobody could write meanwhile.
            tables.make(connection, model, self.names[model.name], indexed=is_sqlite(self._engine))

    @contextmanager
    def writing(self, model: Projection) -> Iterator[Writing]:
        """How rows are inserted, none of which is there yet. They are on the disk once the swap is."""
        from eventstore.log import arrow  # Arrow takes a seventh of what a short command takes to start

        name = self.names[model.name]
        if is_sqlite(self._engine):

            def insert(rows: Sequence[tuple[Any, ...]]) -> None:
                with write_transaction(self._engine, durable=False) as connection:
                    tables.insert_rows(connection, model, name, rows)

            yield Writing(arrow.rows_of, insert)
        else:
            with arrow.copying(self._engine, name) as copy:
                yield Writing(lambda batch: batch, copy)

    def index(self, model: Projection) -> None:
        """Make the indexes that `make` left out."""
        if is_sqlite(self._engine):
            return
        with write_transaction(self._engine) as connection:
            act_as_owner(connection)
            for index in model.make_table(self.names[model.name]).indexes:
                connection.execute(CreateIndex(index))

    def count(self, model: Projection) -> int:
        """How many rows the shadow holds."""
        with self._engine.connect() as connection:
            return count(connection, self.names[model.name])

    def swap(self, connection: Connection, *, keep: bool) -> None:
        """Put the shadows in the projections' places, inside the caller's transaction: readers see either or the other.

        `keep`: what was there before stays as NAME and OLD. Raises DBAPIError where readers would not let go of a table.
        """
        act_as_owner(connection)
        there = set(inspect(connection).get_table_names())
        _lock(connection, [each for model in self._models for each in (model.name, model.name + OLD) if each in there])
        if is_sqlite(connection.engine):
            # Else a view that names the table would go on with the old one, whatever that is called.
            connection.exec_driver_sql("PRAGMA legacy_alter_table=ON")
        try:
            for model in self._models:
                if model.name + OLD in there:
                    _rename(connection, model.name + OLD, f"{self.names[model.name]}_older")
                if model.name in there:
                    old = model.name + OLD if keep else f"{self.names[model.name]}_was"
                    _rename(connection, model.name, old)
                _rename(connection, self.names[model.name], model.name)
        finally:
            if is_sqlite(connection.engine):
                connection.exec_driver_sql("PRAGMA legacy_alter_table=OFF")

    def drop(self) -> None:
        """Drop what is left of them, and what they have replaced."""
        drop(self._engine, [name for name in shadows(self._engine) if SHADOW + self._run in name])


def shadows(engine: Engine) -> list[str]:
    """The names of all shadow tables there are, whoever made them."""
    with engine.connect() as connection:
        return [name for name in inspect(connection).get_table_names() if SHADOW in name]


def kept(engine: Engine, catalogue: Catalogue) -> list[str]:
    """The names of the tables that the last rebuilds have replaced and kept."""
    with engine.connect() as connection:
        there = set(inspect(connection).get_table_names())
    return [model.name + OLD for model in catalogue if model.name + OLD in there]


def drop(engine: Engine, names: Iterable[str]) -> None:
    """Drop tables without keeping others from writing for long. Raises NotOwner."""
    for name in names:
        if is_sqlite(engine):
            while _shorten(engine, name):
                pass
        with write_transaction(engine) as connection:
            act_as_owner(connection)
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")


def count(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def _shorten(engine: Engine, name: str) -> bool:
    """Delete the first DROP_ROWS rows of a table, if it has more than that."""
    with engine.connect() as connection:
        inspector = inspect(connection)
        if not inspector.has_table(name):
            return False
        key = ", ".join(inspector.get_pk_constraint(name)["constrained_columns"])
    if not key:
        return False
    with write_transaction(engine, durable=False) as connection:
        last = f"SELECT {key} FROM {name} ORDER BY {key} LIMIT 1 OFFSET {DROP_ROWS - 1}"
        return connection.exec_driver_sql(f"DELETE FROM {name} WHERE ({key}) <= ({last})").rowcount > 0


def _lock(connection: Connection, names: Sequence[str]) -> None:
    """Keep readers out of these tables until the transaction ends. On SQLite nobody sees what is not committed anyhow."""
    if is_sqlite(connection.engine) or not names:
        return
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")


def _rename(connection: Connection, name: str, to: str) -> None:
    connection.exec_driver_sql(f"ALTER TABLE {name} RENAME TO {to}")
