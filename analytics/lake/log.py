"""The log in the lake: the Delta table `events`, appended to in the order of positions, each event once.

A commit carries the last position that it brings, as Delta's application transaction: of two that bring the same events one is
refused, and what was killed before its commit has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import duckdb
import orjson
import pyarrow as pa
from sqlalchemy import Engine, select

from analytics.columns import event_columns, events_sql, layout
from analytics.lake.damage import readable
from analytics.lake.delta import LakeTable, Outrun, stream
from analytics.lake.duck import worker
from eventstore.ahead import ahead
from eventstore.errors import InputError, ProjectionError
from eventstore.log import arrow
from eventstore.log.tables import events
from eventstore.projections.step import is_about_data

NAME = "events"
APPLICATION = f"eventstore.events.{layout(events_sql())}"
"""The layout is named at the end: a table of another one is made anew."""
COMMIT_EVENTS = 1_000_000
"""Events of one commit at most: what is lost of an export that is killed, half a minute."""
PIECE_EVENTS = 50_000
"""Events in memory at a time, twice: about 130 MB of documented size."""
SMALL_EVENTS = 100_000
"""A file of fewer is a small one."""
COMPACT_BYTES = 256 * 1024 * 1024
"""About the size of the files that are joined on demand."""
SMALL_FILES = 16
"""So many small files at the end of the table are joined into one: each costs every reader a millisecond."""


def catch_up(table: LakeTable, engine: Engine, until: int, *, on_progress: Callable[[int], None] | None = None) -> None:
    """Append the events that are not in the table yet, up to the position `until`."""
    require_same_log(table, engine)
    with worker() as connection:
        while (after := table.position) < until:
            last = min(after + COMMIT_EVENTS, until)
            batches = typed_batches(connection, engine, after, last, on_progress)
            with closing(batches):
                try:
                    if table.delta is not None and after == 0:  # of another layout
                        table.replace(stream(event_schema(), batches), last, new_schema=True)
                    else:
                        table.append(stream(event_schema(), batches), last)
                except Outrun:
                    table.open()
                    if table.position <= after:
                        raise
    _join_small_files(table)


def require_same_log(table: LakeTable, engine: Engine) -> None:
    """Raise InputError if the lake was made of another log than this store's."""
    if table.position == 0:
        return
    row = events.c
    with engine.connect() as connection:
        found = connection.execute(
            select(row.event_id, row.recorded_at).where(row.position == table.position)
        ).one_or_none()
    with readable(table.uri.rpartition("/")[0]), worker() as connection:
        here = connection.execute(
            "SELECT event_id, recorded_at FROM read_parquet(?) WHERE position = ?",
            [_files_from(table, table.position), table.position],
        ).fetchall()
    if found is None or [tuple(found)] != here:
        raise InputError(
            f"the lake {table.uri.rpartition('/')[0]} was made of another log, or of this one before an older backup of it was "
            f"restored: their events at position {table.position} differ; remove the lake, it is made anew, or name another"
        )


def event_schema() -> pa.Schema:
    """The columns of the table, as Arrow has them."""
    return pa.schema([pa.field(each.name, _ARROW[each.type]) for each in event_columns()])


_ARROW = {
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
    "DATE": pa.date32(),
    "DECIMAL(18,6)": pa.decimal128(18, 6),
}


def typed_batches(
    connection: duckdb.DuckDBPyConnection,
    engine: Engine,
    after: int,
    until: int,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[pa.RecordBatch, None, None]:
    """The rows of the table for the events above `after`, up to `until`. To be closed if it is not read to its end."""
    with closing(ahead(_pieces(engine, after, until))) as pieces:
        for piece in pieces:
            yield from _typed(connection, engine, piece)
            if on_progress is not None:
                on_progress(piece["position"][-1].as_py())


def _typed(connection: duckdb.DuckDBPyConnection, engine: Engine, piece: pa.Table) -> list[pa.RecordBatch]:
    """The rows of `events` for these of the log."""
    connection.register("batch", piece)
    try:
        made: list[pa.RecordBatch] = connection.sql(events_sql()).to_arrow_table().to_batches()
    except duckdb.Error as error:
        if not is_about_data(error):
            first, last = piece["position"][0], piece["position"][-1]
            raise ProjectionError(
                f"the events {first} to {last} cannot be brought into the lake: {str(error).splitlines()[0]}"
            ) from error
        if piece.num_rows == 1:
            return _as_far_as_known(connection, engine, piece)
        half = piece.num_rows // 2
        return [*_typed(connection, engine, piece[:half]), *_typed(connection, engine, piece[half:])]
    connection.unregister("batch")
    return made


def _as_far_as_known(connection: duckdb.DuckDBPyConnection, engine: Engine, piece: pa.Table) -> list[pa.RecordBatch]:
    """The row of an event whose payload no reader ever wrote: its models leave it out (dead letters), and here stands what the
    log's own columns say of it, beside that payload."""
    row = events.c
    known = [row.event_id, row.site_id, row.type, row.source, row.entity_id, row.coupon_id, row.sequence]
    with engine.connect() as open_:
        found = open_.execute(select(*known).where(row.position == piece["position"][0].as_py())).one()
    payload = piece.schema.get_field_index("payload")
    stand_in = pa.array(
        [orjson.dumps({str(name): value for name, value in found._mapping.items()}).decode()], pa.string()
    )
    [made] = _typed(connection, engine, piece.set_column(payload, "payload", stand_in))
    return [made.set_column(made.schema.get_field_index("payload"), "payload", piece["payload"].combine_chunks())]


def _pieces(engine: Engine, after: int, until: int) -> Iterator[pa.Table]:
    for start in range(after, until, PIECE_EVENTS):
        with arrow.event_batches(engine, after=start, until=min(start + PIECE_EVENTS, until)) as reader:
            yield reader.read_all()


def _files_from(table: LakeTable, position: int) -> list[str]:
    """The files that may hold events from that position on."""
    found = table.contents("path", "max.position")
    names = {each["path"] for each in found if each["max.position"] is None or each["max.position"] >= position}
    return list(table.files(only=names))


def _join_small_files(table: LakeTable) -> None:
    """Make one file of the small ones at the end, once they are many."""
    files = sorted(table.contents("num_records", "min.position"), key=lambda each: int(each["min.position"]))
    last: list[dict[str, int]] = []
    while files and files[-1]["num_records"] < SMALL_EVENTS:
        last.insert(0, files.pop())
    if len(last) < SMALL_FILES:
        return
    first = last[0]["min.position"]
    with readable(table.uri.rpartition("/")[0]), worker() as connection:
        rows = connection.sql(
            "SELECT * FROM read_parquet(?) WHERE position >= ? ORDER BY position",
            params=[_files_from(table, first), first],
        ).to_arrow_table()
    table.replace(stream(event_schema(), rows.to_batches()), table.position, predicate=f"position >= {first}")
