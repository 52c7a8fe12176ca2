"""The same questions on Spark, for a lake that has outgrown one machine: the same `.sql`, over the same files, the same answers.

    from analytics import spark

    with spark.connect("eventstore.db") as store:
        print(store.run_report("usage-per-coupon", since="2026-09-01").to_csv())
        store.sql("SELECT code, times_used FROM coupons JOIN coupon_usage USING (site_id, coupon_id)").show()

`connect` brings the lake up to date as `analytics.connect` does, and makes temporary views of the same names and columns in a
Spark session of its own; nothing is copied. JSON is text there, and the session's zone is UTC.

Where Spark runs is what Spark is told in the ways that its users know: a session that is given or active, `SPARK_REMOTE` (Spark
Connect), `MASTER`, `spark-defaults.conf` in `SPARK_CONF_DIR`, `PYSPARK_SUBMIT_ARGS`; else in this process, on all its cores,
which takes Java. The lake's files must be where the workers see them: on a cluster in an object store, whose Hadoop connector
and credentials are Spark's own configuration, or in a folder that all of them share.

It reads the Parquet files that one moment of the lake consists of, so that all views show the same position, and needs no
Delta in Spark. A cluster that has it can read the tables by themselves (`spark.read.format("delta").load(…)`), each as of its own
latest commit; of the projections the rows that stand are then those that `_rows` picks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Engine

from analytics.catalogue import Report, report
from analytics.columns import (
    DELIVERIES,
    DELIVERY_COLUMNS,
    EVENTS,
    FACTS,
    TableColumn,
    event_columns,
    fact_columns,
    projection_columns,
)
from analytics.lake import Lake, LakeProgress, Snapshot, default_lake, in_lake
from analytics.lake.levels import LevelFiles
from analytics.results import ReportResult
from analytics.views import CHANGES, changes_sql
from eventstore.errors import InputError
from eventstore.log import schema
from eventstore.log.engine import make_engine
from eventstore.projections.catalogue import Catalogue, load_catalogue

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from analytics.spark_sql import SparkQuery

INSTALL = "Spark is not installed with this program: pip install 'coupon-eventstore[spark]' (or '.[spark]' in a clone)"
APPLICATION = "coupon event store"
"""What Spark's own pages call it."""

_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    # An overflow or a text that is no number is an error, as in DuckDB, and not null.
    "spark.sql.ansi.enabled": "true",
    # The files' days are those of the calendar that DuckDB and Python count in, before 1582 too.
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
}
_SHUFFLE = "spark.sql.shuffle.partitions"
_SHUFFLE_DEFAULT = "200"
_PATTERN = re.compile(r"[{}]")
"""What is a pattern in a path to Hadoop, and has been refused in none."""
_SCHEMES = {"s3://": "s3a://"}
"""Addresses of object stores by Hadoop's names for them, where Delta's are others."""


class SparkConnection:
    """Views over one moment of a lake, in a Spark session; see the module. Close it, or use it as a context.

    `session`: what to derive its own from; None: the active one, or a new one, which then ends with the connection.
    """

    def __init__(self, snapshot: Snapshot, catalogue: Catalogue, *, session: SparkSession | None = None) -> None:
        self.position = snapshot.position
        """The position of the log up to which every view shows it."""
        self._started: SparkSession | None = None
        if session is None:
            session, new = _session()
            self._started = session if new else None
        try:
            self.session = session.newSession()
            """Where the views are: its settings and views are nobody else's."""
            self._set_up()
            self.tables = tuple(self._make_views(snapshot, catalogue))
            """The names that a query may use."""
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the views, and end Spark if it was begun for this."""
        if self._started is not None:
            self._started.stop()
            self._started = None

    def sql(self, query: str, parameters: Mapping[str, object] | None = None) -> DataFrame:
        """What a query in DuckDB's dialect answers, as Spark's DataFrame; `parameters`: values for its `$name`.

        Raises InputError for what cannot be read or what Spark refuses.
        """
        from analytics.spark_sql import spark_query

        return self._run(spark_query(query, parameters))

    def run_report(self, name: str, /, **parameters: object) -> ReportResult:
        """Answer the report `name`, as `analytics.run_report` does."""
        asked = report(name)
        return self.answer(asked, asked.values(parameters))

    def answer(self, asked: Report, values: dict[str, Any]) -> ReportResult:
        """Answer a report with values that `Report.values` has made."""
        found = self.sql(asked.sql, values)
        with _told():
            # Arrow, for Spark's own rows have times without a zone, in that of this machine.
            table = found.toArrow()
        columns = ([_value(value) for value in column.to_pylist()] for column in table.columns)
        rows = tuple(zip(*columns, strict=True))
        return ReportResult(asked.name, asked.title, values, self.position, asked.columns, rows)

    def _run(self, query: SparkQuery) -> DataFrame:
        with _told():
            return self.session.sql(query.text, args=dict(query.texts))

    def _set_up(self) -> None:
        conf = self.session.conf
        for name, value in _SETTINGS.items():
            conf.set(name, value)
        # On one machine two hundred parts of a few rows cost more than they help.
        if str(conf.get("spark.master", "")).startswith("local") and conf.get(_SHUFFLE) == _SHUFFLE_DEFAULT:
            conf.set(_SHUFFLE, str(self.session.sparkContext.defaultParallelism))

    def _make_views(self, snapshot: Snapshot, catalogue: Catalogue) -> list[str]:
        from analytics.spark_sql import spark_query

        events = self._read(snapshot.events, event_columns())
        if snapshot.events_end > snapshot.position:
            events = events.where(events["position"] <= snapshot.position)
        frames = {EVENTS: events, FACTS: events.select([each.name for each in fact_columns()])}
        for model in in_lake(catalogue):
            frames[model.name] = self._rows(snapshot.projections.get(model.name, ()), projection_columns(model))
        frames[DELIVERIES] = self._read(snapshot.deliveries, DELIVERY_COLUMNS)
        for name, frame in frames.items():
            frame.createOrReplaceTempView(name)
        times = frozenset(each.name for each in fact_columns() if each.type == "TIMESTAMPTZ")
        self._run(spark_query(changes_sql(), times=times)).createOrReplaceTempView(CHANGES)
        return [*frames, CHANGES]

    def _rows(self, levels: LevelFiles, columns: Sequence[TableColumn]) -> DataFrame:
        """The rows of a projection that stand: of each key the one on the highest level, if it does not say that it is gone."""
        key, gone = TableColumn("_key", "BIGINT", ""), TableColumn("_gone", "BOOLEAN", "")
        found = self._read((), columns)
        newer: list[str] = []
        for level, files in reversed(levels):
            rows = self._read(files, [*columns, key, gone])
            if newer:
                rows = rows.join(self._read(newer, [key]), on="_key", how="left_anti")
            if level > 0:
                rows = rows.where(~rows["_gone"])
            found = found.union(rows.select([each.name for each in columns]))
            newer += files
        return found

    def _read(self, files: Sequence[str], columns: Sequence[TableColumn]) -> DataFrame:
        """The rows of these files; a column that a file does not have is null in its rows."""
        from analytics.spark_sql import spark_type

        if not files:
            empty = ", ".join(f"CAST(NULL AS {spark_type(each.type)}) AS `{each.name}`" for each in columns)
            return self.session.sql(f"SELECT {empty} WHERE false")
        declared = ", ".join(f"`{each.name}` {spark_type(each.type)}" for each in columns)
        with _told():
            return self.session.read.schema(declared).parquet(*map(address, files))


def connect(
    store: str | Path | Engine | None = None,
    *,
    lake: str | Path | None = None,
    catch_up: bool = True,
    projections: Sequence[str | Path] | Catalogue = (),
    session: SparkSession | None = None,
    on_progress: Callable[[LakeProgress], None] | None = None,
) -> SparkConnection:
    """Bring the lake of a store (URL, SQLite path or engine) up to date, and open it for Spark.

    As `analytics.connect`; `session` is Spark's, if not the active one. Raises InputError where Spark is not installed or does
    not start, before anything is read.
    """
    require_spark()
    catalogue = projections if isinstance(projections, Catalogue) else load_catalogue(projections)
    if store is None and lake is None:
        raise InputError("connect to a store, or name a lake")
    engine = store if store is None or isinstance(store, Engine) else make_engine(store)
    try:
        if engine is not None:
            schema.require_ready(engine)
        location = default_lake(engine) if lake is None and engine is not None else str(lake)
        found = Lake(location, catalogue=catalogue)
        if engine is not None and catch_up:
            found.catch_up(engine, on_progress=on_progress)
    finally:
        if engine is not None and engine is not store:
            engine.dispose()
    return SparkConnection(found.snapshot(bring=False), catalogue, session=session)


def require_spark() -> None:
    """Raise InputError, saying how to install it, where Spark or what writes its SQL is not installed."""
    try:
        import pyspark
        import sqlglot
    except ImportError as error:
        raise InputError(INSTALL) from error
    del pyspark, sqlglot


def _session() -> tuple[SparkSession, bool]:
    """The active session, or a new one as Spark is configured, and whether it is new."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active, False
    try:
        return SparkSession.builder.appName(APPLICATION).getOrCreate(), True
    except PySparkException as error:
        raise InputError(
            f"Spark does not start: {_first_line(error)}. On this machine it needs Java 17 or newer (JAVA_HOME, or java in "
            "PATH); elsewhere it is found by SPARK_REMOTE, MASTER or spark-defaults.conf"
        ) from error


class _told:  # noqa: N801 - it is used as a function
    """Meanwhile what Spark fails with is an InputError of one line."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        if isinstance(error, PySparkException | Py4JError):
            raise InputError(f"Spark cannot answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def address(file: str) -> str:
    """A file's address for Hadoop."""
    file = _PATTERN.sub(r"\\\g<0>", file)
    for theirs, its in _SCHEMES.items():
        if file.startswith(theirs):
            return its + file.removeprefix(theirs)
    return file if "://" in file else f"file://{file}"


def _value(value: Any) -> Any:
    # Arrow's zone is equal in meaning, and foreign to every comparison with `is UTC`.
    return value.astimezone(UTC) if isinstance(value, datetime) else value
