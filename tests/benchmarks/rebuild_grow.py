"""Growing a log for `rebuild --grow`: its events copied under other ids, past the writer, whose work is not what is measured.

A copy has the size and the shape of what it is a copy of, and is about a coupon and an order of its own; it keeps no original
delivery, and the ledger of known ids does not know it. A rebuild reads neither.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.engine import Engine

from eventstore.log.engine import make_engine, write_transaction
from eventstore.log.insert import BulkInsert
from eventstore.log.reader import head
from eventstore.log.tables import events
from tests.benchmarks.harness import note

PIECE = 20_000
"""Events copied in one transaction."""
TELL_EVERY = 500_000
_COLUMNS = [column.name for column in events.c]
_ID_COLUMNS = [_COLUMNS.index(name) for name in ("event_id", "entity_id", "coupon_id")]
_POSITION, _RECORDED_AT, _PAYLOAD, _ORIGINAL = (
    _COLUMNS.index(name) for name in ("position", "recorded_at", "payload", "original")
)
_ORDER = '"order_id":"'


def multiply(url: str, wanted: int) -> None:
    """Make a log as long as wanted, by copies of all its events, again and again."""
    engine = make_engine(url)
    insert = BulkInsert(events.insert(), events, engine.dialect)
    base, start = head(engine), time.perf_counter()
    position = base
    while position < wanted:
        after = position % base
        count = min(PIECE, base - after, wanted - position)
        _copy(engine, insert, after, count, position)
        position += count
        if position % TELL_EVERY < count:
            rate = (position - base) / (time.perf_counter() - start)
            note(f"growing the log: {position:,} of {wanted:,}, {rate:,.0f}/s")
    engine.dispose()


def _copy(engine: Engine, insert: BulkInsert, after: int, count: int, position: int) -> None:
    """Copy `count` events behind `after` to the end of the log, which is at `position`."""
    mark = f"{position - after:09x}"
    with write_transaction(engine, durable=False) as connection:
        sql = f"SELECT {', '.join(_COLUMNS)} FROM events WHERE position > {after} AND position <= {after + count} ORDER BY 1"
        found = connection.exec_driver_sql(sql).fetchall()
        recorded_at = connection.exec_driver_sql("SELECT recorded_at FROM log_head").scalar_one()
        rows = [_renamed(list(row), mark, number, recorded_at) for number, row in enumerate(found, position + 1)]
        insert.execute(connection, rows)
        connection.exec_driver_sql(f"UPDATE log_head SET size = {position + count}")


def _renamed(row: list[Any], mark: str, position: int, recorded_at: int) -> tuple[Any, ...]:
    payload: str = row[_PAYLOAD]
    ids = {row[column] for column in _ID_COLUMNS if row[column] is not None}
    _, found, rest = payload.partition(_ORDER)
    if found:
        ids.add(rest.partition('"')[0])
    for name in ids:
        payload = payload.replace(name, name[: -len(mark)] + mark)
    for column in _ID_COLUMNS:
        if row[column] is not None:
            row[column] = row[column][: -len(mark)] + mark
    row[_POSITION], row[_RECORDED_AT], row[_PAYLOAD], row[_ORIGINAL] = position, recorded_at, payload, None
    return tuple(row)
