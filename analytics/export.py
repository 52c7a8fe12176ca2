"""Files to hand over: a table of the lake as Parquet, CSV or NDJSON, in bounded memory, whole or not there at all.

| table | order | `since`, `until` choose by | `after` |
|---|---|---|---|
| `events`, `facts` | position | `event_time` | position |
| `changes` | position, then the fact | `event_time` | position |
| `redemptions` | its key | `redeemed_at` | – |
| any other projection, your own too | its key | – | – |
| `deliveries` | all its columns | – | – |

The same question at the same position gives the same rows in the same order. `Exported.position` is where the next export goes
on: what is appended later has a higher one.

Columns are those that `connect` shows, in each format alike: times are UTC; in Parquet they are typed as there, and a column's
metadata says what it holds. CSV and NDJSON write values as `ReportResult.to_csv` and `to_json` do; in CSV a text that a
spreadsheet would run has an apostrophe before it.

A line of NDJSON of `events` is `{"position": …, "recorded_at": …, "event": {…}}`, where `event` is the payload as the log keeps
it, byte for byte; the typed columns are made of it and left out. `exported_events` reads such lines back, so that
`store.append_many(exported_events(file))` brings them into another store: the same events in the same order under the same ids,
and a second time nothing. That store gives them positions and times of recording of its own, and has no original deliveries:
those are in the store, not in the lake. `eventstore ingest` is for what Wix sends, and does not take these lines.

Personal data: `events` holds it in its payloads, of whoever earned a reward too, and in `actor_id` and `account_id`; `facts` and
the lines of CSV made of it hold those two alone, `loyalty_coupons` the members. `coupons` and `coupon_usage` hold none.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine

from analytics.catalogue import Parameter
from analytics.columns import EVENTS, FACTS, TableColumn
from analytics.connect import enough_memory
from analytics.files import new_file
from analytics.lake import Lake, LakeProgress, LakeUnreadable, Snapshot, default_lake
from analytics.lake.damage import is_damage, readable
from analytics.lines import csv_header, csv_line, event_line, json_line, written_bytes
from analytics.views import CHANGES, View, views
from eventstore.ahead import ahead
from eventstore.errors import EventStoreError, InputError, NotFound
from eventstore.event import Event
from eventstore.log import schema
from eventstore.log.engine import make_engine
from eventstore.nearest import did_you_mean
from eventstore.projections.catalogue import Catalogue, load_catalogue
from eventstore.projections.duck import quoted

FORMATS = ("parquet", "csv", "ndjson")
SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
"""By a file's ending, the format that is meant where none is named."""
MEMORY_LIMIT = "512MB"
"""What DuckDB may take for it; what it has to sort beyond that goes to a folder for temporary files."""
PIECE_EVENTS = 122_880
"""Events that are put in order at a time: a row group of the lake's files, so that each is read once."""
ROW_GROUP_ROWS = 122_880
"""Rows of a row group of the Parquet files, which are gathered before they are written."""
LINES = 20_000
"""Lines made at a time."""
_SPANS = {EVENTS: "event_time", FACTS: "event_time", CHANGES: "event_time", "redemptions": "redeemed_at"}
"""The times that `since` and `until` are of."""
_POSITIONED = (EVENTS, FACTS, CHANGES)
_MOMENT = Parameter("", "timestamp", None, "")


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export is: `rows` of `total`, after `seconds`."""

    rows: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported: `rows` of `table` in `bytes` of a format. `position`: how far into the log they look, for the next."""

    table: str
    format: str
    rows: int
    bytes: int
    position: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a table: `since` <= time < `until`, above the position `after`, of one site. None: all."""

    since: datetime | None = None
    until: datetime | None = None
    after: int = 0
    site: str | None = None

    def conditions(self, view: View) -> tuple[list[str], dict[str, Any]]:
        """SQL conditions on the view's rows, and the values that they name. Raises InputError for what it has no column for."""
        found: list[str] = []
        values: dict[str, Any] = {}
        time_column = _SPANS.get(view.name)
        for name, comparison, moment in (("since", ">=", self.since), ("until", "<", self.until)):
            if moment is None:
                continue
            if time_column is None:
                raise InputError(
                    f"{view.name} cannot be chosen by {name}: it has no time of an event; {', '.join(_SPANS)} have"
                )
            found.append(f"{time_column} {comparison} ${name}")
            values[name] = moment
        if self.after:
            if view.name not in _POSITIONED:
                raise InputError(
                    f"{view.name} cannot be chosen by after: it has no position; {', '.join(_POSITIONED)} have"
                )
            found.append("position > $after")
            values["after"] = self.after
        if self.site is not None:
            if "site_id" not in [each.name for each in view.columns]:
                raise InputError(f"{view.name} cannot be chosen by site: it has no column site_id")
            found.append("site_id = $site")
            values["site"] = self.site
        return found, values


def export(
    store: str | Path | Engine | None,
    output: str | Path | IO[bytes],
    *,
    table: str = EVENTS,
    format: str | None = None,  # noqa: A002 - as the command's option is called
    since: object = None,
    until: object = None,
    after: int = 0,
    site: str | None = None,
    lake: str | Path | None = None,
    catch_up: bool = True,
    projections: Sequence[str | Path] | Catalogue = (),
    memory_limit: str = MEMORY_LIMIT,
    on_progress: Callable[[ExportProgress], None] | None = None,
    on_lake_progress: Callable[[LakeProgress], None] | None = None,
) -> Exported:
    """Write a table of a store's lake to a file, or to an open binary one; see the module. The lake is brought up to date first.

    `format`: one of FORMATS; None: as the file's ending says. `since` <= event's time < `until`: dates or aware times, also as
    text. `after`: only what stands above this position. A file appears under its name once it is whole, in place of an older one.
    `store`, `lake`, `catch_up`, `projections`: as for `connect`.

    Raises InputError for a wrong parameter or a file that cannot be written, NotFound for an unknown table, and as `connect`.
    """
    catalogue = projections if isinstance(projections, Catalogue) else load_catalogue(projections)
    form = _format(output, format)
    choice = Choice(_moment("since", since), _moment("until", until), _position(after), site)
    # What is wrong there is said before anything is read.
    nothing = Snapshot(location="", position=0, events_end=0, events=(), projections={}, deliveries=())
    choice.conditions(_view(table, nothing, catalogue))
    snapshot = _snapshot(store, lake, catalogue, catch_up=catch_up, on_progress=on_lake_progress)
    if isinstance(output, str | Path):
        with new_file(output) as out:
            return write(snapshot, catalogue, out, table, form, choice, memory_limit, on_progress)
    return write(snapshot, catalogue, output, table, form, choice, memory_limit, on_progress)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    position: int
    recorded_at: AwareDatetime
    event: Event


def exported_events(lines: Iterable[bytes | str]) -> Iterator[Event]:
    """The events of lines that an export of `events` as NDJSON has written. Raises InputError naming the line that is none."""
    for number, line in enumerate(lines, start=1):
        try:
            event = _Line.model_validate_json(line).event
        except ValidationError as error:
            [first, *_] = error.errors()
            where = ".".join(map(str, first["loc"]))
            raise InputError(
                f"line {number} is no exported event: {where + ': ' if where else ''}{first['msg']}"
            ) from error
        yield event


def write(
    snapshot: Snapshot,
    catalogue: Catalogue,
    out: IO[bytes],
    table: str,
    form: str,
    choice: Choice,
    memory_limit: str = MEMORY_LIMIT,
    on_progress: Callable[[ExportProgress], None] | None = None,
) -> Exported:
    """Write rows of one moment of a lake; `export` is this for a store. The file is left open."""
    counted = _Counted(out)
    begun = time.monotonic()
    with _session(snapshot, catalogue, memory_limit) as connection:
        rows = _Rows(connection, _view(table, snapshot, catalogue), catalogue, snapshot, choice)
        total = rows.count() if on_progress is not None else 0
        done = 0
        with _writer(form, counted, rows) as (columns, take), closing(ahead(rows.batches(columns))) as batches:
            try:
                for batch in batches:
                    take(batch)
                    done += batch.num_rows
                    if on_progress is not None:
                        on_progress(ExportProgress(done, total, time.monotonic() - begun))
            except BaseException:
                # The thread that makes the next ones is waited for.
                connection.interrupt()
                raise
    return Exported(table, form, done, counted.bytes, snapshot.position)


class _Rows:
    """The chosen rows of a table, in their order."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: View,
        catalogue: Catalogue,
        snapshot: Snapshot,
        choice: Choice,
    ) -> None:
        self.view = view
        self.position = snapshot.position
        self._connection = connection
        self._snapshot = snapshot
        self._after = choice.after
        self._conditions, self._values = choice.conditions(view)
        names = [each.name for each in view.columns]
        keys = {each.name: each.key for each in catalogue}
        order = {CHANGES: ("position", "fact")}.get(view.name) or keys.get(view.name) or names
        self._order = ", ".join(quoted(name) for name in order)

    def count(self) -> int:
        """How many there are."""
        try:
            [(count,)] = self._connection.execute(
                f"SELECT count(*) FROM {self._from([])}", self._values or None
            ).fetchall()
        except duckdb.Error as error:
            raise self._failed(error) from error
        return int(count)

    def batches(self, columns: str) -> Iterator[pa.RecordBatch]:
        """What SQL makes of them, a few thousand at a time. Raises InputError where DuckDB fails at it."""
        if self.view.name not in (EVENTS, FACTS):
            yield from self._read(f"SELECT {columns} FROM {self._from([])} ORDER BY {self._order}", {})
            return
        # The files of the log are read piece by piece: to put all of it in order at once would take a disk as large.
        for after, last in self._pieces():
            piece = ["position > $piece_after", "position <= $piece_last"]
            sql = f"SELECT {columns} FROM {self._from(piece)} ORDER BY position"
            yield from self._read(sql, {"piece_after": after, "piece_last": last})

    def schema(self) -> pa.Schema:
        """The types of the columns in Arrow."""
        columns = ", ".join(_typed(each) for each in self.view.columns)
        sql = f"SELECT {columns} FROM {quoted(self.view.name)} LIMIT 0"
        try:
            return self._connection.sql(sql).to_arrow_table().schema
        except duckdb.Error as error:
            raise self._failed(error) from error

    def _from(self, more: Sequence[str]) -> str:
        where = " AND ".join([*self._conditions, *more])
        return quoted(self.view.name) + (f" WHERE {where}" if where else "")

    def _read(self, sql: str, more: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        try:
            relation = self._connection.sql(sql, params=self._values | more or None)
            yield from relation.to_arrow_reader(LINES)
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> EventStoreError:
        if is_damage(error, self._snapshot.files):
            return LakeUnreadable(self._snapshot.location, error)
        return _failed(self.view.name, error)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Spans of positions that together hold all there is, cut where row groups of the files end."""
        until = self._snapshot.position
        begin = end = min(self._after, until)
        for low, high in self._row_groups():
            if high <= end:
                continue
            if low > end and end - begin >= PIECE_EVENTS // 2:
                yield from _cut(begin, end)
                begin = end
            end = min(high, until)
        yield from _cut(begin, until)

    def _row_groups(self) -> list[tuple[int, int]]:
        if not self._snapshot.events:
            return []
        with readable(self._snapshot.location):
            found = self._connection.execute(
                "SELECT CAST(stats_min_value AS BIGINT), CAST(stats_max_value AS BIGINT) FROM parquet_metadata($files) "
                "WHERE path_in_schema = 'position' AND stats_min_value IS NOT NULL AND stats_max_value IS NOT NULL ORDER BY ALL",
                {"files": list(self._snapshot.events)},
            ).fetchall()
        return [(int(low), int(high)) for low, high in found]


def _cut(after: int, last: int) -> Iterator[tuple[int, int]]:
    """The span in pieces of a size that fits into memory: one, where row groups follow one another."""
    if last - after < 2 * PIECE_EVENTS:
        if last > after:
            yield after, last
        return
    for start in range(after, last, PIECE_EVENTS):
        yield start, min(start + PIECE_EVENTS, last)


class _Counted:
    """An open file, and how much was written to it."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.bytes = 0
        self.closed = False

    def write(self, piece: Any) -> int:
        self._out.write(piece)
        size = memoryview(piece).nbytes
        self.bytes += size
        return size

    def flush(self) -> None:
        self._out.flush()


@contextmanager
def _writer(form: str, out: _Counted, rows: _Rows) -> Iterator[tuple[str, Callable[[pa.RecordBatch], None]]]:
    """What to select of each row, and what takes the batches of that."""
    columns = rows.view.columns
    if form == "parquet":
        with _parquet_writer(out, rows) as gather:
            yield ", ".join(_typed(each) for each in columns), gather
        return
    if form == "csv":
        out.write(csv_header(columns))
        line = csv_line(columns)
    else:
        line = event_line() if rows.view.name == EVENTS else json_line(columns)

    def take(batch: pa.RecordBatch) -> None:
        for piece in written_bytes(batch.column(0)):
            out.write(piece)

    yield f"{line} AS line", take


@contextmanager
def _parquet_writer(out: _Counted, rows: _Rows) -> Iterator[Callable[[pa.RecordBatch], None]]:
    fields = [
        pa.field(each.name, found.type, metadata={"comment": each.doc})
        for each, found in zip(rows.view.columns, rows.schema(), strict=True)
    ]
    about = {"table": rows.view.name, "comment": rows.view.about, "position": str(rows.position)}
    shape = pa.schema(fields, metadata=about)
    waiting: list[pa.RecordBatch] = []
    count = 0
    with pq.ParquetWriter(pa.PythonFile(out, mode="w"), shape, compression="zstd") as writer:

        def write_group() -> None:
            nonlocal count
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting).cast(shape), ROW_GROUP_ROWS)
            waiting.clear()
            count = 0

        def take(batch: pa.RecordBatch) -> None:
            nonlocal count
            waiting.append(batch)
            count += batch.num_rows
            if count >= ROW_GROUP_ROWS:
                write_group()

        yield take
        write_group()


def _typed(column: TableColumn) -> str:
    """SQL for a column as Parquet's readers know it."""
    name = quoted(column.name)
    return f"CAST({name} AS VARCHAR) AS {name}" if column.type == "JSON" else name


@contextmanager
def _session(snapshot: Snapshot, catalogue: Catalogue, memory_limit: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with the views of that moment. It runs this module's queries alone, and so may spill."""
    with tempfile.TemporaryDirectory(prefix="eventstore-export-") as spill:
        try:
            connection = duckdb.connect(
                ":memory:",
                config={
                    "memory_limit": memory_limit,
                    "temp_directory": spill,
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                },
            )
        except duckdb.Error as error:
            raise InputError(f"memory_limit={memory_limit!r} is not a size such as '2GB': {error}") from error
        with connection:
            with enough_memory(memory_limit), readable(snapshot.location):
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute("SET enable_progress_bar = false")
                connection.execute("SET parquet_metadata_cache = true")
                for view in views(snapshot, catalogue):
                    connection.execute(f"CREATE VIEW {quoted(view.name)} AS {view.sql}")
            yield connection


def _snapshot(
    store: str | Path | Engine | None,
    lake: str | Path | None,
    catalogue: Catalogue,
    *,
    catch_up: bool,
    on_progress: Callable[[LakeProgress], None] | None,
) -> Snapshot:
    if store is None:
        if lake is None:
            raise InputError("export from a store, or name a lake")
        return Lake(lake, catalogue=catalogue).snapshot()
    engine = store if isinstance(store, Engine) else make_engine(store)
    try:
        schema.require_ready(engine)
        found = Lake(default_lake(engine) if lake is None else lake, catalogue=catalogue)
        if catch_up:
            found.catch_up(engine, on_progress=on_progress)
        return found.snapshot()
    finally:
        if engine is not store:
            engine.dispose()


def _view(table: str, snapshot: Snapshot, catalogue: Catalogue) -> View:
    known = {each.name: each for each in views(snapshot, catalogue)}
    if table not in known:
        raise NotFound(f"there is no table {table!r}{did_you_mean(table, known)}; there are {', '.join(known)}")
    return known[table]


def _format(output: str | Path | IO[bytes], given: str | None) -> str:
    if given is None:
        given = SUFFIXES.get(Path(output).suffix.lower()) if isinstance(output, str | Path) else None
        if given is None:
            where = (
                f"the ending of {output} tells none" if isinstance(output, str | Path) else "an open file tells none"
            )
            raise InputError(f"name a format ({', '.join(FORMATS)}): {where}")
    if given not in FORMATS:
        raise InputError(f"a file is written as {', '.join(FORMATS)}, not as {given!r}")
    return given


def _moment(name: str, given: object) -> datetime | None:
    if given == "":
        raise InputError(f"{name} is empty; leave it out for no restriction")
    try:
        found = replace(_MOMENT, name=name).read(given)
    except ValueError as error:
        raise InputError(str(error)) from error
    assert found is None or isinstance(found, datetime)
    return found


def _position(given: int) -> int:
    if given < 0:
        raise InputError(f"after={given} is no position: positions begin with 1, and 0 is before the first")
    return given


def _failed(table: str, error: Exception) -> InputError:
    lines = str(error).splitlines() or [type(error).__name__]
    if isinstance(error, duckdb.OutOfMemoryException) or lines[0].startswith("Out of Memory"):
        return InputError(
            f"{table} does not fit: give the export more memory (memory_limit, --memory-limit): {lines[0]}"
        )
    return InputError(f"{table} cannot be read from the lake: {lines[0]}")
