"""The DuckDB side of the models: one session that turns batches into facts, partial rows and merged rows.

Values cross from the database to DuckDB and back in the store's own encodings (microseconds, decimal text, JSON text), so
that nothing is rounded or re-zoned on the way; `decode_column` and `encode_column` are the two directions, a column at a time.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

import duckdb
import pyarrow as pa

from eventstore.errors import InputError, ProjectionError
from eventstore.log.arrow import rows_to_batch, without_positions
from eventstore.projections.catalogue import FACTS, Projection, ProjectionColumn, facts_sql

MEMORY_LIMIT = "512MB"
"""DuckDB's own memory; past it, it spills to its temporary directory. A rebuild of any size stays under 1.5 GB with it."""

PART_OF_MEMORY = 0.3
"""Of the memory limit, what the partial rows of one part may take, as JSON text, when they are merged."""
SAMPLED_ROWS = 2_000
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B", re.IGNORECASE)

_STORED: dict[str, pa.DataType] = {
    "text": pa.string(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "timestamp": pa.int64(),
    "decimal": pa.string(),
    "json": pa.string(),
}
_MADE = {
    "text": "VARCHAR",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "decimal": "DECIMAL(18,6)",
}
"""The DuckDB types that a model must make its columns of; JSON is made of any."""
_EMPTY_BATCH = """
SELECT 0::BIGINT AS position, 0::BIGINT AS event_time, 0::BIGINT AS recorded_at, '{}' AS payload WHERE false"""


def stored_schema(columns: Iterable[ProjectionColumn]) -> pa.Schema:
    """The Arrow schema of rows in the store's encodings: times in microseconds, decimals and JSON as text."""
    return pa.schema([pa.field(column.name, _STORED[column.type]) for column in columns])


def memory_bytes(text: str) -> float:
    """An amount of memory as DuckDB takes it. Raises InputError."""
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise InputError(f"not an amount of memory: {text!r}; write it as 512MB or 2GB")
    base = 1024 if found[3] else 1000
    return float(found[1]) * float(base) ** ("KMGT".index(found[2].upper()) + 1)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


class ModelSession:
    """A DuckDB connection prepared for the given models. Not thread-safe; close it."""

    def __init__(
        self,
        models: Iterable[Projection],
        *,
        memory_limit: str = MEMORY_LIMIT,
        temp_directory: str | None = None,
        threads: int | None = None,
        relations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`relations`: what models may read beside `facts` and `batch`, each with a query that gives none of its rows; whoever
        loads the facts sees to it."""
        self.models = tuple(models)
        self._memory = memory_bytes(memory_limit)
        self.connection = duckdb.connect(":memory:")
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute(f"SET memory_limit = '{memory_limit}'")
        self.connection.execute("SET preserve_insertion_order = false")
        self.connection.execute("SET enable_progress_bar = false")
        if threads is not None:
            self.connection.execute(f"SET threads = {threads}")
        # Made only where something does not fit into memory. DuckDB's own choice is the working directory; and two sessions
        # must not share one, for they would take each other's files for their own.
        spill = temp_directory or str(Path(tempfile.gettempdir()) / f"eventstore-spill-{token_hex(8)}")
        self.connection.execute("SET temp_directory = ?", [spill])
        self._statements: dict[str, duckdb.Statement] = {}
        self._types: dict[str, dict[str, str]] = {}
        shapes = _shapes(self.models, relations)
        self._partial_types = {name: shape.partial for name, shape in shapes.items() if shape.partial}
        for name, shape in shapes.items():
            self._make_empty_tables(name, shape)

    def close(self) -> None:
        self.connection.close()

    def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Run a statement, which is parsed once: a small step would spend a sixth of its time on that."""
        found = self._statements.get(sql)
        if found is None:
            [found] = duckdb.extract_statements(sql)
            self._statements[sql] = found
        return self.connection.execute(found)

    def _make_empty_tables(self, name: str, shape: _Shape) -> None:
        """`facts`, or `<name>__partial` and `<name>__merged` of a model."""
        tables = (
            {f"{name}__partial": shape.partial, f"{name}__merged": shape.merged}
            if shape.partial
            else {name: shape.merged}
        )
        for table, columns in tables.items():
            declared = ", ".join(f"{quoted(column)} {type_}" for column, type_ in columns.items())
            self.connection.execute(f"CREATE TEMP TABLE {quoted(table)} ({declared})")
        if shape.partial:
            self.connection.execute(f"CREATE TEMP VIEW {quoted(name)} AS FROM {quoted(f'{name}__merged')}")

    def load_facts(self, batch: pa.Table) -> int:
        """Replace `batch` and `facts` by a table of log rows (columns of `log.arrow`); returns how many there are."""
        self.connection.register("batch", batch)
        self.execute(f"CREATE OR REPLACE TEMP TABLE facts AS {facts_sql()}")
        return int(batch.num_rows)

    def drop_facts(self) -> None:
        """Let go of the batch, and its memory, once it is lifted."""
        self.connection.unregister("batch")
        self.execute("DELETE FROM facts")

    def lift(self, model: Projection) -> None:
        """Add the model's partial rows of the present facts (or of its source's merged rows) to `<name>__partial`."""
        self.add_partial(model, f"(\n{model.lift}\n)")

    def lift_all(self, pieces: Iterable[pa.Table], excluded: Mapping[str, frozenset[int]]) -> None:
        """Lift the log rows, a piece at a time, for every model from facts, each without the positions excluded for it."""
        roots = [model for model in self.models if model.source == FACTS]
        for piece in pieces:
            loaded: frozenset[int] | None = None
            for model in roots:
                without = excluded.get(model.name, frozenset())
                if without != loaded:
                    self.load_facts(without_positions(piece, without))
                    loaded = without
                self.lift(model)
            self.drop_facts()

    def merge(self, model: Projection) -> None:
        """Replace `<name>__merged` by the merge of `<name>__partial`, and empty the latter."""
        partial = quoted(f"{model.name}__partial")
        self._merge(model, f"FROM {partial}")
        self.execute(f"TRUNCATE {partial}")

    def merge_in_parts(self, model: Projection) -> Iterator[None]:
        """The same, a range of keys at a time and in their order: `<name>__merged` holds each in turn, and at last is empty.

        For what may not fit into memory. DuckDB puts on disk what an aggregation or a sort cannot hold, but not the texts and
        lists in the states of an aggregation, and with wide rows it needs much of its memory all the same.
        """
        partial, merged = quoted(f"{model.name}__partial"), quoted(f"{model.name}__merged")
        key = ", ".join(quoted(name) for name in model.key)
        count = self.count(partial)
        sample = f"SELECT * FROM {partial} USING SAMPLE reservoir({SAMPLED_ROWS} ROWS)"
        size = self._value(f"SELECT avg(strlen(CAST(to_json(p) AS VARCHAR))) FROM ({sample}) p") if count else 0.0
        parts = 1 + int(size * count / (PART_OF_MEMORY * self._memory))
        # The first key of each part but the first.
        self.execute(
            f"""CREATE OR REPLACE TEMP TABLE bounds AS
            SELECT row_number() OVER (ORDER BY first) AS part, first
            FROM (
                SELECT DISTINCT first
                FROM (SELECT row({key}) AS first, ntile({parts}) OVER (ORDER BY {key}) AS tile FROM ({sample}))
                QUALIFY row_number() OVER (PARTITION BY tile ORDER BY first) = 1 AND tile > 1
            )"""
        )
        last = self.count("bounds")
        for part in range(last + 1):
            wanted = []
            if part > 0:
                wanted.append(f"row({key}) >= (SELECT first FROM bounds WHERE part = {part})")
            if part < last:
                wanted.append(f"row({key}) < (SELECT first FROM bounds WHERE part = {part + 1})")
            self._merge(model, f"FROM {partial}" + (f" WHERE {' AND '.join(wanted)}" if wanted else ""))
            yield
        self.execute(f"TRUNCATE {partial}")
        self.execute(f"TRUNCATE {merged}")

    def _merge(self, model: Projection, partial: str) -> None:
        self.execute(f"CREATE OR REPLACE TEMP VIEW partial AS {partial}")
        self.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(f'{model.name}__merged')} AS {model.merge}")

    def reset(self) -> None:
        """Let go of what a query that failed half-way has left behind."""
        for model in self.models:
            self.execute(f"TRUNCATE {quoted(f'{model.name}__partial')}")
            merged = quoted(f"{model.name}__merged")
            self.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(model.name)} AS FROM {merged}")

    def clear(self, model: Projection) -> None:
        """Leave `<name>__merged` and `<name>__before` empty: no fact touches the model."""
        merged, before = quoted(f"{model.name}__merged"), quoted(f"{model.name}__before")
        self.execute(f"TRUNCATE {merged}")
        self.execute(f"CREATE OR REPLACE TEMP TABLE {before} AS FROM {merged}")

    def keys(self, relation: str, key: Sequence[ProjectionColumn]) -> list[tuple[Any, ...]]:
        """The distinct values of the key's columns in a relation of this session, in the store's encodings."""
        names = ", ".join(encode_column(column) for column in key)
        return self.execute(f"SELECT DISTINCT {names} FROM {relation}").fetchall()

    def put(self, name: str, columns: Sequence[ProjectionColumn], rows: Sequence[Sequence[Any]], like: str) -> None:
        """Make the temporary table `name` of rows in the store's encodings, typed as the relation `like`."""
        types = self._types_of(like)
        table = rows_to_batch(rows, stored_schema(columns))
        wanted = [column for column in columns if column.name in types]
        select = ", ".join(f"{decode_column(column, types[column.name])} AS {quoted(column.name)}" for column in wanted)
        self.connection.register("__incoming", pa.Table.from_batches([table]))
        try:
            self.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(name)} AS SELECT {select} FROM __incoming")
        finally:
            self.connection.unregister("__incoming")

    def _types_of(self, relation: str) -> dict[str, str]:
        """The types of a relation's columns, which never change."""
        if relation not in self._types:
            found = self.connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {relation})").fetchall()
            self._types[relation] = dict(found)
        return self._types[relation]

    def add_partial(self, model: Projection, relation: str) -> None:
        """Add rows to the model's partial rows: of its lift, or merged ones, which are partial rows themselves."""
        columns = ", ".join(quoted(name) for name in self._partial_types[model.name])
        self.execute(f"INSERT INTO {quoted(f'{model.name}__partial')} ({columns}) SELECT {columns} FROM {relation}")

    def stored_query(self, model: Projection, *, ordered: bool = False) -> str:
        """The query that gives `<name>__merged` in the store's encodings, columns in the order of the header."""
        select = ", ".join(f"{encode_column(column)} AS {quoted(column.name)}" for column in model.columns)
        order = " ORDER BY " + ", ".join(quoted(name) for name in model.key) if ordered else ""
        return f"SELECT {select} FROM {quoted(f'{model.name}__merged')}{order}"

    def stored_rows(self, model: Projection) -> list[tuple[Any, ...]]:
        """`<name>__merged` as rows in the store's encodings."""
        return self.execute(self.stored_query(model)).fetchall()

    def count(self, relation: str) -> int:
        return int(self._value(f"SELECT count(*) FROM {relation}"))

    def _value(self, sql: str) -> Any:
        # fetchall, for a result that is not read to its end keeps the connection busy.
        return self.execute(sql).fetchall()[0][0]


@dataclass(frozen=True, slots=True)
class _Shape:
    """The columns, with their DuckDB types, of a model's partial and merged rows. The facts have the latter alone."""

    partial: dict[str, str]
    merged: dict[str, str]


@lru_cache(maxsize=64)
def _shapes(models: tuple[Projection, ...], relations: tuple[tuple[str, str], ...]) -> dict[str, _Shape]:
    """The shapes of the facts and of what models make of them, found by running their queries over nothing.

    Raises ProjectionError for a model that does not run, or makes other columns than its header declares.
    """
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        execute = connection.execute

        def columns(table: str) -> dict[str, str]:
            return dict(execute(f"SELECT column_name, column_type FROM (DESCRIBE {quoted(table)})").fetchall())

        for name, empty in (("batch", _EMPTY_BATCH), *relations):
            execute(f"CREATE TEMP TABLE {name} AS {empty}")
        execute(f"CREATE TEMP TABLE facts AS {facts_sql()}")
        shapes = {"facts": _Shape({}, columns("facts"))}
        for model in models:
            try:
                execute(f"CREATE OR REPLACE TEMP TABLE partial AS {model.lift}")
                execute(f"CREATE TEMP TABLE {quoted(model.name)} AS {model.merge}")
            except duckdb.Error as error:
                raise ProjectionError(f"{_named(model)} does not run: {error}") from error
            found = shapes[model.name] = _Shape(columns("partial"), columns(model.name))
            _check_made(model, set(found.partial), found.merged)
    return shapes


def _named(model: Projection) -> str:
    return f"{model.where}: the model {model.name}" if model.where else f"the model {model.name}"


def _check_made(model: Projection, lifted: set[str], made: dict[str, str]) -> None:
    """Raise ProjectionError unless the queries make the columns that the header declares, of the types it declares."""
    declared = {column.name: column.type for column in model.columns}
    if made.keys() != declared.keys():
        raise ProjectionError(f"{_named(model)} makes the columns {list(made)}, its header declares others")
    if not set(model.key) <= lifted <= made.keys():
        raise ProjectionError(
            f"{_named(model)} lifts the columns {sorted(lifted)}: these must be among those that it merges them to, with the "
            "key, for merged rows are merged again"
        )
    for name, type_ in made.items():
        if type_ != _MADE.get(declared[name], type_):
            raise ProjectionError(
                f"{_named(model)} makes {name} as {type_}, its header declares it as {declared[name]}: "
                f"use CAST(… AS {_MADE[declared[name]]}) in [merge]"
            )


def decode_column(column: ProjectionColumn, duck_type: str) -> str:
    """SQL that reads a stored column into its DuckDB type."""
    name = quoted(column.name)
    if column.type == "timestamp":
        return f"make_timestamptz({name})"
    if column.type == "json":
        return f"CAST(CAST({name} AS JSON) AS {duck_type})"
    if column.type == "decimal":
        return f"CAST({name} AS {duck_type})"
    return name


def encode_column(column: ProjectionColumn) -> str:
    """SQL that writes a DuckDB column in the store's encoding."""
    name = quoted(column.name)
    if column.type == "timestamp":
        return f"epoch_us({name})"
    if column.type == "json":
        return f"CASE WHEN {name} IS NOT NULL THEN CAST(to_json({name}) AS VARCHAR) END"
    if column.type == "decimal":
        return f"rtrim(rtrim(CAST({name} AS VARCHAR), '0'), '.')"
    return name
