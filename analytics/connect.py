"""A DuckDB over a copy of the store, from which nothing but that copy can be reached.

`connect` opens a DuckDB in memory, takes away its access to files, networks and extensions, and locks it so. Its tables are
read from the store when a query first names them, once a connection, through the store's own engine:

| table | what |
|---|---|
| `coupons`, `redemptions`, `coupon_usage`, `loyalty_coupons` | the projections: their documented columns, typed |
| `facts` | what every event of the log says, without the snapshot |
| `events` | the same rows under the log's own name |
| `deliveries` | how many deliveries became no event of the log: duplicates, conflicts, quarantined and refused ones |

`facts` says who caused an event (`actor_id`) and whose site it was (`account_id`): personal data, which a copy, an export or
a notebook then holds too. The snapshot and a reward's member are left out of it.

Times are TIMESTAMPTZ in UTC, amounts DECIMAL(18,6), `by_app` is a MAP and `later_event_ids` a list. Every table and column
says what it is, in DuckDB's catalogue: `load()`, then `SELECT column_name, comment FROM duckdb_columns() WHERE NOT internal`.

Tables that one query is the first to name are read in one transaction, so they show one moment of the log (`position`);
what a later query names shows the moment that it was read at. To have everything at one moment, `load()` it first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, Engine, FromClause, column, select, table

from eventstore.errors import InputError, NotFound
from eventstore.log import arrow, schema
from eventstore.log.engine import is_sqlite, make_engine
from eventstore.log.tables import delivery_counts
from eventstore.projections import tables
from eventstore.projections.catalogue import FACTS, Catalogue, Projection, ProjectionColumn, facts_sql, load_catalogue
from eventstore.projections.duck import decode_column, quoted, stored_schema

Parameters = Mapping[str, object] | Sequence[object] | None
"""Values for `$name` or `?` in SQL."""
_Result = TypeVar("_Result")

MEMORY_LIMIT = "1GB"
"""What a connection may hold, its tables and its work: enough for some ten million redemptions, which compress well."""
PIECE_ROWS = 50_000
"""Rows brought over at a time: about 30 MB of redemptions."""
PIECE_EVENTS = 50_000
"""Events whose payloads are in memory at once: about 60 MB of documented size."""

EVENTS = "events"
DELIVERIES = "deliveries"
FACT_COLUMNS = (
    ProjectionColumn("position", "bigint", "the event's place in the log: 1, 2, 3 … without gaps"),
    ProjectionColumn("event_id", "text", "Wix's id of the event, or one derived from its content"),
    ProjectionColumn("site_id", "text", "the site (Wix app instance) that it happened on"),
    ProjectionColumn("type", "text", "coupon.created, coupon.applied …; Wix's own name for an unrecognised family"),
    ProjectionColumn("source", "text", "the route it came by: velo, rest, sdk or snapshot"),
    ProjectionColumn("entity_id", "text", "what it is about, in Wix's ids"),
    ProjectionColumn("coupon_id", "text", "the marketing coupon that it is about, if any"),
    ProjectionColumn("event_time", "timestamp", "when it happened, as Wix says"),
    ProjectionColumn("recorded_at", "timestamp", "when the log took it in"),
    ProjectionColumn("sequence", "bigint", "Wix's sequence number for the entity; null on routes without one"),
    ProjectionColumn("order_id", "text", "the order that used the coupon"),
    ProjectionColumn("app_id", "text", "the app that the order was made in"),
    ProjectionColumn("recognised", "boolean", "whether the family is one that Wix documents for coupons"),
    ProjectionColumn("restored", "boolean", "whether it brings back what had been deleted"),
    ProjectionColumn("code", "text", "the coupon's code as this event shows it"),
)
ACTOR_COLUMNS = (
    ProjectionColumn(
        "actor_type", "text", "ANONYMOUS_VISITOR, MEMBER, WIX_USER, APP or UNKNOWN; null: not told who did it"
    ),
    ProjectionColumn("actor_id", "text", "Wix's id of who did it: personal data, unless it is an APP's"),
    ProjectionColumn("account_id", "text", "the Wix account whose site it is: personal data of the owner"),
    ProjectionColumn("account_site_id", "text", "that account's site in Wix's accountInfo, which site_id need not be"),
)
"""Who did it and on whose site: the columns of facts and events that no projection reads."""
DELIVERY_COLUMNS = (
    ProjectionColumn("day", "text", "the UTC day of receipt"),
    ProjectionColumn("site_id", "text", "the site; empty where no site is proved, as for most refused deliveries"),
    ProjectionColumn("route", "text", "the route it came by: velo, rest, sdk, snapshot or unknown"),
    ProjectionColumn("outcome", "text", "what became of it: duplicate, conflict, quarantined or refused"),
    ProjectionColumn("reason", "text", "why it was refused, in a word; else empty"),
    ProjectionColumn("count", "bigint", "how many; a delivery of several events counts once for each"),
)
_FACTS_ABOUT = "What every event of the log says of itself; holds personal data."
_EVENTS_ABOUT = "The log's events: the same rows as facts."
_DELIVERIES_ABOUT = "Counts of deliveries that are no events of the log, by day of receipt; the rest are in events."

_DUCK_TYPES = {
    "text": "VARCHAR",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
    "decimal": "DECIMAL(18,6)",
    "json": "JSON",
}
_CLOSER_TYPES = {
    ("coupon_usage", "by_app"): "MAP(VARCHAR, BIGINT)",
    ("redemptions", "later_event_ids"): "VARCHAR[]",
    (DELIVERIES, "day"): "DATE",
}
"""The columns that hold something closer than their stored type says; a test compares with the models."""

_LOCK_DOWN = (
    "SET TimeZone = 'UTC'",
    "SET enable_progress_bar = false",
    # DuckDB lets SQL read and write its spill directory whatever else is forbidden: so there is none, and a query that
    # needs more than the memory limit fails.
    "SET temp_directory = ''",
    # Compression is for databases on disk unless asked for. It takes a fifth of the memory.
    "ATTACH ':memory:' AS store (COMPRESS)",
    "USE store",
    # Else a name that is no table is looked for among the Python caller's variables.
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET enable_external_access = false",
    # Last, for nothing can be set after it.
    "SET lock_configuration = true",
)
_PARAMETER = re.compile(r"\$\w+|\?")
_NO_TABLE = re.compile(r"Table with name \"?(\w+)\"? does not exist")


class AnalyticsConnection:
    """An in-memory DuckDB with the store's tables in it; see the module. Not thread-safe. Close it, or use it as a context.

    What SQL changes in it changes the copy alone. `duckdb` is the plain connection, for tools that want one: it does not
    load tables by itself, so call `load` first.
    """

    def __init__(
        self, engine: Engine, catalogue: Catalogue, *, memory_limit: str = MEMORY_LIMIT, owns_engine: bool = False
    ) -> None:
        self.engine = engine
        self.catalogue = catalogue
        self._owns_engine = owns_engine
        self._memory_limit = memory_limit
        self._positions: dict[str, int] = {}
        self._behind: list[str] = []
        try:
            self.duckdb = duckdb.connect(":memory:", config={"memory_limit": memory_limit})
        except duckdb.Error as error:
            raise InputError(f"memory_limit={memory_limit!r} is not a size such as '2GB': {error}") from error
        for statement in _LOCK_DOWN:
            self.duckdb.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the copy, and release the store if this connection opened it."""
        self.duckdb.close()
        if self._owns_engine:
            self.engine.dispose()

    @property
    def tables(self) -> tuple[str, ...]:
        """The names that a query may use, loaded or not."""
        return (*(model.name for model in self.catalogue), FACTS, EVENTS, DELIVERIES)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The tables that have been read from the store so far."""
        return tuple(name for name in self.tables if name in self._positions)

    @property
    def behind(self) -> tuple[str, ...]:
        """The loaded projections that do not follow the log: an older version of their model made them, or they were left
        behind. Columns that an older table lacks are NULL. `eventstore upgrade` rebuilds them."""
        return tuple(self._behind)

    @property
    def position(self) -> int:
        """The position of the log up to which every loaded table shows it; 0 before anything is loaded."""
        return min(self._positions.values(), default=0)

    def execute(self, sql: str, parameters: Parameters = None) -> duckdb.DuckDBPyConnection:
        """Run SQL, loading the tables it names, and return DuckDB's result: `fetchall()`, `description` …

        Of several statements the last is given the parameters and makes the result. Raises duckdb.Error for what DuckDB
        refuses, and InputError where the memory limit does not suffice.
        """
        result = self.duckdb
        statements = duckdb.extract_statements(sql)
        for number, statement in enumerate(statements, start=1):
            values = parameters if number == len(statements) else None
            result = self._with_tables(statement, partial(self.duckdb.execute, statement, values))
        return result

    def sql(self, query: str, parameters: Parameters = None) -> duckdb.DuckDBPyRelation:
        """The query's relation, its tables loaded: `to_arrow_table()`, `df()`, `show()` … run it. Raises as `execute` does."""
        statements = duckdb.extract_statements(query)
        if len(statements) != 1:
            raise InputError(f"one query is wanted here, not {len(statements)} statements; `execute` takes several")
        return self._with_tables(statements[0], partial(self.duckdb.sql, statements[0], params=parameters))

    def _built(self) -> list[str]:
        with self.engine.connect() as connection:
            found = tables.read_checkpoints(connection)
        return [name for model in self.catalogue if (name := model.name) in found and found[name].version]

    def _with_tables(self, statement: duckdb.Statement, run: Callable[[], _Result]) -> _Result:
        named = self._named(statement)
        if named:
            self.load(*named)
        while True:
            try:
                return run()
            except duckdb.OutOfMemoryException as error:
                raise self._too_large("the query") from error
            except duckdb.CatalogException as error:
                # What the parser did not see, as in a statement that DuckDB rewrites: binding it had no effect as yet.
                missing = _NO_TABLE.search(str(error))
                name = missing[1].lower() if missing else ""
                if name not in self.tables or name in self._positions:
                    raise
                self.load(name)

    def _named(self, statement: duckdb.Statement) -> set[str]:
        """The tables of ours that a statement names and that are not loaded, as far as the parser sees."""
        text = statement.query
        if statement.named_parameters:
            text = _PARAMETER.sub("NULL", text)  # DuckDB's parser takes no parameters here
        try:
            found = {name.lower() for name in self.duckdb.get_table_names(text)}
        except duckdb.Error:
            return set()
        return (found & set(self.tables)) - set(self._positions)

    def load(self, *names: str) -> duckdb.DuckDBPyConnection:
        """Read the named tables (none named: the projections) that are not there yet; returns the DuckDB connection.

        Raises NotFound for an unknown name, ProjectionError for a projection that has not been built yet, and InputError if
        the memory limit does not suffice.
        """
        wanted = dict.fromkeys(names or self._built())
        for name in wanted:
            if name not in self.tables:
                raise NotFound(f"there is no table {name!r}; there are {', '.join(self.tables)}")
        missing = [name for name in wanted if name not in self._positions]
        if not missing:
            return self.duckdb
        with self.engine.connect() as connection:
            there = tables.read_checkpoints(connection)
        with _one_moment(self.engine, [name for name in missing if name in there]) as connection:
            found = tables.read_checkpoints(connection)
            behind = tables.behind(found, self.catalogue)
            head = schema.head_size(connection)
            for name in missing:
                if name == DELIVERIES:
                    self._load_stored(connection, name, _deliveries(), _DELIVERIES_ABOUT, DELIVERY_COLUMNS)
                    self._positions[name] = head
                elif name not in (FACTS, EVENTS):
                    model = self.catalogue.find(name)
                    self._load_model(connection, model, behind=model in behind)
                    self._positions[name] = found[name].position
        # What stands below a position never changes: the log needs no transaction, and may take its time.
        if FACTS in missing or EVENTS in missing:
            self._load_log(head)
        return self.duckdb

    def _load_model(self, connection: Connection, model: Projection, *, behind: bool) -> None:
        about = model.about
        if behind:
            self._behind.append(model.name)
            about += " As an older version of its model made it; `eventstore upgrade` rebuilds it."
        self._load_stored(connection, model.name, tables.served(connection, model, encoded=True), about, model.shown)

    def _load_stored(
        self, connection: Connection, name: str, stored: FromClause, about: str, columns: Sequence[ProjectionColumn]
    ) -> None:
        types = {each.name: duck_type(name, each) for each in columns}
        decoded = ", ".join(f"CAST({decode_column(each, types[each.name])} AS {types[each.name]})" for each in columns)
        schema = stored_schema(columns)
        with self._making(name, about, columns) as target:
            for rows in _stored_rows(connection, stored, columns):
                piece = pa.Table.from_batches([arrow.rows_to_batch(rows, schema)])
                with self._registered("batch", piece):
                    self.duckdb.execute(f"INSERT INTO {target} SELECT {decoded} FROM batch")

    def _load_log(self, head: int) -> None:
        shown = (*FACT_COLUMNS, *ACTOR_COLUMNS)
        columns = ", ".join(quoted(each.name) for each in shown)
        made = f"({facts_sql()}) JOIN ({_actors_sql()}) USING (position)"
        with self._making(FACTS, _FACTS_ABOUT, shown) as target:
            for after in range(0, head, PIECE_EVENTS):
                with arrow.event_batches(self.engine, after=after, until=min(after + PIECE_EVENTS, head)) as reader:
                    piece = reader.read_all()
                with self._registered("batch", piece):
                    self.duckdb.execute(f"INSERT INTO {target} SELECT {columns} FROM {made}")
        self.duckdb.execute(f"CREATE VIEW {EVENTS} AS FROM {FACTS}")
        self._comment("VIEW", EVENTS, _EVENTS_ABOUT, shown)
        self._positions[FACTS] = self._positions[EVENTS] = head

    @contextmanager
    def _making(self, name: str, about: str, columns: Sequence[ProjectionColumn]) -> Iterator[str]:
        """A new table to fill, which takes its name only when it is complete."""
        target = quoted(f"{name}__loading")
        typed = ", ".join(f"{quoted(each.name)} {duck_type(name, each)}" for each in columns)
        self.duckdb.execute(f"CREATE TABLE {target} ({typed})")
        try:
            yield target
            self.duckdb.execute(f"ALTER TABLE {target} RENAME TO {quoted(name)}")
        except BaseException as error:
            self.duckdb.execute(f"DROP TABLE IF EXISTS {target}")
            if isinstance(error, duckdb.OutOfMemoryException):
                raise self._too_large(f"the table {name}") from error
            raise
        self._comment("TABLE", name, about, columns)

    @contextmanager
    def _registered(self, name: str, piece: pa.Table) -> Iterator[None]:
        self.duckdb.register(name, piece)
        try:
            yield
        finally:
            self.duckdb.unregister(name)

    def _comment(self, kind: str, name: str, about: str, columns: Sequence[ProjectionColumn]) -> None:
        self.duckdb.execute(f"COMMENT ON {kind} {quoted(name)} IS {_literal(about)}")
        for each in columns:
            self.duckdb.execute(f"COMMENT ON COLUMN {quoted(name)}.{quoted(each.name)} IS {_literal(each.doc)}")

    def _too_large(self, what: str) -> InputError:
        return InputError(
            f"{what} needs more memory than memory_limit={self._memory_limit!r}; connect with a larger one"
        )


def connect(
    store: str | Path | Engine,
    *,
    memory_limit: str = MEMORY_LIMIT,
    catch_up: bool = True,
    projections: Sequence[str | Path] | Catalogue = (),
) -> AnalyticsConnection:
    """Open the store at a URL, a SQLite path or an engine for questions in SQL.

    `projections`: folders with models of your own, whose tables can then be asked too, or the `catalogue` of an open store.

    The projections are caught up with the log first; `catch_up=False` takes them as they are and writes nothing, as it must
    be for a database role that may only read. Raises StoreNotReady if there is no store of this program's revision.
    """
    catalogue = projections if isinstance(projections, Catalogue) else load_catalogue(projections)
    engine = store if isinstance(store, Engine) else make_engine(store)
    owns_engine = engine is not store
    try:
        schema.require_ready(engine)
        if catch_up:
            _catch_up(engine, catalogue)
        return AnalyticsConnection(engine, catalogue, memory_limit=memory_limit, owns_engine=owns_engine)
    except BaseException:
        if owns_engine:
            engine.dispose()
        raise


def duck_type(name: str, each: ProjectionColumn) -> str:
    """The DuckDB type of a column of the table `name`."""
    return _CLOSER_TYPES.get((name, each.name), _DUCK_TYPES[each.type])


@lru_cache(maxsize=1)
def _actors_sql() -> str:
    return (files("analytics") / "actors.sql").read_text(encoding="utf-8")


def _catch_up(engine: Engine, catalogue: Catalogue) -> None:
    from eventstore.projections.runner import Runner

    tables.ensure(engine, catalogue)
    runner = Runner(engine, catalogue)
    try:
        runner.catch_up()
    finally:
        runner.stop()


def _deliveries() -> FromClause:
    shown: Sequence[Any] = [column(each.name) for each in DELIVERY_COLUMNS]
    return table(delivery_counts.name, *shown)


@contextmanager
def _one_moment(engine: Engine, names: Sequence[str]) -> Iterator[Connection]:
    """A transaction all of whose reads show the same state; SQLite's do as they are."""
    with engine.connect() as plain:
        options = {} if is_sqlite(engine) else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        connection = plain.execution_options(**options)
        with connection.begin():
            if names and not is_sqlite(engine):
                # Before the snapshot is taken, which locking does not: a table that a rebuild puts in place afterwards would
                # be found by its name, and its rows, written after the snapshot, would not be seen.
                connection.exec_driver_sql(f"LOCK TABLE {', '.join(names)} IN ACCESS SHARE MODE")
            yield connection


def _stored_rows(
    connection: Connection, stored: FromClause, columns: Sequence[ProjectionColumn]
) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a table of the store in its own encodings, a piece at a time."""
    statement = select(*[stored.c[each.name] for each in columns])
    with connection.execute(statement, execution_options={"yield_per": PIECE_ROWS}) as result:
        yield from result.partitions()


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
