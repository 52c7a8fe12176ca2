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
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Self, TypeVar

import duckdb
from sqlalchemy import Engine

from analytics.lake import Lake, LakeProgress, Snapshot, default_lake
from analytics.views import View, macros, scalar_macros, views
from eventstore.errors import InputError
from eventstore.log import schema
from eventstore.log.engine import make_engine
from eventstore.projections.catalogue import Catalogue, load_catalogue
from eventstore.projections.duck import literal, quoted

Parameters = Mapping[str, object] | Sequence[object] | None
"""Values for `$name` or `?` in SQL."""
_Result = TypeVar("_Result")

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
        for statement in _SETTINGS:
            self._duckdb.execute(statement)
        # The files one by one, not their folder: in an allowed folder DuckDB would also write.
        self._duckdb.execute("SET allowed_paths = [" + ", ".join(literal(file) for file in snapshot.files) + "]")
        made = tuple(views(snapshot, catalogue))
        self.tables = tuple(view.name for view in made)
        """The names that a query may use."""
        for view in made:
            self._make(view)
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

        Raises InputError for what is no query, takes too long or does not fit into the memory limit, and duckdb.Error for what
        DuckDB refuses.
        """
        statement = _query(sql)
        return self.limited(lambda: self._duckdb.execute(statement, parameters))

    def sql(self, query: str, parameters: Parameters = None) -> duckdb.DuckDBPyRelation:
        """The query's relation: `to_arrow_table()`, `df()`, `show()` … run it. Raises as `execute` does."""
        statement = _query(query)
        return self.limited(lambda: self._duckdb.sql(statement.query, params=parameters))

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
            return run()
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
        finally:
            if timer is not None:
                timer.cancel()

    def _make(self, view: View) -> None:
        name = quoted(view.name)
        self._duckdb.execute(f"CREATE VIEW {name} AS {view.sql}")
        self._duckdb.execute(f"COMMENT ON VIEW {name} IS {literal(view.about)}")
        for each in view.columns:
            self._duckdb.execute(f"COMMENT ON COLUMN {name}.{quoted(each.name)} IS {literal(each.doc)}")


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
        if engine is not None and catch_up:
            found.catch_up(engine, on_progress=on_progress)
    return AnalyticsConnection(found.snapshot(), catalogue, memory_limit=memory_limit, time_limit=time_limit)


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


def _query(sql: str) -> duckdb.Statement:
    """The one statement of a text, if it is a query. Raises InputError, and duckdb.Error for what cannot be parsed."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise InputError(f"one query is wanted here, not {len(statements)} statements")
    [statement] = statements
    if statement.type == duckdb.StatementType.SELECT or _is_explained_query(statement):
        return statement
    raise InputError(
        f"this connection only answers questions: SELECT, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN; not {statement.type.name}"
    )


def _is_explained_query(statement: duckdb.Statement) -> bool:
    # EXPLAIN ANALYZE runs what it explains.
    if statement.type != duckdb.StatementType.EXPLAIN:
        return False
    found = _EXPLAIN.fullmatch(statement.query)
    if found is None:
        return False
    try:
        explained = duckdb.extract_statements(found["rest"])
    except duckdb.Error:  # the pattern does not know all that may stand before it, as comments
        return False
    return [each.type for each in explained] == [duckdb.StatementType.SELECT]
