"""The projections' tables and checkpoints in the store's database: made on demand, for they are derived and disposable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    MetaData,
    Subquery,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    inspect,
    null,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from eventstore.errors import ProjectionError
from eventstore.log.engine import is_sqlite, write_transaction
from eventstore.log.insert import BulkInsert
from eventstore.log.records import now
from eventstore.log.roles import act_as_owner, share_derived
from eventstore.log.tables import projection_checkpoints as checkpoints
from eventstore.projections.catalogue import Catalogue, Projection

SHADOW = "__shadow_"
"""Stands between a projection's name and the run's in the name of a table that a rebuild is filling."""
NEVER_BUILT = 0
"""The version of a table that is there, and empty, and waits for its first rebuild. Models' own versions begin at 1."""


def ensure(engine: Engine, catalogue: Catalogue) -> None:
    """Make the tables and checkpoints that are not there, empty.

    A table that another version of its model made stays as it is and is served (`served`) until a rebuild replaces it. A
    table that joins others which have taken in events waits for a rebuild too (NEVER_BUILT): the live runner would take the
    log in at its own pace, and the others would wait for it. Raises ProjectionError where a table of that name is not ours.
    """
    with engine.connect() as connection:
        known = read_checkpoints(connection)
        if all(model.name in known for model in catalogue):
            return
    with write_transaction(engine) as connection:
        act_as_owner(connection)
        if not is_sqlite(engine):
            # Of two processes that begin at once the second must find what the first has made.
            connection.exec_driver_sql("LOCK TABLE projection_checkpoints IN SHARE ROW EXCLUSIVE MODE")
        known = read_checkpoints(connection)
        strangers = set(inspect(connection).get_table_names())
        begun = any(each.position for each in known.values())
        for model in catalogue:
            if model.name in known:
                continue
            if model.name in strangers:
                raise ProjectionError(
                    f"the database has a table {model.name} that is no projection's: give the projection another name, "
                    "or the table"
                )
            make(connection, model, model.name)
            set_checkpoint(connection, model, 0, version=NEVER_BUILT if begun else model.version)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a projection's table has taken the log in, when it last moved, and which version of the model made the table."""

    version: int
    position: int
    updated_at: datetime


Checkpoints: TypeAlias = Mapping[str, Checkpoint]
"""Checkpoints by the projection's name."""


def read_checkpoints(connection: Connection) -> dict[str, Checkpoint]:
    """The checkpoints as they are now, also those of projections that this program does not know."""
    row = checkpoints.c
    return {
        name: Checkpoint(*rest)
        for name, *rest in connection.execute(select(row.name, row.version, row.position, row.updated_at))
    }


def behind(found: Checkpoints, catalogue: Catalogue) -> tuple[Projection, ...]:
    """The projections whose tables are not what this program's models make of the log; `eventstore upgrade` rebuilds them.

    They were made by another version of their model, or not yet built; or, being made of another projection, they stand at
    another position than that: a program that does not know them went on without them, and has not kept what they missed.
    """

    def right(model: Projection) -> bool:
        row, root = found.get(model.name), found.get(catalogue.root(model))
        if row is None or root is None or row.version != model.version or row.position != root.position:
            return False
        # What changes the root behind its checkpoint, a retry or a rebuild, leaves the position as it was.
        return bool(row.position == 0 or row.updated_at == root.updated_at)

    return tuple(model for model in catalogue if not right(model))


def followed(found: Checkpoints, catalogue: Catalogue) -> tuple[Projection, ...]:
    """The projections that the live runner may go on with: those that are not behind and read from none that is."""
    left_out: set[str] = {model.name for model in behind(found, catalogue)}
    for model in catalogue:
        if model.source in left_out:
            left_out.add(model.name)
    return tuple(model for model in catalogue if model.name not in left_out)


def served(connection: Connection, model: Projection, *, encoded: bool = False) -> FromClause:
    """The projection's table for readers, with all columns of the model, whichever version of the model made it.

    What an older table lacks, or holds as another type, reads as NULL. `encoded`: values come in the store's own encodings.
    Raises ProjectionError where there is no table that was ever filled, or one that has another key.
    """
    table = _plain(model) if encoded else model.table
    version = connection.scalar(select(checkpoints.c.version).where(checkpoints.c.name == model.name))
    if version is None or version == NEVER_BUILT:
        raise ProjectionError(
            f"the projection {model.name} has not been built from the log yet; `eventstore upgrade` does it"
        )
    if version == model.version:
        return table
    older = _older_tables.setdefault(connection.engine, {})
    stored = older.get((model.name, version))
    if stored is None:
        stored = older[model.name, version] = _stored_columns(connection, model.name)
    return _as_today(connection, model, table, stored)


_older_tables: WeakKeyDictionary[Engine, dict[tuple[str, int], dict[str, str]]] = WeakKeyDictionary()
"""What `served` has found out, by database: the columns of tables that other versions of a model made, by that version."""


def _stored_columns(connection: Connection, name: str) -> dict[str, str]:
    """The columns of a table as it stands, with their SQL types."""
    return {each["name"]: each["type"].compile(connection.dialect) for each in inspect(connection).get_columns(name)}


def _as_today(connection: Connection, model: Projection, table: Table, stored: Mapping[str, str]) -> FromClause:
    def there(column: Column[Any]) -> bool:
        return stored.get(column.name) == column.type.compile(connection.dialect)

    lost = [name for name in model.key if not there(table.c[name])]
    if lost:
        raise ProjectionError(
            f"the table {model.name} was made by another version of its model, with another key: it lacks "
            f"{', '.join(lost)}; run `eventstore upgrade`"
        )
    if all(there(column) for column in table.c):
        return table
    return select(
        *[column if there(column) else cast(null(), column.type).label(column.name) for column in table.c]
    ).subquery(f"{model.name}_of_old")


def make(connection: Connection, model: Projection, name: str, *, indexed: bool = True) -> None:
    """Make the model's table under a name, empty, replacing what stood there."""
    act_as_owner(connection)
    table = model.make_table(name)
    table.drop(connection, checkfirst=True)
    for index in table.indexes:
        # A rebuild that replaced a table has left it its indexes, under the names they had.
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index.name}")
    table.create(connection)
    share_derived(connection, name)
    if not indexed:
        for index in table.indexes:
            index.drop(connection)


def set_checkpoint(
    connection: Connection, model: Projection, position: int, *, version: int | None = None, at: datetime | None = None
) -> None:
    """Set a checkpoint whatever it was. `version`: of what made the table, if not of this model."""
    made_by = model.version if version is None else version
    connection.execute(checkpoints.delete().where(checkpoints.c.name == model.name))
    connection.execute(
        checkpoints.insert().values(name=model.name, version=made_by, position=position, updated_at=at or now())
    )


def current_rows(
    connection: Connection,
    model: Projection,
    key: Sequence[str],
    keys: Sequence[tuple[Any, ...]],
    *,
    name: str | None = None,
) -> list[tuple[Any, ...]]:
    """The stored rows with these values of the key columns, in the store's encodings, columns in the header's order.

    `name`: of the table that holds them, if it is another than the projection's own.
    """
    plain = _plain(model, name)
    wanted = _key_rows(is_sqlite(connection.engine), [plain.c[name].type for name in key])
    on = and_(*[plain.c[name] == wanted.c[f"k{number}"] for number, name in enumerate(key)])
    found = connection.execute(select(plain).select_from(wanted).join(plain, on), {"keys": orjson.dumps(keys).decode()})
    return [tuple(row) for row in found]


def stored_by(
    connection: Connection, stands_in: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Projection, Sequence[str], Sequence[tuple[Any, ...]]], list[tuple[Any, ...]]]:
    """`current_rows` of this database. `stands_in`: by a projection's name, the table that holds its rows."""

    def find(model: Projection, key: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return current_rows(connection, model, key, keys, name=stands_in.get(model.name))

    return find


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


def upsert(
    connection: Connection, model: Projection, rows: Sequence[tuple[Any, ...]], *, name: str | None = None
) -> None:
    """Insert rows (in the store's encodings), or replace those of the same key; into the model's table of that name."""
    if rows:
        _upsert_statement(model, connection.dialect, name).execute(connection, rows)


def remove(
    connection: Connection, model: Projection, keys: Sequence[tuple[Any, ...]], *, name: str | None = None
) -> None:
    """Delete the rows of these keys (in the store's encodings) from the model's table, or the one of that name."""
    if keys:
        plain = _plain(model, name)
        statement = plain.delete().where(
            and_(*[plain.c[column] == bindparam(f"k{number}") for number, column in enumerate(model.key)])
        )
        connection.execute(statement, [{f"k{number}": part for number, part in enumerate(key)} for key in keys])


def insert_rows(connection: Connection, model: Projection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows (in the store's encodings) into the model's table of that name."""
    plain = _plain(model, name)
    BulkInsert(plain.insert(), plain, connection.dialect).execute(connection, rows)


@lru_cache(maxsize=64)
def _upsert_statement(model: Projection, dialect: Dialect, name: str | None) -> BulkInsert:
    plain = _plain(model, name)
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
