"""The live runner: takes what the log has gained into the projections, each event exactly once.

A step reads the events after the checkpoint, runs the models over them joined with the present rows of the keys they touch,
and in one transaction writes the rows and moves the checkpoint, provided that nobody has moved it meanwhile. Computing
outside that transaction is safe because rows change only together with their checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventstore.backoff import wait_after
from eventstore.errors import ProjectionError, StoreUnavailable
from eventstore.log import arrow
from eventstore.log.engine import said, write_transaction
from eventstore.log.schema import head_size
from eventstore.projections import tables
from eventstore.projections.catalogue import FACTS, Catalogue, Projection
from eventstore.projections.duck import ModelSession, quoted

STEP_EVENTS = 50_000
"""Events in one step at most: its fixed cost, and the rows that it reads and writes again, are shared by so many that 50,000
take 1.1 s of work where ten steps take 2.9 (and a rebuild 1.7). It takes 120 MB more than those."""
LIVE_STEP_EVENTS = 5_000
"""Events in one step of the runner's own thread, beside which others append: they wait for a SQLite file no longer than its
rows take to be written, a tenth of a second rather than half a second."""
POLL_SECONDS = 0.25
"""How often the runner looks for events that another process appended; its own process wakes it at once."""
REST = 3.0
"""How many times as long as a step took the runner rests after it. A step costs much the same for one event as for a hundred,
so that without rest it would take a third of the machine from those who append."""
REST_SECONDS = 1.5
"""The longest rest. Whoever waits for a position ends it at once."""
BACK_OFF_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Waits after a failed step, the last one repeated."""

Rows = list[tuple[Any, ...]]


class Runner:
    """Steps the projections of one engine. `catch_up` may be called from any thread; steps are taken one at a time."""

    def __init__(self, engine: Engine, catalogue: Catalogue) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._session: ModelSession | None = None
        self._wake = threading.Event()
        self._awaited = threading.Event()
        self._moved = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last_error: str | None = None
        self.on_wait: Callable[[], None] | None = None
        """Called while somebody waits for a position: tells the process that follows the log, if it is another."""

    def catch_up(self, *, on_progress: Callable[[int, int], None] | None = None, step_events: int | None = None) -> int:
        """Take in everything the log holds now; returns the position reached. `on_progress(position, head)` after each step.

        A step takes in at most `step_events` events (default: STEP_EVENTS). A runner that is being stopped ends after the
        step under way.
        """
        while True:
            try:
                with self._lock:
                    position, head = self._step(min(step_events or STEP_EVENTS, STEP_EVENTS))
            except DBAPIError as error:
                raise StoreUnavailable(f"the projections could not follow the log: {said(error)}") from error
            with self._moved:
                self._moved.notify_all()
            if on_progress is not None:
                on_progress(position, head)
            if position >= head or self._stopping.is_set():
                return position

    def position(self) -> int:
        """The position up to which every projection has taken the log in."""
        with self._engine.connect() as connection:
            found = tables.positions(connection)
        return min((found.get(model.name, 0) for model in self._catalogue), default=0)

    def start(self) -> None:
        """Run in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._run, name="eventstore-projections", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tell the runner that the log has grown. Cheap; callable from any thread."""
        self._wake.set()

    def hurry(self) -> None:
        """Somebody waits for a position: end the rest after a step. Cheap; callable from any thread."""
        self._wake.set()
        self._awaited.set()

    def stop(self) -> None:
        """Finish the step under way and end the thread."""
        self._stopping.set()
        self._wake.set()
        self._awaited.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    def wait(self, position: int, timeout: float = 10.0) -> bool:
        """Wait until every projection has taken in `position` (read your own writes); False when the time is up."""
        deadline = time.monotonic() + timeout
        while self.position() < position:
            self.hurry()
            if self.on_wait is not None:
                self.on_wait()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._moved:
                self._moved.wait(min(left, 0.05))
        return True

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            if self._stopping.is_set():
                return
            started = time.monotonic()
            self._awaited.clear()
            try:
                self.catch_up(step_events=LIVE_STEP_EVENTS)
                failures = 0
                self.last_error = None
                self._awaited.wait(min(REST * (time.monotonic() - started), REST_SECONDS))
            except Exception as error:  # noqa: BLE001 - the thread must outlive a locked database or a full disk
                self.last_error = f"{type(error).__name__}: {error}"
                # Not on `_wake`: each commit would end the wait, and a model that fails would take a core.
                self._stopping.wait(wait_after(failures, BACK_OFF_SECONDS))
                failures += 1

    # One step

    def _step(self, most: int) -> tuple[int, int]:
        """Take in at most `most` events; `(position all have reached, head)`."""
        with self._engine.connect() as connection:
            head = head_size(connection)
            at = tables.positions(connection)
        start = min(at[model.name] for model in self._catalogue)
        if start >= head:
            return start, head
        models = [model for model in self._catalogue if at[model.name] == start]
        ahead = [position for position in at.values() if position > start]
        until = min([start + most, head, *ahead])
        if self._session is None:
            # A step is too small to be shared out, and those who append need the other cores.
            self._session = ModelSession(self._catalogue, threads=1)
        with arrow.event_batches(self._engine, after=start, until=until) as batch:
            facts = batch.read_all()
        try:
            changes = self._compute(self._session, models, facts)
            self._write(models, changes, start, until)
        except BaseException as error:
            # Half-filled working tables must not leak into the next step.
            self._session.close()
            self._session = None
            if isinstance(error, duckdb.Error):
                raise ProjectionError(f"a model cannot take the events {start + 1} to {until}: {error}") from error
            raise
        return until, head

    def _compute(self, session: ModelSession, models: Sequence[Projection], facts: pa.Table) -> dict[str, Rows]:
        session.load_facts(facts)
        changes: dict[str, Rows] = {}
        with self._engine.connect() as connection:
            for model in models:
                if model.source == FACTS:
                    _merge_facts(session, connection, model)
                else:
                    _merge_derived(session, connection, model)
                changes[model.name] = session.stored_rows(model)
        return changes

    def _write(self, models: Sequence[Projection], changes: dict[str, Rows], start: int, until: int) -> None:
        with write_transaction(self._engine) as connection:
            for model in models:
                if not tables.advance(connection, model, start, until):
                    connection.rollback()  # another runner, or a rebuild, was faster: its rows are right
                    return
                tables.upsert(connection, model, changes[model.name])


def _merge_facts(session: ModelSession, connection: Connection, model: Projection) -> None:
    """Leave in `<name>__merged` the rows of every key that the facts touch, and in `<name>__before` what they were."""
    session.lift(model)
    keys = session.keys(quoted(f"{model.name}__partial"), model.key)
    if not keys:
        session.clear(model)
        return
    before = tables.current_rows(connection, model, model.key, keys)
    session.put(f"{model.name}__before", model.columns, before, like=quoted(f"{model.name}__merged"))
    session.add_partial(model, quoted(f"{model.name}__before"))
    session.merge(model)


def _merge_derived(session: ModelSession, connection: Connection, model: Projection) -> None:
    """The same for a model that counts another's rows, of which `<source>__merged` and `<source>__before` are at hand.

    A new row of the source is merged in. A row that changed in what the model reads of it may have made a maximum smaller,
    which no merge can undo: what it belonged to is counted anew from all its rows.
    """
    source = next(each for each in session.models if each.name == model.source)
    merged, before = quoted(f"{source.name}__merged"), quoted(f"{source.name}__before")
    on = " AND ".join(f"m.{quoted(name)} = b.{quoted(name)}" for name in source.key)
    differs = " OR ".join(f"m.{quoted(name)} IS DISTINCT FROM b.{quoted(name)}" for name in model.watched)
    keys = ", ".join(f"m.{quoted(name)}" for name in model.key)
    old_keys = ", ".join(f"b.{quoted(name)}" for name in model.key)
    session.connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE anew AS
        SELECT {keys} FROM {merged} m JOIN {before} b ON {on} WHERE {differs}
        UNION SELECT {old_keys} FROM {merged} m JOIN {before} b ON {on} WHERE {differs}"""
    )
    recount = session.keys("anew", model.key)
    view = quoted(source.name)
    using = ", ".join(quoted(name) for name in model.key)
    if recount:
        stored = tables.current_rows(connection, source, model.key, recount)
        session.put("stored", source.columns, stored, like=merged)
        session.connection.execute(
            f"""CREATE OR REPLACE TEMP VIEW {view} AS
            SELECT m.* FROM {merged} m SEMI JOIN anew USING ({using})
            UNION ALL BY NAME
            SELECT s.* FROM stored s SEMI JOIN anew USING ({using})
            ANTI JOIN {merged} m USING ({", ".join(quoted(name) for name in source.key)})"""
        )
        session.lift(model)
    session.connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW {view} AS
        SELECT m.* FROM {merged} m
        ANTI JOIN {before} b USING ({", ".join(quoted(name) for name in source.key)})
        ANTI JOIN anew USING ({using})"""
    )
    partial = quoted(f"{model.name}__partial")
    session.lift(model)
    touched = session.keys(f"(FROM {partial} ANTI JOIN anew USING ({using}))", model.key)
    present = tables.current_rows(connection, model, model.key, touched)
    session.put(f"{model.name}__before", model.columns, present, like=quoted(f"{model.name}__merged"))
    session.add_partial(model, quoted(f"{model.name}__before"))
    session.merge(model)
    session.connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS FROM {merged}")
