"""The projections' tables and checkpoints in the store's database: made on demand, for they are derived and disposable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Subquery,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex

from eventstore.errors import ProjectionError
from eventstore.log.engine import is_sqlite, writing
from eventstore.log.insert import BulkInsert
from eventstore.log.records import now
from eventstore.log.roles import act_as_owner, share_derived
from eventstore.log.tables import projection_checkpoints as checkpoints
from eventstore.projections.catalogue import Catalogue, Projection

SHADOW = "__shadow_"
"""Stands between a projection's name and the run's in the name of a table that a rebuild is filling."""


def ensure(engine: Engine, catalogue: Catalogue) -> None:
    """Make the tables and checkpoints that are not there.

    A model of another version starts over from an empty table, and so do those that share its checkpoint.
    """
    with engine.connect() as connection:
        known = versions(connection)
        if all(known.get(model.name) == model.version for model in catalogue):
            return
    with engine.connect() as plain:
        connection = writing(plain)
        with connection.begin():
            known = versions(connection)
            stale = tuple(model.name for model in catalogue if known.get(model.name) != model.version)
            for model in catalogue.with_dependents(stale) if stale else ():
                make(connection, model, model.name)
                set_checkpoint(connection, model, 0)


def make(connection: Connection, model: Projection, name: str, *, indexed: bool = True) -> None:
    """Make the model's table under a name, empty, replacing what stood there."""
    act_as_owner(connection)
    table = model.make_table(name)
    table.drop(connection, checkfirst=True)
    table.create(connection)
    share_derived(connection, name)
    if not indexed:
        for index in table.indexes:
            index.drop(connection)


def swap(connection: Connection, model: Projection, shadow: str) -> None:
    """Put the shadow table in the model's place. Inside the caller's transaction, so that readers see either or the other."""
    act_as_owner(connection)
    model.table.drop(connection, checkfirst=True)
    connection.exec_driver_sql(f"ALTER TABLE {shadow} RENAME TO {model.name}")
    for index in model.table.indexes:
        connection.execute(CreateIndex(index))


def drop_shadows(engine: Engine, models: Sequence[Projection], *, only: Iterable[str] | None = None) -> None:
    """Drop the models' shadow tables: those named, or all that earlier rebuilds left behind."""
    begin = tuple(f"{model.name}{SHADOW}" for model in models)
    wanted = None if only is None else set(only)
    with engine.connect() as connection:
        there = [name for name in inspect(connection).get_table_names() if name.startswith(begin)]
    there = [name for name in there if wanted is None or name in wanted]
    if there:
        with engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                act_as_owner(connection)
                for name in there:
                    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")


def versions(connection: Connection) -> dict[str, int]:
    """The version each projection's table was made by."""
    return {name: version for name, version in connection.execute(select(checkpoints.c.name, checkpoints.c.version))}


def positions(connection: Connection) -> dict[str, int]:
    """The position up to which each projection has taken the log in."""
    return {name: position for name, position in connection.execute(select(checkpoints.c.name, checkpoints.c.position))}


def set_checkpoint(connection: Connection, model: Projection, position: int) -> None:
    """Set a checkpoint whatever it was."""
    connection.execute(checkpoints.delete().where(checkpoints.c.name == model.name))
    connection.execute(
        checkpoints.insert().values(name=model.name, version=model.version, position=position, updated_at=now())
    )


def advance(connection: Connection, model: Projection, before: int, after: int) -> bool:
    """Move a checkpoint from `before` to `after`; False if another runner has moved it meanwhile."""
    moved = connection.execute(
        update(checkpoints)
        .where(
            checkpoints.c.name == model.name, checkpoints.c.version == model.version, checkpoints.c.position == before
        )
        .values(position=after, updated_at=now())
    )
    return moved.rowcount == 1


def current_rows(
    connection: Connection, model: Projection, key: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """The stored rows with these values of the key columns, in the store's encodings, columns in the header's order."""
    plain = _plain(model)
    wanted = _key_rows(is_sqlite(connection.engine), [plain.c[name].type for name in key])
    on = and_(*[plain.c[name] == wanted.c[f"k{number}"] for number, name in enumerate(key)])
    found = connection.execute(select(plain).select_from(wanted).join(plain, on), {"keys": orjson.dumps(keys).decode()})
    return [tuple(row) for row in found]


def _key_rows(sqlite: bool, types: Sequence[Any]) -> Subquery:
    """The bound JSON list of keys as rows k0, k1 …: a join with it finds each key by the index, where SQLite would scan the
    whole table for `(a, b) IN (VALUES …)`, and one parameter keeps the statement the same for any number of keys."""
    if sqlite:
        given = func.json_each(bindparam("keys", type_=Text)).table_valued("value")
        parts: list[ColumnElement[Any]] = [
            func.json_extract(given.c.value, f"$[{number}]") for number in range(len(types))
        ]
    else:
        given = func.json_array_elements(cast(bindparam("keys", type_=Text), JSON)).table_valued("value")
        parts = [cast(given.c.value.op("->>")(number), type_) for number, type_ in enumerate(types)]
    return select(*[part.label(f"k{number}") for number, part in enumerate(parts)]).subquery("wanted")


def upsert(connection: Connection, model: Projection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows (in the store's encodings), or replace those of the same key."""
    if rows:
        _upsert_statement(model, connection.dialect).execute(connection, rows)


def insert_rows(connection: Connection, model: Projection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows (in the store's encodings) into the model's table of that name."""
    plain = _plain(model, name)
    BulkInsert(plain.insert(), plain, connection.dialect).execute(connection, rows)


@lru_cache(maxsize=64)
def _upsert_statement(model: Projection, dialect: Dialect) -> BulkInsert:
    plain = _plain(model)
    insert = (sqlite if dialect.name == "sqlite" else postgresql).insert(plain)
    rest = {column.name: insert.excluded[column.name] for column in plain.c if column.name not in model.key}
    return BulkInsert(insert.on_conflict_do_update(index_elements=list(model.key), set_=rest), plain, dialect)


@lru_cache(maxsize=64)
def _plain(model: Projection, name: str | None = None) -> Table:
    """The table without value conversion: rows cross to DuckDB and back in the store's own encodings."""
    kinds: dict[str, Any] = {"bigint": BigInteger, "timestamp": BigInteger, "boolean": Boolean}
    columns = [
        Column(each.name, kinds.get(each.type, Text), primary_key=each.name in model.key) for each in model.columns
    ]
    return Table(name or model.name, MetaData(), *columns)


def check_versions(connection: Connection, catalogue: Catalogue) -> None:
    """Raise ProjectionError if a table was made by another version of its model than this program's."""
    known = versions(connection)
    for model in catalogue:
        if known.get(model.name) != model.version:
            raise ProjectionError(
                f"the table {model.name} is of version {known.get(model.name)}, this program's model of version "
                f"{model.version}; run `eventstore rebuild-projections {model.name}`"
            )
