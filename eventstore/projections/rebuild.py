"""Rebuilding projections from the whole log with the same models as the live runner, into shadow tables, then swapping.

The log is read in position order in pieces: while DuckDB lifts one, the next is being read. Partial rows pile up in DuckDB
(on disk past its memory limit) and are merged once, at the end. Ingestion, the live runner and readers go on all the while.
What was appended meanwhile is then merged into the shadow tables as the live runner does it, until little is left; that is
taken in by the transaction that swaps, while nobody can append. So no reader sees a position go back, or a row that is older
than its position says.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import DBAPIError

from eventstore.ahead import ahead
from eventstore.errors import ProjectionError, RebuildAborted
from eventstore.log import arrow
from eventstore.log.engine import is_unavailable, said, write_transaction
from eventstore.log.exclusive import Exclusive
from eventstore.log.reader import head
from eventstore.log.records import now
from eventstore.log.roles import require_owner
from eventstore.log.tables import dead_letters as letters
from eventstore.log.tables import log_head
from eventstore.log.tables import projection_checkpoints as checkpoints
from eventstore.projections import rebuild_work, tables
from eventstore.projections.catalogue import FACTS, Catalogue, Projection
from eventstore.projections.culprit import Culprit, culprit
from eventstore.projections.dead_letters import RETRIED, find_open, left_out, letter_of, park, reason_of
from eventstore.projections.duck import MEMORY_LIMIT, ModelSession, memory_bytes, quoted
from eventstore.projections.merging import Changes, merge, write
from eventstore.projections.originals import Reread, read_again, with_originals
from eventstore.projections.rebuild_work import Progress, RebuildWork
from eventstore.projections.shadows import Shadows, Writing

_Item = TypeVar("_Item")

PIECE_EVENTS = 100_000
"""Events read at a time: two pieces of documented size are in memory at once, about 250 MB."""
ORIGINALS_PIECE_EVENTS = 25_000
"""The same where their original deliveries are read with them."""
CATCH_UP_EVENTS = 1_000
"""Reading goes on while at least so many events were appended meanwhile."""
FEW_EVENTS = 500
"""Once so few are left the swap takes them in, while nobody can append: some tenths of a second."""
CATCH_UP_ROUNDS = 20
"""So often the head is run after before the swap takes in what is left however much it is: it may never be few."""
STEP_EVENTS = 20_000
"""Events merged into the shadow tables at a time once those are written."""
WRITE_ROWS = 10_000
"""Rows written to a shadow table in one transaction, for which on SQLite the log's writer waits; and those that DuckDB has ready
in one piece, some 15 MB of the widest table."""
SWAP_ATTEMPTS = 60
SWAP_PAUSE_SECONDS = 1.0
"""How often the swap is tried, and how long it waits after a failure, outside any transaction: readers that take long, or a
database that is busy, must neither cost the whole work nor keep others from appending."""


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far a rebuild is: what of `stage` (read, merge, write, catch_up or swap) is done. Positions count events of the log."""

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
    """What a rebuild did: rows by projection, the events it took in and how long each stage took, in seconds.

    `reread`: what reading the original deliveries came to, if it was asked for.
    """

    rows: dict[str, int]
    position: int
    seconds: float
    stages: dict[str, float]
    reread: Reread | None = None


def rebuild_projections(
    engine: Engine,
    catalogue: Catalogue,
    names: tuple[str, ...] = (),
    *,
    from_original: bool = False,
    keep: bool = True,
    memory_limit: str = MEMORY_LIMIT,
    on_progress: Callable[[RebuildProgress], None] | None = None,
) -> RebuildResult:
    """Rebuild the named projections (none named: all) and those that hang together with them.

    `from_original`: of what today's readers make of each original delivery, not of what the log says they made of it when it
    came. `keep`: the tables that are replaced stay, as NAME__old, until the next rebuild. `memory_limit`: DuckDB's, as "512MB";
    what it cannot hold goes to disk.

    Raises NotFound for an unknown name, InputError for a wrong limit, NotOwner, RebuildUnderWay if another process is at it,
    RebuildAborted if it was asked to stop, and ProjectionError for an event that a model cannot take. Whatever it raises,
    KeyboardInterrupt too, the tables are then as they were.
    """
    memory_bytes(memory_limit)
    models = catalogue.with_dependents(names)
    require_owner(engine)
    with Exclusive(engine, rebuild_work.WORK) as lock:
        rebuild_work.take(engine, lock)
        rebuild_work.clear_after(engine)
        tables.ensure(engine, catalogue)
        spill = rebuild_work.spill_folder(engine)
        try:
            work = RebuildWork(
                engine,
                tuple(model.name for model in models),
                from_original=from_original,
                spill=spill,
                head=head(engine),
            )
            try:
                work.begin()
                session = _Sessions(models, memory_limit, spill, work)
                rebuild = _Rebuild(engine, catalogue, models, work, lock, session, from_original, keep, on_progress)
                result = _explained(rebuild.run, work)
            except BaseException as error:
                work.end(rebuild_work.outcome_of(error), message=str(error) or None)
                raise
            work.end(rebuild_work.DONE, rows=result.rows)
            return result
        finally:
            shutil.rmtree(spill, ignore_errors=True)


def _explained(run: Callable[[], RebuildResult], work: RebuildWork) -> RebuildResult:
    try:
        return run()
    except (duckdb.Error, pa.ArrowException) as error:
        if work.aborted.is_set():
            raise _aborted() from error
        raise ProjectionError(
            f"a model could not be run over the log: {reason_of(error)}; the old tables stay"
        ) from error
    except DBAPIError as error:
        raise ProjectionError(f"the rebuilt tables could not be written: {said(error)}; the old ones stay") from error


def _aborted() -> RebuildAborted:
    return RebuildAborted("the rebuild was asked to stop, and has; the tables are as they were")


class _Sessions:
    """Makes the DuckDB sessions of a rebuild, one after the other, each of which can be interrupted."""

    def __init__(self, models: Sequence[Projection], memory_limit: str, spill: Path, work: RebuildWork) -> None:
        self._models = models
        self._memory_limit = memory_limit
        self._spill = spill
        self._work = work

    @contextmanager
    def one(self) -> Iterator[ModelSession]:
        session = ModelSession(self._models, memory_limit=self._memory_limit, temp_directory=str(self._spill))
        self._work.interruptible_by(session.connection.interrupt)
        try:
            yield session
        finally:
            self._work.interruptible_by(None)
            session.close()


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive rows of the log: their last position, and the head that reading is bound for."""

    position: int
    head: int
    rows: pa.Table
    reread: Reread | None


@dataclass(frozen=True, slots=True)
class _Change:
    """What a piece changes of a projection, and how many rows more that has then."""

    model: Projection
    made: Changes
    more: int


class _Rebuild:
    """One rebuild under way."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        models: tuple[Projection, ...],
        work: RebuildWork,
        lock: Exclusive,
        sessions: _Sessions,
        from_original: bool,
        keep: bool,
        on_progress: Callable[[RebuildProgress], None] | None,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._models = models
        self._roots: dict[str, list[Projection]] = {}
        for model in models:
            self._roots.setdefault(catalogue.root(model), []).append(model)
        self._work = work
        self._lock = lock
        self._sessions = sessions
        self._keep = keep
        self._on_progress = on_progress
        self._reread = Reread() if from_original else None
        self._shadows = Shadows(engine, models)
        self._started = time.monotonic()
        self._stages: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._position = 0
        with engine.connect() as connection:
            self._skipped = self._now_skipped(connection)

    def run(self) -> RebuildResult:
        try:
            self._make()
            with self._sessions.one() as session:
                self._begin("catch_up")
                with self._stage("catch_up"):
                    self._catch_up(session)
                    self._require_counts()
                self._tell("catch_up", self._position)
                self._begin("swap")
                with self._stage("swap"):
                    self._swap_patiently(session)
        finally:
            # Also what the swap has replaced.
            self._shadows.drop()
        self._tell("swap", self._position, may_stop=False)
        return RebuildResult(
            dict(self._rows), self._position, time.monotonic() - self._started, self._stages, self._reread
        )

    # From the beginning of the log

    def _make(self) -> None:
        """Fill the shadow tables with all that the log held when reading had come to its end."""
        with self._sessions.one() as session:
            with closing(ahead(self._pieces())) as pieces:
                while (piece := self._next(pieces)) is not None:
                    self._blaming(partial(self._lift, session, piece), piece.rows)
                    self._take(piece)
                    self._tell("read", piece.head)
            self._begin("merge")
            for model in self._models:
                self._shadows.make(model)
                self._rows[model.name] = 0
                parts = session.merge_in_parts(model)
                with self._shadows.writing(model) as writing:
                    while self._blaming(partial(self._merge, session, model, parts)):
                        self._tell("merge", self._position)
                        self._begin("write")
                        with self._stage("write"):
                            self._write(session, model, writing)
                        self._begin("merge")
                self._shadows.index(model)
        self._tell("write", self._position)

    def _next(self, pieces: Iterator[_Piece]) -> _Piece | None:
        with self._stage("read"):
            return next(pieces, None)

    def _lift(self, session: ModelSession, piece: _Piece) -> None:
        for models in self._loaded(session, piece.rows):
            with self._stage("lift"):
                for model in models:
                    if model.source == FACTS:
                        session.lift(model)
        session.drop_facts()

    def _merge(self, session: ModelSession, model: Projection, parts: Iterator[None]) -> bool:
        """Merge the next part of the model's keys, and lift it for those that are made of it; whether there was one."""
        with self._stage("merge"):
            try:
                next(parts)
            except StopIteration:
                return False
            for each in self._models:
                if each.source == model.name:
                    session.lift(each)
        return True

    def _write(self, session: ModelSession, model: Projection, writing: Writing) -> None:
        """Write the part that is merged."""
        # In key order, for then every row goes to the end of the table's B-tree.
        ordered = _batches(session, session.stored_query(model, ordered=True))
        with closing(ahead(map(writing.prepare, ordered))) as pieces:
            for piece in pieces:
                writing.write(piece)
                self._stop_if_aborted()
        self._rows[model.name] += session.count(quoted(f"{model.name}__merged"))

    # What was appended meanwhile

    def _catch_up(self, session: ModelSession) -> None:
        """Run after the head until little is left."""
        for _ in range(CATCH_UP_ROUNDS):
            last = head(self._engine)
            if last - self._position <= FEW_EVENTS:
                return
            while self._position < last:
                piece = self._read(self._position, min(self._position + STEP_EVENTS, last), last)
                self._blaming(partial(self._take_in, session, piece), piece.rows)
                self._take(piece)
                self._tell("catch_up", last)

    def _take_in(self, session: ModelSession, piece: _Piece) -> None:
        with self._engine.connect() as connection:
            changed = self._changes(session, connection, piece)
        for each in changed:
            # Nobody reads the shadows: their rows need not come together.
            for start in range(0, max(len(each.made.rows), 1), WRITE_ROWS):
                part = Changes(each.made.rows[start : start + WRITE_ROWS], each.made.gone if start == 0 else [])
                with write_transaction(self._engine) as connection:
                    write(connection, each.model, part, name=self._shadows.names[each.model.name])
        self._count(changed)

    def _changes(self, session: ModelSession, connection: Connection, piece: _Piece) -> list[_Change]:
        """What the piece changes in the shadow tables."""
        found = []
        for models in self._loaded(session, piece.rows):
            for model in models:
                made = merge(session, tables.stored_by(connection, self._shadows.names), model)
                merged, before = quoted(f"{model.name}__merged"), quoted(f"{model.name}__before")
                found.append(_Change(model, made, session.count(merged) - session.count(before)))
        return found

    def _count(self, changed: list[_Change]) -> None:
        for each in changed:
            self._rows[each.model.name] += each.more

    def _require_counts(self) -> None:
        """Raise ProjectionError unless the shadow tables hold as many rows as were made."""
        for model in self._models:
            written = self._shadows.count(model)
            if written != self._rows[model.name]:
                raise ProjectionError(
                    f"the rebuilt {model.name} holds {written} rows where {self._rows[model.name]} were made; "
                    "nothing was swapped: run the rebuild again"
                )

    # The swap

    def _swap_patiently(self, session: ModelSession) -> None:
        for attempt in range(SWAP_ATTEMPTS):
            rebuild_work.require_held(self._lock)
            try:
                self._swap(session)
            except DBAPIError as error:
                if attempt == SWAP_ATTEMPTS - 1 or not is_unavailable(error):
                    raise
                time.sleep(SWAP_PAUSE_SECONDS)
                self._stop_if_aborted()
                self._catch_up(session)
            else:
                return

    def _swap(self, session: ModelSession) -> None:
        piece, changed = None, list[_Change]()
        with write_transaction(self._engine) as connection, self._work.done(connection):
            # The checkpoints first and in this order, as the live runner does: locks taken in one order cannot deadlock.
            for model in self._models:
                name = checkpoints.c.name == model.name
                connection.execute(select(checkpoints.c.position).where(name).with_for_update())
            # Then the head. Now that it stands still, a step of the live runner that is under way began below it, from rows of
            # the old tables; it will find its checkpoint moved. And no checkpoint can be beyond it.
            last = connection.execute(select(log_head.c.size).with_for_update()).scalar_one()
            if self._now_skipped(connection) != self._skipped:
                raise ProjectionError(
                    "a dead letter was skipped or retried during the rebuild; nothing was swapped: run the rebuild again"
                )
            if last > self._position:
                piece = self._read(self._position, last, last)
                changed = self._blaming(partial(self._changes, session, connection, piece), piece.rows)
                for each in changed:
                    write(connection, each.model, each.made, name=self._shadows.names[each.model.name])
            self._shadows.swap(connection, keep=self._keep)
            at = now()
            for model in self._models:
                tables.set_checkpoint(connection, model, last, at=at)
            connection.execute(
                update(letters)
                .where(letters.c.projection.in_(self._roots), letters.c.resolved_at.is_(None))
                .values(resolved_at=now(), resolution=RETRIED, note="a rebuild has taken it in")
            )
        self._count(changed)
        if piece is not None:
            self._take(piece)

    # Pieces of the log

    def _pieces(self) -> Iterator[_Piece]:
        """The log in pieces, in order, to its head and on until little has been appended meanwhile."""
        size = PIECE_EVENTS if self._reread is None else min(PIECE_EVENTS, ORIGINALS_PIECE_EVENTS)
        after, last = 0, head(self._engine)
        while after < last:
            until = min(after + size, last)
            yield self._read(after, until, last)
            after = until
            if after == last:
                grown = head(self._engine)
                last = grown if grown - last >= CATCH_UP_EVENTS else last

    def _read(self, after: int, until: int, last: int) -> _Piece:
        if self._reread is None:
            with arrow.event_batches(self._engine, after=after, until=until) as batches:
                return _Piece(until, last, batches.read_all(), None)
        with with_originals(self._engine, after=after, until=until) as batches:
            kept = batches.read_all()
        rows, told = read_again(kept)
        return _Piece(until, last, rows, told)

    def _take(self, piece: _Piece) -> None:
        """The piece is in the tables."""
        self._position = piece.position
        if self._reread is not None and piece.reread is not None:
            self._reread.add(piece.reread)

    def _loaded(self, session: ModelSession, rows: pa.Table) -> Iterator[list[Projection]]:
        """The models by what they are made from, and for each the facts loaded without the events that it leaves out."""
        first, last = (rows["position"][at].as_py() for at in (0, -1))
        loaded: frozenset[int] | None = None
        for root, models in self._roots.items():
            out = frozenset(each for each in self._skipped[root] if first <= each <= last)
            if out != loaded:
                with self._stage("facts"):
                    session.load_facts(arrow.without_positions(rows, out))
                loaded = out
            yield models

    def _now_skipped(self, connection: Connection) -> dict[str, frozenset[int]]:
        """The events that are left out for good, by the projection from facts that leaves them out."""
        return {
            root: frozenset(each.position for each in left_out(connection, root) if each.skipped)
            for root in self._roots
        }

    def _blaming(self, work: Callable[[], _Item], rows: pa.Table | None = None) -> _Item:
        """Do the work; if a model cannot take an event of these rows (none given: of the log), raise the error that names it."""
        try:
            return work()
        except duckdb.Error as error:
            if self._work.aborted.is_set():
                raise
            pieces: Iterator[pa.Table] = (piece.rows for piece in self._pieces()) if rows is None else iter([rows])
            for piece in pieces:
                for root, models in self._roots.items():
                    named = culprit(models, arrow.without_positions(piece, self._skipped[root]))
                    if named is not None:
                        raise ProjectionError(f"{named}; the old tables stay{self._letter(root, named)}") from error
            raise

    def _letter(self, root: str, named: Culprit) -> str:
        """How the event can be left out: by a dead letter, which nobody has written if no live runner follows the projection."""
        with write_transaction(self._engine) as connection:
            number = find_open(connection, root, named.position)
            if number is None:
                followed = tables.followed(tables.read_checkpoints(connection), self._catalogue)
                if root in {model.name for model in followed}:
                    return ""
                park(connection, letter_of(connection, root, named.position, named.reason))
                number = find_open(connection, root, named.position)
        return f"; `eventstore dead-letters skip {number}` leaves it out, saying why: then run this again"

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        since = time.monotonic()
        yield
        self._stages[name] = self._stages.get(name, 0.0) + time.monotonic() - since

    def _begin(self, stage: str) -> None:
        self._work.progress = replace(self._work.progress, stage=stage)

    def _tell(self, stage: str, head_position: int, *, may_stop: bool = True) -> None:
        """So much of a stage is done."""
        told = RebuildProgress(stage, self._position, head_position, time.monotonic() - self._started)
        self._work.progress = Progress(stage, self._position, head_position, told.rate)
        if may_stop:
            self._stop_if_aborted()
        if self._on_progress is not None:
            self._on_progress(told)

    def _stop_if_aborted(self) -> None:
        if self._work.aborted.is_set():
            raise _aborted()


def _batches(session: ModelSession, query: str) -> Iterator[pa.RecordBatch]:
    """The query's result. Raises duckdb.Error."""
    try:
        yield from session.connection.sql(query).to_arrow_reader(WRITE_ROWS)
    except OSError as error:
        # All that Arrow knows of what DuckDB says in the midst of a result.
        raise duckdb.Error(str(error)) from error
