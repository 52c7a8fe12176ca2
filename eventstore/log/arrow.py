"""Bulk reading into Arrow through ADBC: three to four times a driver's cursor, in bounded memory.

An ADBC connection has its own transaction, so every read is bounded by position: what stands below a committed position never
changes, and a writer at work cannot be half seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine

from eventstore.log.engine import is_sqlite

NO_SEQUENCE = -(2**63)
"""Stands for an absent sequence in batches. ADBC's SQLite driver guesses types from the first rows, and a column that begins
with NULLs would be guessed wrong, so no column of a batch is ever NULL; `facts.sql` turns this, and '', back."""

EVENT_BATCH_COLUMNS = (
    "position",
    "event_id",
    "site_id",
    "type",
    "source",
    "entity_id",
    "coalesce(coupon_id, '') AS coupon_id",
    "event_time",
    "recorded_at",
    f"coalesce(sequence, {NO_SEQUENCE}) AS sequence",
    "payload",
)


@contextmanager
def connect(engine: Engine) -> Iterator[Any]:
    """An ADBC connection to the engine's database."""
    if is_sqlite(engine):
        from adbc_driver_sqlite import dbapi as sqlite_dbapi

        with sqlite_dbapi.connect(str(engine.url.database)) as connection:
            yield connection
    else:
        from adbc_driver_postgresql import dbapi as postgresql_dbapi

        with postgresql_dbapi.connect(_libpq_uri(engine)) as connection:
            yield connection


def _libpq_uri(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def event_batches(engine: Engine, *, after: int, until: int) -> Iterator[pa.RecordBatchReader]:
    """The events with `after < position <= until`, in order, as Arrow record batches (columns: EVENT_BATCH_COLUMNS).

    Times are microseconds since the epoch. The reader is good for one pass, inside the `with`.
    """
    columns = ", ".join(EVENT_BATCH_COLUMNS)
    sql = f"SELECT {columns} FROM events WHERE position > {int(after)} AND position <= {int(until)} ORDER BY position"  # noqa: S608 - integers only
    with connect(engine) as connection, connection.cursor() as cursor:
        if is_sqlite(engine):
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": 16_384})
        cursor.execute(sql)
        yield cursor.fetch_record_batch()


@contextmanager
def table_batches(engine: Engine, sql: str) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query as Arrow record batches. Columns that may be NULL must be made not to be, as above."""
    with connect(engine) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        yield cursor.fetch_record_batch()
