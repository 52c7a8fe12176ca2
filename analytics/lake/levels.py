"""A projection in the lake: a Delta table in levels, so that a change of a few rows writes few rows.

Level 0 holds the bulk, each higher one fewer and newer rows. A row of a higher level stands for those of the same key below it;
one that is `_gone` says that there is none any more. What is new is put on the highest level that has room for it together with
all above it, which it takes in; so each row is written again only when its level is full, and a reader joins at most four.
`_key` is a hash of the key's columns: by it rows are found, and hidden, by comparing one number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa

from analytics.columns import CLOSER_TYPES, KEYS, added_keys, key_sql
from analytics.lake.damage import readable
from analytics.lake.delta import LakeTable, stream
from eventstore.log.arrow import rows_to_batch
from eventstore.projections.catalogue import Projection, ProjectionColumn
from eventstore.projections.duck import ModelSession, decode_column, encode_column, literal, quoted, stored_schema

LEVEL_ROWS = (None, 2_000_000, 200_000, 20_000)
"""Rows that each level holds at most; the last is written by every catching up, in some hundredths of a second."""
FETCHED_ROWS = 50_000
LEVEL = "level"


class Levels:
    """The table of one model, read and written through a session of the models."""

    def __init__(self, table: LakeTable, model: Projection, session: ModelSession) -> None:
        self.table = table
        self.model = model
        self._session = session
        self._merged = quoted(f"{model.name}__merged")

    def find(self, key: Sequence[str], keys: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
        """The rows with these values of the key columns, as `tables.current_rows` gives them."""
        files = self._files()
        if not files or not keys:
            return []
        columns = [next(each for each in self.model.columns if each.name == name) for name in key]
        execute, connection = self._session.execute, self._session.connection
        connection.register("__wanted", pa.Table.from_batches([rows_to_batch(keys, stored_schema(columns))]))
        try:
            types = dict(
                connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {self._merged})").fetchall()
            )
            decoded = ", ".join(f"{decode_column(each, types[each.name])} AS {quoted(each.name)}" for each in columns)
            execute(f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT {decoded} FROM __wanted")
        finally:
            connection.unregister("__wanted")
        using = ", ".join(quoted(name) for name in key)
        among = ""
        if tuple(key) == self.model.key:
            # Only the hashes of all rows are read, and the rest of those that have one of these.
            execute(f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT *, {key_hash(self.model)} AS _key FROM wanted")
            among = "WHERE _key IN (SELECT _key FROM wanted)"
        shown = ", ".join(f"{_stored(self.model, each)} AS {quoted(each.name)}" for each in self.model.columns)
        rows = f"SELECT * FROM ({visible(files)}) {among}"
        with readable(self.table.uri.rpartition("/")[0]):
            return connection.execute(f"SELECT {shown} FROM ({rows}) SEMI JOIN wanted USING ({using})").fetchall()

    def put(self, position: int, numbers: Mapping[str, int]) -> None:
        """Write what the session has merged: the rows of `<name>__merged`, and that those of `<name>__before` which are no more
        among them are gone."""
        execute = self._session.execute
        merged, before = self._merged, quoted(f"{self.model.name}__before")
        key = ", ".join(quoted(name) for name in self.model.key)
        execute(f"CREATE OR REPLACE TEMP TABLE __new AS {self._typed(merged)}")
        execute(
            f"""INSERT INTO __new BY NAME
            SELECT {key}, {key_hash(self.model)} AS _key, true AS _gone FROM {before} ANTI JOIN {merged} USING ({key})"""
        )
        new = self._session.count("__new")
        if not new:
            self.table.mark(position, numbers)
            return
        files = self._files()
        if files:
            # A row of another key with the same hash would be hidden too: it comes along.
            execute(
                f"""INSERT INTO __new BY NAME
                SELECT * FROM ({visible(files)}) SEMI JOIN __new USING (_key) ANTI JOIN __new USING ({key})"""
            )
        level = self._room_for(new)
        above = tuple(each for each in files if each[0] >= level)
        rest = (
            f"UNION ALL BY NAME SELECT * FROM ({visible(above, gone=True)}) ANTI JOIN __new USING (_key)"
            if above
            else ""
        )
        keep = "WHERE NOT _gone" if level == 0 else ""
        rows = f"SELECT *, {level} AS {LEVEL} FROM (SELECT * FROM __new {rest}) {keep} ORDER BY {key}"
        self._replace(self._batches(rows), position, numbers, above=level)
        execute("DROP TABLE __new")

    def put_all(self, batches: Iterator[None], position: int, numbers: Mapping[str, int]) -> None:
        """Write the whole table anew, of what `<name>__merged` holds in turn."""
        key = ", ".join(quoted(name) for name in self.model.key)

        def rows() -> Iterator[pa.RecordBatch]:
            for _ in batches:
                yield from self._batches(f"SELECT *, 0 AS {LEVEL} FROM ({self._typed(self._merged)}) ORDER BY {key}")

        self._replace(rows(), position, numbers)

    def flatten(self) -> None:
        """Bring everything to level 0, which readers need no join for."""
        files = self._files()
        if all(level == 0 for level, _ in files):
            return
        key = ", ".join(quoted(name) for name in self.model.key)
        rows = f"SELECT *, 0 AS {LEVEL} FROM ({visible(files)}) ORDER BY {key}"
        self._replace(self._batches(rows), self.table.position, {}, above=0)

    @contextmanager
    def as_source(self) -> Iterator[None]:
        """Meanwhile the session's view of the model shows its rows in the lake."""
        files = self._files()
        execute, name = self._session.execute, quoted(self.model.name)
        shown = ", ".join(quoted(each.name) for each in self.model.shown)
        rows = f"SELECT {shown} FROM ({visible(files)})" if files else f"FROM {self._merged}"
        execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {rows}")
        try:
            yield
        finally:
            execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM {self._merged}")

    def _files(self) -> LevelFiles:
        return level_files(self.table)

    def _room_for(self, new: int) -> int:
        """The highest level that has room for so many new rows and all that stand on it and above."""
        held: dict[int, int] = {}
        for each in self.table.contents(f"partition.{LEVEL}", "num_records"):
            level = int(each[f"partition.{LEVEL}"])
            held[level] = held.get(level, 0) + each["num_records"]
        for level in range(len(LEVEL_ROWS) - 1, 0, -1):
            most = LEVEL_ROWS[level]
            assert most is not None
            if new + sum(count for at, count in held.items() if at >= level) <= most:
                return level
        return 0

    def _typed(self, relation: str) -> str:
        """The query that gives a relation's merged rows as the lake keeps them."""
        shown = [f"{_kept(self.model, each)} AS {quoted(each.name)}" for each in self.model.columns]
        shown += [f"{key_sql(KEYS[each.name][0])} AS {quoted(each.name)}" for each in added_keys(self.model)]
        return f"SELECT {', '.join(shown)}, {key_hash(self.model)} AS _key, false AS _gone FROM {relation}"

    def _batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        yield from self._session.connection.sql(sql).to_arrow_reader(FETCHED_ROWS)

    def _replace(
        self, batches: Iterator[pa.RecordBatch], position: int, numbers: Mapping[str, int], *, above: int | None = None
    ) -> None:
        schema = self._schema()
        self.table.replace(
            stream(schema, batches),
            position,
            predicate=None if above is None else f"{LEVEL} >= {above}",
            partition_by=LEVEL,
            numbers=numbers,
            new_schema=True,
        )

    def _schema(self) -> pa.Schema:
        empty = f"SELECT *, 0 AS {LEVEL} FROM ({self._typed(self._merged)}) WHERE false"
        found: pa.Schema = self._session.connection.sql(empty).to_arrow_table().schema
        return found


LevelFiles = tuple[tuple[int, tuple[str, ...]], ...]
"""The files of each level of a table that has any, level 0 first."""


def level_files(table: LakeTable, *, bring: bool = True) -> LevelFiles:
    """The files of the version that is looked at; see `LakeTable.files`."""
    found = ((level, table.files(bring=bring, level=str(level))) for level in range(len(LEVEL_ROWS)))
    return tuple((level, files) for level, files in found if files)


def visible(files: LevelFiles, *, gone: bool = False) -> str:
    """The query that gives the rows that stand, each key once; `gone`: also those that say that there is none."""
    parts = []
    newer: list[str] = []
    for level, several in reversed(files):
        rows = f"SELECT * FROM {parquet(several)}"
        if newer:
            rows += f" ANTI JOIN (SELECT _key FROM {parquet(newer)}) USING (_key)"
        if level > 0 and not gone:
            rows += " WHERE NOT _gone"
        parts.append(rows)
        newer += several
    return " UNION ALL BY NAME ".join(parts)


def parquet(files: Sequence[str]) -> str:
    """SQL for the rows of these files."""
    return "read_parquet([" + ", ".join(literal(file) for file in files) + "], hive_partitioning = false)"


def key_hash(model: Projection) -> str:
    """SQL for the hash of a row's key."""
    return key_sql(model.key)


def _kept(model: Projection, column: ProjectionColumn) -> str:
    """SQL for a merged column as the lake keeps it: typed, and JSON as text."""
    return encode_column(column) if _is_text(model, column) else quoted(column.name)


def _stored(model: Projection, column: ProjectionColumn) -> str:
    """SQL for a column of the lake in the store's encoding."""
    return quoted(column.name) if _is_text(model, column) else encode_column(column)


def _is_text(model: Projection, column: ProjectionColumn) -> bool:
    return column.type == "json" and (model.name, column.name) not in CLOSER_TYPES
