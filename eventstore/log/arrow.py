"""Bulk reading into Arrow, in bounded memory.

PostgreSQL is read through ADBC, three to four times as fast as a driver's cursor. SQLite is read through Python's own driver,
and must be: ADBC's wheel links its own copy of SQLite, and two copies in one process do not see each other's file locks (the
operating system counts them per process). The first connection that ADBC closes then believes itself the last, and deletes
the write-ahead log under the writer's feet: commits made after that are lost.

Every read is bounded by position: what stands below a committed position never changes, so no transaction need be shared
with a writer at work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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
        from adbc_driver_postgresql import dbapi

        uri = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            with dbapi.connect(uri) as connection, connection.cursor() as cursor:
                cursor.execute(sql)
                reader = cursor.fetch_record_batch()
                yield pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in reader))
        except (dbapi.OperationalError, dbapi.InternalError) as error:
            # Not one of SQLAlchemy's errors, by which all others know that the database cannot be used.
            raise StoreUnavailable(f"the log could not be read: {said(error)}; try again") from error


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
