"""A DuckDB over a store's lake, from which nothing but the lake can be reached.

`connect` brings the lake up to date with the log and opens a DuckDB in memory that can read the lake's files of that moment and
nothing else: no other file, no network, no extension, and no setting can be changed. It takes queries, and nothing that writes.

| name | what |
|---|---|
| `events` | the log: every event, what it says in typed columns, and its payload |
| `facts` | the same without the payload |
| `coupons`, `redemptions`, `coupon_usage`, `loyalty_coupons` | the projections: their documented columns, typed; your own too |
| `changes` | what each event changed of a coupon, a row a fact |
| `deliveries` | how many deliveries became no event of the log: duplicates, conflicts, quarantined and refused ones |
| `coupons_as_of(time)` | the coupons as they were true then |
| `known_at(time)` | the coupons as they were known then; `register(true_at, known_by)`: both |

`events` and `facts` say who caused an event (`actor_id`) and whose site it was (`account_id`), and a payload also who earned a
reward: personal data, which a lake, an export or a notebook then holds too.

Times are TIMESTAMPTZ in UTC, amounts DECIMAL(18,6), `by_app` is a MAP and `later_event_ids` a list. Every view and column says
what it is, in DuckDB's catalogue: `SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'coupons'`.

All views show one moment of the log: `position`. What is appended later is seen by who connects later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb
import orjson
import pyarrow as pa
from sqlalchemy import Engine

from analytics.lake import Lake, LakeProgress, LakeUnreadable, Snapshot, default_lake
from analytics.lake.damage import is_damage, readable
from analytics.lake.duck import interruptibly, worker
from analytics.views import macros, scalar_macros, views
from eventstore.errors import InputError
from eventstore.log import schema
from eventstore.log.engine import make_engine
from eventstore.projections.catalogue import Catalogue, load_catalogue
from eventstore.projections.duck import literal, quoted

Parameters = Mapping[str, object] | Sequence[object] | None
"""Values for `$name` or `?` in SQL."""
_Result = TypeVar("_Result")

_ONLY_QUESTIONS = "this connection only answers questions: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN"

MEMORY_LIMIT = "2GB"
"""What a connection may hold for its work: enough to group some ten million redemptions by their texts."""

_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET enable_progress_bar = false",
    # DuckDB lets SQL read and write its spill directory whatever else is forbidden: so there is none, and a query that
    # needs more than the memory limit fails.
    "SET temp_directory = ''",
    # The files never change: their footers need to be read once.
    "SET parquet_metadata_cache = true",
    # Else a name that is no table is looked for among the Python caller's variables.
    "SET python_enable_replacements = false",
)
_LOCK_DOWN = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET enable_external_access = false",
    # Last, for nothing can be set after it.
    "SET lock_configuration = true",
)
_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""What a query that only reads consists of, as `json_serialize_sql` has it. A common table expression may also be a COPY, an
INSERT, an UPDATE or a DELETE, and the whole is a SELECT all the same."""
_TABLE_FUNCTIONS = frozenset(
    (
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "summary", "histogram", "histogram_values"),
        *("json_each", "json_tree", "glob", "sniff_csv", "query_table", "test_all_types", "which_secret"),
        *("pg_timezone_names", "icu_calendar_names"),
    )
)
_TABLE_FUNCTION_FAMILIES = ("duckdb_", "pragma_", "parquet_", "read_")
"""The functions of DuckDB, and the beginnings of their names, that a query may use as tables: they read, and files only as far as
DuckDB is let. Others run SQL that is given as a text (`query`, `json_execute_serialized_sql`), read addresses in memory
(`arrow_scan`), or do something (`checkpoint`)."""
_FUNCTIONS = "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE function_type LIKE 'table%'"
_ABOUT_TABLES = re.compile(r"duckdb_|information_schema|pg_|sqlite_|pragma_|show|describe|summarize", re.IGNORECASE)
"""What asks of the tables themselves names one of these. Only then their comments are put on: it takes 30 ms."""
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\b\s*)?(\([^()]*\)\s*)?(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


class AnalyticsConnection:
    """A DuckDB over one moment of a lake; see the module. Not thread-safe. Close it, or use it as a context.

    It takes queries (SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN) and refuses all else.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        catalogue: Catalogue,
        *,
        memory_limit: str = MEMORY_LIMIT,
        time_limit: float | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.position = snapshot.position
        """The position of the log up to which every view shows it."""
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        try:
            self._duckdb = duckdb.connect(":memory:", config={"memory_limit": memory_limit})
        except duckdb.Error as error:
            raise InputError(f"memory_limit={memory_limit!r} is not a size such as '2GB': {error}") from error
        self.location = snapshot.location
        self._files = snapshot.files
        try:
            with enough_memory(memory_limit):
                self._set_up(snapshot, catalogue)
        except BaseException:
            self._duckdb.close()
            raise

    def _set_up(self, snapshot: Snapshot, catalogue: Catalogue) -> None:
        for statement in _SETTINGS:
            self._duckdb.execute(statement)
        # The files one by one, not their folder, in which others lie too. What DuckDB may read it may also write: that no
        # query writes is seen to before it is run (`_require_reading`).
        self._duckdb.execute("SET allowed_paths = [" + ", ".join(literal(file) for file in snapshot.files) + "]")
        made = tuple(views(snapshot, catalogue))
        self.tables = tuple(view.name for view in made)
        """The names that a query may use."""
        with readable(snapshot.location):
            for view in made:
                self._duckdb.execute(f"CREATE VIEW {quoted(view.name)} AS {view.sql}")
        self._without_comments = made
        for macro in macros():
            self._duckdb.execute(
                f"CREATE MACRO {quoted(macro.name)}({', '.join(macro.parameters)}) AS TABLE {macro.sql}"
            )
        for macro in scalar_macros():
            self._duckdb.execute(f"CREATE MACRO {quoted(macro.name)}({', '.join(macro.parameters)}) AS ({macro.sql})")
        for statement in _LOCK_DOWN:
            self._duckdb.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files and the memory."""
        self._duckdb.close()

    def execute(self, sql: str, parameters: Parameters = None) -> duckdb.DuckDBPyConnection:
        """Run a query and return DuckDB's result: `fetchall()`, `description` …

        Raises InputError for what is no query, takes too long or does not fit into the memory limit, LakeUnreadable for a lake
        that is damaged, and duckdb.Error for what DuckDB refuses.
        """
        statement = self._statement(sql)
        return self.limited(lambda: self._duckdb.execute(statement, parameters))

    def sql(self, query: str, parameters: Parameters = None) -> duckdb.DuckDBPyRelation:
        """The query's relation: `to_arrow_table()`, `df()`, `show()` … run it. Raises as `execute` does.

        Here the query is only looked at: what runs it is under the time limit inside `limited` alone. `arrow` is both in one.
        """
        statement = self._statement(query)
        return self.limited(lambda: self._duckdb.sql(statement, params=parameters))

    def arrow(self, query: str, parameters: Parameters = None) -> pa.Table:
        """The query's whole answer, computed within the time limit. Raises as `execute` does."""
        return self.limited(lambda: self.sql(query, parameters).to_arrow_table())

    def interrupt(self) -> None:
        """End the query that another thread is running: it fails."""
        self._duckdb.interrupt()

    def limited(self, run: Callable[[], _Result]) -> _Result:
        """Do what asks and fetches here within the time limit: what is fetched bit by bit is computed so too."""
        timer = None if self._time_limit is None else Timer(self._time_limit, self._duckdb.interrupt)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return interruptibly(run, self._duckdb.interrupt)
        except duckdb.OutOfMemoryException as error:
            raise InputError(
                f"the query needs more memory than memory_limit={self._memory_limit!r}; connect with a larger one"
            ) from error
        except duckdb.InterruptException as error:
            if self._time_limit is None:
                raise
            raise InputError(
                f"the query took longer than {self._time_limit:g} seconds and was ended; ask for less, or allow more time"
            ) from error
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            # What an answer in Arrow fails with is DuckDB's own message, in an error that is not DuckDB's.
            if self.is_damage(error):
                raise LakeUnreadable(self.location, error) from error
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def is_damage(self, error: Exception) -> bool:
        """Whether what a query fails with is about the lake's files, and not about the query."""
        return is_damage(error, self._files)

    def _statement(self, sql: str) -> duckdb.Statement:
        statement = _query(sql)
        if self._without_comments and _ABOUT_TABLES.search(sql):
            wanting, self._without_comments = self._without_comments, ()
            with self._duckdb.cursor() as apart:  # so that an answer that is being read goes on
                for view in wanting:
                    name = quoted(view.name)
                    apart.execute(f"COMMENT ON VIEW {name} IS {literal(view.about)}")
                    for each in view.columns:
                        apart.execute(f"COMMENT ON COLUMN {name}.{quoted(each.name)} IS {literal(each.doc)}")
        return statement


def connect(
    store: str | Path | Engine | None = None,
    *,
    lake: str | Path | None = None,
    memory_limit: str = MEMORY_LIMIT,
    time_limit: float | None = None,
    catch_up: bool = True,
    projections: Sequence[str | Path] | Catalogue = (),
    on_progress: Callable[[LakeProgress], None] | None = None,
) -> AnalyticsConnection:
    """Bring the lake of a store (URL, SQLite path or engine) up to date, and open it for questions in SQL.

    `lake`: a folder or an object store's address; None: beside the SQLite file, or in the user's cache folder. Without a
    `store`, or with `catch_up=False`, the lake is asked as it is. `projections`: folders with models of your own, whose tables
    can then be asked too, or the `catalogue` of an open store. `time_limit`: seconds that a query may take.

    Raises StoreNotReady if there is no store of this program's revision, and as `Lake.catch_up` does.
    """
    catalogue = projections if isinstance(projections, Catalogue) else load_catalogue(projections)
    if store is None and lake is None:
        raise InputError("connect to a store, or name a lake")
    with _engine(store) as engine:
        if engine is not None:
            schema.require_ready(engine)
        location = default_lake(engine) if lake is None and engine is not None else str(lake)
        found = Lake(location, catalogue=catalogue)
        catch_up = catch_up and engine is not None
        if engine is not None and catch_up:
            found.catch_up(engine, on_progress=on_progress)
    return AnalyticsConnection(
        found.snapshot(latest=not catch_up), catalogue, memory_limit=memory_limit, time_limit=time_limit
    )


@contextmanager
def _engine(store: str | Path | Engine | None) -> Iterator[Engine | None]:
    if store is None or isinstance(store, Engine):
        yield store
        return
    engine = make_engine(store)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def enough_memory(memory_limit: str) -> Iterator[None]:
    """What does not even fit the views is no limit to work under."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise InputError(
            f"memory_limit={memory_limit!r} is too little to ask anything; 64MB is enough for much"
        ) from error


@lru_cache(maxsize=64)
def _query(sql: str) -> duckdb.Statement:
    """The one statement of a text, if it is a query. Raises InputError, and duckdb.Error for what cannot be parsed."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise InputError(f"one query is wanted here, not {len(statements)} statements")
    [statement] = statements
    if statement.type == duckdb.StatementType.SELECT:
        _require_reading(statement.query)
    elif statement.type == duckdb.StatementType.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        _require_reading(_explained(statement))
    elif statement.type == duckdb.StatementType.MULTI:
        raise InputError(
            f"{_ONLY_QUESTIONS}; a PIVOT that has to find its columns is several statements: name them, as in "
            "PIVOT … ON x IN ('a', 'b') USING …"
        )
    else:
        raise InputError(f"{_ONLY_QUESTIONS}; not {statement.type.name}")
    return statement


def _require_reading(query: str) -> None:
    """Raise InputError for a query that does more than read."""
    with worker() as duck:
        [(told,)] = duck.execute("SELECT json_serialize_sql($1::VARCHAR)", [query]).fetchall()
    try:
        tree = orjson.loads(told)
    except orjson.JSONDecodeError:  # nested more deeply than is read
        raise InputError("the query is nested too deeply to see that it only asks; put it in a simpler way") from None
    if tree["error"]:
        raise InputError(f"{_ONLY_QUESTIONS}: {tree['error_message']}")
    for each in _objects(tree):
        kind = each.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING_NODES:
            word = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise InputError(f"{_ONLY_QUESTIONS}; not {word} in a WITH")
        if kind == "TABLE_FUNCTION":
            name = str(each["function"]["function_name"]).lower()
            if name in _doubtful_functions() and not name.startswith(_TABLE_FUNCTION_FAMILIES):
                raise InputError(f"{_ONLY_QUESTIONS}; {name}(…) as a table may do more")


@lru_cache(maxsize=1)
def _doubtful_functions() -> frozenset[str]:
    """DuckDB's functions that may stand for a table, but for those that are known to read. Asked once: it takes it 20 ms."""
    with worker() as duck:
        return frozenset(name for (name,) in duck.execute(_FUNCTIONS).fetchall()) - _TABLE_FUNCTIONS


def _explained(statement: duckdb.Statement) -> str:
    """What an EXPLAIN explains. Raises InputError for what is no query."""
    found = _EXPLAIN.fullmatch(statement.query)
    try:
        explained = duckdb.extract_statements(found["rest"]) if found is not None else []
    except duckdb.Error:  # the pattern does not know all that may stand before it, as comments
        explained = []
    if [each.type for each in explained] != [duckdb.StatementType.SELECT]:
        raise InputError(f"{_ONLY_QUESTIONS}; what EXPLAIN explains is to be one of these, right behind it")
    return str(explained[0].query)


def _objects(tree: object) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document. Not by recursion: a query may be nested deeply."""
    waiting = [tree]
    while waiting:
        match waiting.pop():
            case dict() as found:
                yield found
                waiting += found.values()
            case list() as several:
                waiting += several
            case _:
                pass
