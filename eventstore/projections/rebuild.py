"""Rebuilding projections from the whole log with the same models as the live runner, into shadow tables, then swapping.

The log is read in position order in pieces: while DuckDB lifts one, the next is being read. Partial rows pile up in DuckDB
(on disk past its memory limit) and are merged once, at the end. Ingestion goes on all the while; what it appends behind the
head that the rebuild set out for is the live runner's to take in after the swap.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy import Engine

from eventstore.errors import ProjectionError
from eventstore.log import arrow
from eventstore.log.engine import writing
from eventstore.log.reader import head
from eventstore.projections import tables
from eventstore.projections.catalogue import FACTS, Projection, with_dependents
from eventstore.projections.duck import ModelSession

_Item = TypeVar("_Item")

PIECE_EVENTS = 100_000
"""Events read at a time: two pieces of documented size are in memory at once, about 250 MB."""
WRITE_ROWS = 50_000
"""Rows written to a shadow table in one transaction: on SQLite the log's writer waits for it, about a quarter of a second."""


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far a rebuild is. `stage` is read, merge, write or swap; positions count events of the log."""

    stage: str
    position: int
    head: int
    seconds: float

    @property
    def rate(self) -> float:
        """Events a second so far."""
        return self.position / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What a rebuild did: rows by projection, the events it read and how long each stage took, in seconds."""

    rows: dict[str, int]
    position: int
    seconds: float
    stages: dict[str, float]


def rebuild_projections(
    engine: Engine, names: tuple[str, ...] = (), *, on_progress: Callable[[RebuildProgress], None] | None = None
) -> RebuildResult:
    """Rebuild the named projections (none named: all) and those that hang together with them.

    Raises NotFound for an unknown name and ProjectionError for an event that a model cannot take; the old tables then stay
    as they were.
    """
    models = with_dependents(names)
    tables.ensure(engine)
    target = head(engine)
    started = time.monotonic()
    stages: dict[str, float] = {}

    def report(stage: str, position: int) -> None:
        if on_progress is not None:
            on_progress(RebuildProgress(stage, position, target, time.monotonic() - started))

    def timed(stage: str, since: float) -> None:
        stages[stage] = stages.get(stage, 0.0) + time.monotonic() - since

    with tempfile.TemporaryDirectory(prefix="eventstore-rebuild-") as scratch:
        session = ModelSession(models, temp_directory=scratch)
        try:
            mark = time.monotonic()
            for until, piece in _ahead(_pieces(engine, target)):
                timed("read", mark)
                mark = time.monotonic()
                session.load_facts(piece)
                del piece
                timed("facts", mark)
                mark = time.monotonic()
                for model in models:
                    if model.source == FACTS:
                        session.lift(model)
                session.drop_facts()
                timed("lift", mark)
                report("read", until)
                mark = time.monotonic()
            rows = {}
            mark = time.monotonic()
            for model in models:
                if model.source != FACTS:
                    session.lift(model)
                session.merge(model)
                rows[model.name] = session.count(f'"{model.name}__merged"')
            timed("merge", mark)
            report("merge", target)
            mark = time.monotonic()
            for model in models:
                _write_shadow(engine, session, model)
            timed("write", mark)
            report("write", target)
        except duckdb.Error as error:
            raise ProjectionError(f"a model could not be run over the log: {error}; the old tables stay") from error
        finally:
            session.close()
    mark = time.monotonic()
    _swap(engine, models, rows, target)
    timed("swap", mark)
    report("swap", target)
    return RebuildResult(rows, target, time.monotonic() - started, stages)


def _pieces(engine: Engine, target: int) -> Iterator[tuple[int, pa.Table]]:
    """`(last position, log rows)`, a piece at a time, in order."""
    for after in range(0, target, PIECE_EVENTS):
        until = min(after + PIECE_EVENTS, target)
        with arrow.event_batches(engine, after=after, until=until) as batches:
            yield until, batches.read_all()


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items, each being made in a thread of its own while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="eventstore-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _shadow(model: Projection) -> str:
    return f"{model.name}__shadow"


def _write_shadow(engine: Engine, session: ModelSession, model: Projection) -> None:
    with engine.connect() as plain:
        connection = writing(plain)
        with connection.begin():
            tables.drop(connection, _shadow(model))
            model.make_table(_shadow(model)).create(connection)
            for index in model.make_table(_shadow(model)).indexes:
                index.drop(connection)
    # In key order, for then every row goes to the end of the table's B-tree.
    ordered = session.connection.execute(session.stored_query(model, ordered=True))
    for rows in _ahead(iter(lambda: ordered.fetchmany(WRITE_ROWS), [])):
        with engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                tables.insert_rows(connection, model, _shadow(model), rows)


def _swap(engine: Engine, models: tuple[Projection, ...], rows: dict[str, int], target: int) -> None:
    with engine.connect() as plain:
        connection = writing(plain)
        with connection.begin():
            for model in models:
                written = connection.exec_driver_sql(f"SELECT count(*) FROM {_shadow(model)}").scalar_one()
                if written != rows[model.name]:
                    raise ProjectionError(
                        f"the rebuilt {model.name} holds {written} rows where {rows[model.name]} were made; "
                        "nothing was swapped: run the rebuild again"
                    )
                tables.swap(connection, model, _shadow(model))
                tables.set_checkpoint(connection, model, target)
