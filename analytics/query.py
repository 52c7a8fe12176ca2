"""Free SQL: a question of the asker's own, and its answer as it comes, under a limit of time.

    with analytics.connect("eventstore.db") as connection, analytics.ask(connection, "FROM coupons", time_limit=60) as answer:
        for row in answer.rows():
            ...

Answers are not gathered: a million rows are written as they come. What DuckDB will not or cannot do is an InputError of one
line, with the names that may have been meant.
"""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from threading import Timer
from typing import IO, Any, TypeVar

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from analytics.connect import AnalyticsConnection
from analytics.files import new_file
from analytics.lake import LakeUnreadable
from analytics.lake.duck import interruptibly
from analytics.results import csv_text, plain
from analytics.views import macros
from eventstore.errors import EventStoreError, InputError

FETCHED_ROWS = 10_000
"""Rows taken from DuckDB at a time."""
WRITTEN_ROWS = 122_880
"""Rows of a row group of a Parquet file, as DuckDB writes them."""
_INT64 = range(-(2**63), 2**64)
_EXPLAINED = ("explain_key", "explain_value")
_MISSING_TABLE = re.compile(r"Table(?: Function)? with name \"?(.+?)\"? does not exist")
_POINTER = re.compile(r"^LINE (\d+):", re.MULTILINE)
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """A column of an answer: its name, and DuckDB's name for its type."""

    name: str
    type: str


@dataclass
class _Allowance:
    """The seconds that DuckDB may still work for an answer; what a reader takes to read it is not counted."""

    connection: AnalyticsConnection
    limit: float | None
    left: float = field(init=False)
    up: bool = False

    def __post_init__(self) -> None:
        self.left = self.limit or 0.0

    def _end(self) -> None:
        self.up = True
        self.connection.interrupt()

    def spend(self, work: Callable[[], _Made]) -> _Made:
        """Do a piece of DuckDB's work. Raises InputError for whatever goes wrong at it."""
        begun = time.monotonic()
        timer = None
        if self.limit is not None:
            timer = Timer(max(self.left, 0.0), self._end)
            timer.daemon = True
            timer.start()
        try:
            return interruptibly(work, self.connection.interrupt)
        except duckdb.Error as error:
            raise self._refusal(error) from error
        except (OSError, pa.ArrowException) as error:
            # What an answer in Arrow fails with is DuckDB's own message, in an error that is not DuckDB's.
            raise self._refusal(error) from error
        finally:
            if timer is not None:
                timer.cancel()
                self.left -= time.monotonic() - begun

    def _refusal(self, error: Exception) -> EventStoreError:
        if self.up:
            return InputError(
                f"the query took longer than {self.limit:g} seconds and was ended; ask for less, or allow more time "
                "(time_limit, --time-limit)"
            )
        if isinstance(error, duckdb.OutOfMemoryException) or str(error).startswith("Out of Memory"):
            return InputError(
                "the query needs more memory than it may take; ask for less, or allow more (memory_limit, --memory-limit)"
            )
        if self.connection.is_damage(error):
            return LakeUnreadable(self.connection.location, error)
        return InputError(said(error, (*self.connection.tables, *(each.name for each in macros()))))


class Answer:
    """What a query answers: its columns, and its rows as they are asked for. It can be read once."""

    def __init__(self, connection: AnalyticsConnection, sql: str, parameters: Mapping[str, str], limit: float | None):
        self._connection = connection
        self._sql = sql
        self._parameters = dict(parameters) or None
        self._allowance = _Allowance(connection, limit)
        self._result: duckdb.DuckDBPyConnection | None = None
        self.position = connection.position
        """The position of the log up to which the answer looked."""

    @property
    def columns(self) -> tuple[AnswerColumn, ...]:
        """The columns, in their order. The query is run for it."""
        return tuple(AnswerColumn(str(name), str(type_)) for name, type_, *_ in self._asked().description)

    @property
    def explains(self) -> bool:
        """Whether it is a query's plan, a drawing of many lines."""
        return tuple(each.name for each in self.columns) == _EXPLAINED

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows: Python's own values, times aware and in UTC. Raises InputError where the query fails on the way."""
        result = self._asked()
        while found := self._allowance.spend(lambda: result.fetchmany(FETCHED_ROWS)):
            yield from (tuple(_own(value) for value in row) for row in found)

    def write_json(self, out: IO[bytes]) -> int:
        """A list of one object a row; times and amounts as `ReportResult.to_json` has them. Returns the number of rows."""
        names = self._distinct_names()
        count = 0
        out.write(b"[")
        for row in self.rows():
            out.write(b",\n" if count else b"\n")
            out.write(_dumps(dict(zip(names, row, strict=True))))
            count += 1
        out.write(b"\n]\n" if count else b"]\n")
        return count

    def write_csv(self, out: IO[bytes]) -> int:
        """CSV as `ReportResult.to_csv` has it, with its guard against formulas; lists and maps are JSON. Returns as above."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([csv_text(each.name) for each in self.columns])
        count = 0
        for row in self.rows():
            writer.writerow([csv_text(flat(value)) for value in row])
            count += 1
            if count % FETCHED_ROWS == 0:
                out.write(text.getvalue().encode())
                text.seek(0)
                text.truncate()
        out.write(text.getvalue().encode())
        return count

    def write_parquet(self, path: str | Path) -> int:
        """A Parquet file with DuckDB's types, which appears under its name only once it is whole. Returns as above."""
        spend = self._allowance.spend
        relation = spend(lambda: self._connection.sql(self._sql, self._parameters))
        _require_distinct([str(name) for name in relation.columns])
        reader = spend(lambda: relation.to_arrow_reader(WRITTEN_ROWS))
        count = 0
        with new_file(path) as out:
            try:
                writer = pq.ParquetWriter(out, reader.schema, compression="zstd")
            except pa.ArrowException as error:
                raise InputError(f"Parquet has no place for a column: {_first_line(error)}; CAST it") from error
            with writer:
                while (batch := spend(lambda: next(reader, None))) is not None:
                    writer.write_batch(batch)
                    count += batch.num_rows
        return count

    def _asked(self) -> duckdb.DuckDBPyConnection:
        if self._result is None:
            self._result = self._allowance.spend(lambda: self._connection.execute(self._sql, self._parameters))
        return self._result

    def _distinct_names(self) -> list[str]:
        names = [each.name for each in self.columns]
        _require_distinct(names)
        return names


@contextmanager
def ask(
    connection: AnalyticsConnection,
    sql: str,
    parameters: Mapping[str, str] | None = None,
    *,
    time_limit: float | None = None,
) -> Iterator[Answer]:
    """Ask a question of an open connection. `parameters`: texts for `$name`, bound and never pasted. `time_limit`: seconds of
    DuckDB's work for the whole answer, where the connection's own limit is for its first rows.

    Reading raises InputError for what is no query, cannot be answered, takes too long or too much memory.
    """
    try:
        yield Answer(connection, sql, parameters or {}, time_limit)
    except BaseException:
        connection.interrupt()
        raise


def said(error: Exception, names: tuple[str, ...]) -> str:
    """DuckDB's error as one line: what is wrong, in which line of the query, and of `names` what may have been meant."""
    text = str(error)
    at = _POINTER.search(text)
    line = f" (line {at[1]})" if at and at[1] != "1" else ""
    missing = _MISSING_TABLE.search(text)
    if missing is not None:
        # DuckDB's own guess is among all that its catalogue holds.
        near = get_close_matches(missing[1].lower(), names, n=2, cutoff=0.6)
        meant = f" (did you mean {' or '.join(near)}?)" if near else ""
        there = f"there are {', '.join(names)}: `eventstore sql --tables` tells of them"
        return f"there is no table {missing[1]!r}{meant}{line}; {there}"
    kept = [each.strip() for each in text[: at.start() if at else None].splitlines() if each.strip()]
    return f"the query is refused: {' '.join(kept)}{line}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _require_distinct(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two columns are called {twice!r}; give one another name: {twice} AS …")


def _own(value: Any) -> Any:
    # DuckDB's zone is one of pytz's objects: equal in meaning, foreign to every comparison with `is UTC`.
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def flat(value: Any) -> Any:
    """A value as a cell of CSV takes it."""
    match value:
        case list() | dict() | tuple():
            return _dumps(value).decode()
        case bytes():
            return value.hex()
        case datetime() if value.tzinfo is None:
            return value.isoformat()
        case _:
            return value


def _dumps(value: Any) -> bytes:
    return orjson.dumps(_jsonable(value), option=orjson.OPT_UTC_Z)


def _jsonable(value: Any) -> Any:
    match value:
        case None | bool() | str() | float() | date():
            return _own(value)
        case int():
            return value if value in _INT64 else orjson.Fragment(str(value))
        case Decimal():
            return orjson.Fragment(plain(value))
        case dict():
            return {str(_jsonable_key(key)): _jsonable(each) for key, each in value.items()}
        case list() | tuple():
            return [_jsonable(each) for each in value]
        case bytes():
            return value.hex()
        case timedelta():
            return str(value)
        case _:
            return str(value)


def _jsonable_key(key: Any) -> Any:
    return plain(key) if isinstance(key, Decimal) else csv_text(key) if isinstance(key, date | bool) else key
