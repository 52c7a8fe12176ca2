"""The projections' tables and checkpoints in the store's database: made on demand, for they are derived and disposable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, inspect, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex

from eventstore.errors import ProjectionError
from eventstore.log.engine import is_sqlite, writing
from eventstore.log.records import now
from eventstore.log.tables import projection_checkpoints as checkpoints
from eventstore.projections.catalogue import Projection, projections

KEYS_IN_A_QUERY = 300
"""Keys looked up in one statement: three columns each stay below every engine's limit on parameters."""


def ensure(engine: Engine) -> None:
    """Make the tables and checkpoints that are not there; a model of another version starts over from an empty table."""
    with engine.connect() as connection:
        if versions(connection) == {model.name: model.version for model in projections()}:
            return
    with engine.connect() as plain:
        connection = writing(plain)
        with connection.begin():
            known = versions(connection)
            for model in projections():
                if known.get(model.name) == model.version:
                    continue
                make(connection, model, model.name)
                set_checkpoint(connection, model, 0)


def make(connection: Connection, model: Projection, name: str) -> None:
    """Make the model's table under a name, empty, replacing what stood there."""
    table = model.make_table(name)
    table.drop(connection, checkfirst=True)
    table.create(connection)


def swap(connection: Connection, model: Projection, shadow: str) -> None:
    """Put the shadow table in the model's place. Inside the caller's transaction, so that readers see either or the other."""
    model.table.drop(connection, checkfirst=True)
    connection.exec_driver_sql(f"ALTER TABLE {shadow} RENAME TO {model.name}")
    for index in model.table.indexes:
        connection.execute(CreateIndex(index))


def drop(connection: Connection, name: str) -> None:
    """Drop a table if it is there."""
    if inspect(connection).has_table(name):
        connection.exec_driver_sql(f"DROP TABLE {name}")


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
    columns = tuple_(*[plain.c[name] for name in key])
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), KEYS_IN_A_QUERY):
        found = connection.execute(select(plain).where(columns.in_(keys[start : start + KEYS_IN_A_QUERY])))
        rows.extend(tuple(row) for row in found)
    return rows


def upsert(connection: Connection, model: Projection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows (in the store's encodings), or replace those of the same key."""
    plain = _plain(model)
    names = [column.name for column in model.columns]
    values = [dict(zip(names, row, strict=True)) for row in rows]
    if not values:
        return
    insert = (sqlite if is_sqlite(connection.engine) else postgresql).insert(plain)
    rest = {name: insert.excluded[name] for name in names if name not in model.key}
    connection.execute(insert.on_conflict_do_update(index_elements=list(model.key), set_=rest), values)


def delete_keys(connection: Connection, model: Projection, keys: Sequence[tuple[Any, ...]]) -> None:
    """Delete the rows with these keys."""
    plain = _plain(model)
    columns = tuple_(*[plain.c[name] for name in model.key])
    for start in range(0, len(keys), KEYS_IN_A_QUERY):
        connection.execute(plain.delete().where(columns.in_(keys[start : start + KEYS_IN_A_QUERY])))


def _plain(model: Projection) -> Any:
    """The table without value conversion: rows cross to DuckDB and back in the store's own encodings."""
    cached = _PLAIN.get(model.name)
    if cached is None or cached[0] is not model:
        from sqlalchemy import BigInteger, Boolean, Column, MetaData, Table, Text

        kinds: dict[str, Any] = {"bigint": BigInteger, "timestamp": BigInteger, "boolean": Boolean}
        columns = [Column(each.name, kinds.get(each.type, Text), primary_key=each.name in model.key) for each in model.columns]
        cached = (model, Table(model.name, MetaData(), *columns))
        _PLAIN[model.name] = cached
    return cached[1]


_PLAIN: dict[str, tuple[Projection, Any]] = {}


def check_versions(connection: Connection) -> None:
    """Raise ProjectionError if a table was made by another version of its model than this program's."""
    known = versions(connection)
    for model in projections():
        if known.get(model.name) != model.version:
            raise ProjectionError(
                f"the table {model.name} is of version {known.get(model.name)}, this program's model of version "
                f"{model.version}; run `eventstore rebuild-projections {model.name}`"
            )
