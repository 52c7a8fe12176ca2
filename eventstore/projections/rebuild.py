"""Rebuilding projections from the whole log with the same models as the live runner, into shadow tables, then swapping.

The log is read in position order in pieces: while DuckDB lifts one, the next is being read. Partial rows pile up in DuckDB
(on disk past its memory limit) and are merged once, at the end. Ingestion goes on all the while; what it appends while the
tables are written is the live runner's to take in right after the swap.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from eventstore.errors import ProjectionError
from eventstore.log import arrow
from eventstore.log.engine import said, writing
from eventstore.log.reader import head
from eventstore.projections import tables
from eventstore.projections.catalogue import FACTS, Catalogue, Projection
from eventstore.projections.duck import ModelSession, quoted

_Item = TypeVar("_Item")

PIECE_EVENTS = 100_000
"""Events read at a time: two pieces of documented size are in memory at once, about 250 MB."""
CATCH_UP_EVENTS = 1_000
"""Reading goes on while at least so many events were appended meanwhile; the live runner takes fewer in at once."""
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
    engine: Engine,
    catalogue: Catalogue,
    names: tuple[str, ...] = (),
    *,
    on_progress: Callable[[RebuildProgress], None] | None = None,
) -> RebuildResult:
    """Rebuild the named projections (none named: all) and those that hang together with them.

    Raises NotFound for an unknown name and ProjectionError for an event that a model cannot take; the old tables then stay
    as they were.
    """
    models = catalogue.with_dependents(names)
    tables.ensure(engine, catalogue)
    rebuild = _Rebuild(engine, models, on_progress)
    try:
        return rebuild.run()
    except duckdb.Error as error:
        raise ProjectionError(f"a model could not be run over the log: {error}; the old tables stay") from error
    except DBAPIError as error:
        raise ProjectionError(
            f"the rebuilt tables could not be written: {said(error)}; the old ones stay (a second rebuild begun meanwhile "
            "takes over from the first)"
        ) from error


class _Rebuild:
    """One rebuild under way."""

    def __init__(
        self,
        engine: Engine,
        models: tuple[Projection, ...],
        on_progress: Callable[[RebuildProgress], None] | None,
    ) -> None:
        self._engine = engine
        self._models = models
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._stages: dict[str, float] = {}
        run = secrets.token_hex(4)
        self._shadows = {model.name: f"{model.name}{tables.SHADOW}{run}" for model in models}

    def run(self) -> RebuildResult:
        tables.drop_shadows(self._engine, self._models)
        try:
            rows, position = self._make()
            with self._stage("swap"):
                self._swap(rows, position)
        finally:
            tables.drop_shadows(self._engine, self._models, only=self._shadows.values())
        self._tell("swap", position, position)
        return RebuildResult(rows, position, time.monotonic() - self._started, self._stages)

    def _make(self) -> tuple[dict[str, int], int]:
        """Fill the shadow tables: `(rows by projection, the position they are made of)`."""
        position = 0
        with tempfile.TemporaryDirectory(prefix="eventstore-rebuild-") as scratch:
            session = ModelSession(self._models, temp_directory=scratch)
            try:
                pieces = _ahead(_pieces(self._engine))
                while (piece := self._next(pieces)) is not None:
                    with self._stage("facts"):
                        session.load_facts(piece.rows)
                    with self._stage("lift"):
                        for model in self._models:
                            if model.source == FACTS:
                                session.lift(model)
                        session.drop_facts()
                    position = piece.position
                    self._tell("read", position, piece.head)
                with self._stage("merge"):
                    for model in self._models:
                        if model.source != FACTS:
                            session.lift(model)
                        session.merge(model)
                self._tell("merge", position, position)
                with self._stage("write"):
                    for model in self._models:
                        self._write(session, model)
                self._tell("write", position, position)
                return {model.name: session.count(quoted(f"{model.name}__merged")) for model in self._models}, position
            finally:
                session.close()

    def _next(self, pieces: Iterator[_Piece]) -> _Piece | None:
        with self._stage("read"):
            return next(pieces, None)

    def _write(self, session: ModelSession, model: Projection) -> None:
        shadow = self._shadows[model.name]
        with self._engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                tables.make(connection, model, shadow, indexed=False)
        # In key order, for then every row goes to the end of the table's B-tree.
        ordered = session.connection.execute(session.stored_query(model, ordered=True))
        for rows in _ahead(iter(lambda: ordered.fetchmany(WRITE_ROWS), [])):
            with self._engine.connect() as plain:
                connection = writing(plain)
                with connection.begin():
                    tables.insert_rows(connection, model, shadow, rows)

    def _swap(self, rows: dict[str, int], position: int) -> None:
        with self._engine.connect() as plain:
            connection = writing(plain)
            with connection.begin():
                # The checkpoints first, as the live runner does: locks taken in one order cannot deadlock.
                for model in self._models:
                    tables.set_checkpoint(connection, model, position)
                for model in self._models:
                    shadow = self._shadows[model.name]
                    written = connection.exec_driver_sql(f"SELECT count(*) FROM {shadow}").scalar_one()
                    if written != rows[model.name]:
                        raise ProjectionError(
                            f"the rebuilt {model.name} holds {written} rows where {rows[model.name]} were made; "
                            "nothing was swapped: run the rebuild again"
                        )
                    tables.swap(connection, model, shadow)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        since = time.monotonic()
        yield
        self._stages[name] = self._stages.get(name, 0.0) + time.monotonic() - since

    def _tell(self, stage: str, position: int, head_position: int) -> None:
        if self._on_progress is not None:
            self._on_progress(RebuildProgress(stage, position, head_position, time.monotonic() - self._started))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive rows of the log: their last position, and the head that reading is bound for."""

    position: int
    head: int
    rows: pa.Table


def _pieces(engine: Engine) -> Iterator[_Piece]:
    """The log in pieces, in order, to its head and on until little has been appended meanwhile."""
    after, last = 0, head(engine)
    while after < last:
        until = min(after + PIECE_EVENTS, last)
        with arrow.event_batches(engine, after=after, until=until) as batches:
            yield _Piece(until, last, batches.read_all())
        after = until
        if after == last:
            grown = head(engine)
            last = grown if grown - last >= CATCH_UP_EVENTS else last


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items, each being made in a thread of its own while the caller works on the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="eventstore-ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
