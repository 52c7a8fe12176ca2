"""Bulk reading into Arrow, in bounded memory; on PostgreSQL also the way back.

PostgreSQL is read through ADBC, three to four times as fast as a driver's cursor. SQLite is read through Python's own driver,
and must be: ADBC's wheel links its own copy of SQLite, and two copies in one process do not see each other's file locks (the
operating system counts them per process). The first connection that ADBC closes then believes itself the last, and deletes
the write-ahead log under the writer's feet: commits made after that are lost.

Every read is bounded by position: what stands below a committed position never changes, so no transaction need be shared
with a writer at work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from eventstore.errors import StoreUnavailable
from eventstore.log.engine import is_sqlite, said

FEW_ROWS = 500
"""So few are read through the driver's own connection, which is open: ADBC opens one each time, of some milliseconds."""
BATCH_ROWS = 10_000
"""Rows in a record batch: about 12 MB of documented events."""

EVENT_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("event_time", pa.int64()),
        pa.field("recorded_at", pa.int64()),
        pa.field("payload", pa.string()),
    ]
)
"""What projections read of an event: times in microseconds since the epoch, and the payload, which holds all the rest."""


@contextmanager
def event_batches(
    engine: Engine, *, after: int, until: int, happened_by: int | None = None
) -> Iterator[pa.RecordBatchReader]:
    """The events with `after < position <= until`, in order, as record batches of EVENT_SCHEMA.

    `happened_by`: only those whose event_time is at most this, in microseconds since the epoch. The reader is good for one
    pass, inside the `with`.
    """
    columns = ", ".join(EVENT_SCHEMA.names)
    where = f"position > {int(after)} AND position <= {int(until)}"
    if happened_by is not None:
        where += f" AND event_time <= {int(happened_by)}"
    sql = f"SELECT {columns} FROM events WHERE {where} ORDER BY position"  # noqa: S608 - integers only
    with query_batches(engine, sql, EVENT_SCHEMA, few=until - after <= FEW_ROWS) as reader:
        yield reader


@contextmanager
def query_batches(engine: Engine, sql: str, schema: pa.Schema, *, few: bool = False) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query as record batches of the given schema. The reader is good for one pass, inside the `with`.

    `few`: there are at most FEW_ROWS of them.
    """
    if is_sqlite(engine):
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            cursor = driver.execute(sql)
            try:
                yield pa.RecordBatchReader.from_batches(schema, _cursor_batches(cursor, schema))
            finally:
                cursor.close()
    elif few:
        with engine.connect() as connection:
            batch = rows_to_batch(connection.exec_driver_sql(sql).fetchall(), schema)
        yield pa.RecordBatchReader.from_batches(schema, [batch])
    else:
        with _adbc(engine, "the log could not be read") as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            reader = cursor.fetch_record_batch()
            yield pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in reader))


@contextmanager
def copying(engine: Engine, table: str) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """On PostgreSQL: what appends a batch to a table, whose columns it names, by COPY and in a transaction of its own.

    For what can be made again: nobody waits until it is on the disk. Raises StoreUnavailable.
    """
    with _adbc(engine, f"{table} could not be written") as connection, connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        connection.commit()

        def copy(batch: pa.RecordBatch) -> None:
            cursor.adbc_ingest(table, batch, mode="append")
            connection.commit()

        yield copy


@contextmanager
def _adbc(engine: Engine, failed: str) -> Iterator[Any]:
    """An ADBC connection to a PostgreSQL database of its own; its errors as those by which all others know that the database
    cannot be used."""
    from adbc_driver_postgresql import dbapi

    uri = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with dbapi.connect(uri) as connection:
            yield connection
    except (dbapi.OperationalError, dbapi.InternalError) as error:
        raise StoreUnavailable(f"{failed}: {said(error)}; try again") from error


def _cursor_batches(cursor: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    while rows := cursor.fetchmany(BATCH_ROWS):
        yield rows_to_batch(rows, schema)


def rows_to_batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as one record batch of the schema; SQLite's 0 and 1 become booleans where it says so."""
    columns: Any = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = []
    for field, column in zip(schema, columns, strict=True):
        values = column
        if pa.types.is_boolean(field.type):
            values = [None if value is None else bool(value) for value in column]
        arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def only_positions(rows: pa.Table, positions: Collection[int]) -> pa.Table:
    """The rows of EVENT_SCHEMA that stand at these positions."""
    return rows.filter(_at(rows, positions))


def without_positions(rows: pa.Table, positions: Collection[int]) -> pa.Table:
    """The rows of EVENT_SCHEMA but for those at these positions."""
    return rows.filter(pc.invert(_at(rows, positions))) if positions else rows


def _at(rows: pa.Table, positions: Collection[int]) -> Any:
    return pc.is_in(rows["position"], pa.array(sorted(positions), pa.int64()))


def rows_of(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """The batch's rows: the way back from `rows_to_batch`."""
    return list(zip(*[column.to_pylist() for column in batch.columns], strict=True))
