"""Whether a lake is what it was made of: its events the log's, its projections the store's, and every file there and whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from sqlalchemy import Engine

from analytics.columns import CLOSER_TYPES, DELIVERY_COLUMNS, event_columns
from analytics.lake import log
from analytics.lake.damage import first_line
from analytics.lake.delta import LakeTable
from analytics.lake.duck import worker
from analytics.lake.levels import LevelFiles, level_files, visible
from eventstore.ahead import ahead
from eventstore.log import arrow
from eventstore.projections.catalogue import Catalogue, Projection
from eventstore.projections.duck import encode_column, quoted, stored_schema
from eventstore.projections.tables import Checkpoint, read_checkpoints


@dataclass(frozen=True, slots=True)
class Segment:
    """Positions `first` to `last`, and whether the lake's events there are the log's: as many, with the same values in every
    column. `error`: why they cannot be read, if so."""

    first: int
    last: int
    in_log: int
    in_lake: int
    same: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """A file of a table that is gone, damaged, or has other columns than the table; `error`: DuckDB's word for it."""

    table: str
    file: str
    error: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A projection's rows in the lake and in the store. `same`: None where they are not of one moment, or the store keeps none;
    `note` says so, or why the lake's cannot be read."""

    name: str
    in_store: int | None
    in_lake: int | None
    same: bool | None
    note: str = ""


def segment(events: LakeTable, engine: Engine, after: int, last: int) -> Segment:
    """Compare the events above `after`, up to `last`."""
    names = [each.name for each in event_columns()]
    checked = _checked(names)
    with worker() as connection:
        in_log = 0, None, None
        batches = log.typed_batches(connection, engine, after, last)
        with closing(batches):
            rows = pa.RecordBatchReader.from_batches(
                log.event_schema(), (each.cast(log.event_schema()) for each in batches)
            )
            # Typed by one connection while another reads.
            with worker() as reading:
                reading.register("__rows", rows)
                try:
                    [in_log] = reading.execute(f"SELECT {checked} FROM __rows").fetchall()
                finally:
                    reading.unregister("__rows")
        files = list(events.files())
        in_lake, error = (0, None, None), ""
        if files:
            try:
                [in_lake] = connection.execute(
                    f"SELECT {checked} FROM read_parquet(?) WHERE position > ? AND position <= ?", [files, after, last]
                ).fetchall()
            except duckdb.Error as failure:
                error = first_line(failure)
    return Segment(after + 1, last, in_log[0], in_lake[0], not error and in_log == in_lake, error)


def broken(tables: Mapping[str, LakeTable], models: Catalogue, *, whole: bool) -> Iterator[Broken]:
    """The files that are gone, damaged or of other columns. `whole`: the events' files are read to their end too."""
    columns = {model.name: [each.name for each in model.columns] for model in models}
    columns |= {
        "events": [each.name for each in event_columns()],
        "deliveries": [each.name for each in DELIVERY_COLUMNS],
    }
    for name, table in tables.items():
        limit = "" if whole or name != "events" else " LIMIT 0"
        read = f"SELECT {', '.join(quoted(each) for each in columns[name])} FROM read_parquet([?], hive_partitioning = false)"
        for file in table.files():
            with worker() as connection:
                try:
                    connection.execute(f"SELECT sum(hash(COLUMNS(*))::HUGEINT) FROM ({read}{limit})", [file]).fetchall()
                except duckdb.Error as failure:
                    yield Broken(name, file, first_line(failure))


def compared(tables: Mapping[str, LakeTable], models: Catalogue, engine: Engine) -> Iterator[Compared]:
    """The store's projections beside the lake's: how many rows, and a checksum of their values."""
    for model in models:
        table = tables[model.name]
        found = _checkpoint(engine, model)
        if found is None or found.version != model.version:
            yield Compared(
                model.name, None, None, None, "the store's is of another version of the model, or not made yet"
            )
            continue
        if found.position != table.position:
            note = f"the store's is at position {found.position:,}, the lake's at {table.position:,}"
            yield Compared(model.name, None, None, None, note)
            continue
        in_store = _in_store(engine, model)
        if _checkpoint(engine, model) != found:
            yield Compared(model.name, None, None, None, "the store's has moved meanwhile")
            continue
        try:
            in_lake = _in_lake(level_files(table), model)
        except duckdb.Error as failure:
            yield Compared(model.name, in_store[0], None, False, first_line(failure))
            continue
        yield Compared(model.name, in_store[0], in_lake[0], in_store == in_lake)


def _checkpoint(engine: Engine, model: Projection) -> Checkpoint | None:
    with engine.connect() as connection:
        return read_checkpoints(connection).get(model.name)


def _in_store(engine: Engine, model: Projection) -> tuple[int, int | None]:
    names = [each.name for each in model.columns]
    schema = stored_schema(model.columns)
    sql = f"SELECT {', '.join(quoted(name) for name in names)} FROM {quoted(model.name)}"
    with arrow.query_batches(engine, sql, schema) as reader, worker() as connection:
        rows = pa.RecordBatchReader.from_batches(schema, ahead(reader))
        connection.register("__rows", rows)
        try:
            [(count, total)] = connection.execute(f"SELECT count(*), {_total(names)} FROM __rows").fetchall()
        finally:
            connection.unregister("__rows")
    return count, total


def _in_lake(files: LevelFiles, model: Projection) -> tuple[int, int | None]:
    if not files:
        return 0, None
    names = [each.name for each in model.columns]
    with worker() as connection:
        empty = stored_schema(model.columns).empty_table()
        connection.register("__empty", empty)
        try:
            types = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE __empty)").fetchall())
        finally:
            connection.unregister("__empty")
        shown = ", ".join(
            f"CAST({quoted(each.name) if _is_text(model, each.name, each.type) else encode_column(each)} "
            f"AS {types[each.name]}) AS {quoted(each.name)}"
            for each in model.columns
        )
        [(count, total)] = connection.execute(
            f"SELECT count(*), {_total(names)} FROM (SELECT {shown} FROM ({visible(files)}))"
        ).fetchall()
    return count, total


def _is_text(model: Projection, name: str, type_: str) -> bool:
    return type_ == "json" and (model.name, name) not in CLOSER_TYPES


def _checked(names: Sequence[str]) -> str:
    return f"count(*), CAST(sum(position) AS HUGEINT), {_total(names)}"


def _total(names: Sequence[str]) -> str:
    """SQL for a number that tells rows of other values from these, in whatever order they come."""
    return f"sum(CAST(hash({', '.join(quoted(name) for name in names)}) AS HUGEINT))"
