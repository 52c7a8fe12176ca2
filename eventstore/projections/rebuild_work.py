"""What is known of the rebuild under way, or of the last one: a row that it keeps for others to read, and to write a wish into.

The row informs; that there is but one rebuild is the lock's doing (`log.exclusive`). A row that speaks of a rebuild while nobody
holds the lock was left by a process that was killed: whoever notices clears up after it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import DBAPIError

from eventstore.errors import NotOwner, ProjectionError, RebuildAborted, RebuildUnderWay
from eventstore.log.engine import is_sqlite, sqlite_path, write_transaction
from eventstore.log.exclusive import Exclusive, worker_name
from eventstore.log.records import now
from eventstore.log.tables import projection_work
from eventstore.projections import shadows
from eventstore.projections.catalogue import Catalogue

WORK = "rebuild"
"""The name of the row, and of the lock."""
BEAT_SECONDS = 1.0
"""How often a rebuild writes down how far it is, and looks whether it is to stop."""
INSIST_SECONDS = 0.1
"""How often a rebuild that is to stop interrupts what DuckDB is doing for it."""
TAKE_SECONDS = 2.0
"""How long a rebuild waits for the lock, in case somebody only looked whether it is free."""
SPILL_PREFIX = "eventstore-rebuild-"
"""Begins the name of the folder for what a rebuild cannot hold in memory."""

RUNNING, DONE, FAILED, ABORTED, INTERRUPTED, DIED = "running", "done", "failed", "aborted", "interrupted", "died"
STAGES = ("read", "merge", "write", "catch_up", "swap")


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """The rebuild under way, or the last one. Times are UTC.

    `outcome` is `running`, `done`, `failed`, `aborted`, `interrupted` (Ctrl-C or SIGTERM) or `died` (killed). `position` of
    `head`: events of the log that are taken in; `rate`: of those a second; `eta_seconds`: until they all are, None where that
    cannot be told. `ended_at` is None while it runs. `message`: why it failed. `rows`: what it made, by projection.
    `abort_wanted`: it was asked to stop. `kept`: the tables that rebuilds have replaced and kept.
    """

    outcome: str
    worker: str
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    names: tuple[str, ...]
    from_original: bool
    stage: str
    position: int
    head: int
    rate: float
    eta_seconds: float | None
    abort_wanted: bool
    message: str | None
    rows: dict[str, int] | None
    kept: tuple[str, ...]

    @property
    def under_way(self) -> bool:
        """Whether it still runs."""
        return self.outcome == RUNNING


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is; its own thread sets it, and another writes it down."""

    stage: str
    position: int
    head: int
    rate: float


class RebuildWork:
    """The row of one rebuild, written by a thread of its own. Made by who holds the lock; begin it, and end it."""

    def __init__(self, engine: Engine, names: tuple[str, ...], *, from_original: bool, spill: Path, head: int) -> None:
        self._engine = engine
        self._worker = worker_name()
        self._started_at = now()
        self._state: dict[str, Any] = {
            "outcome": RUNNING,
            "names": list(names),
            "from_original": from_original,
            "abort": False,
            "spill": str(spill),
            "host": socket.gethostname(),
        }
        self.progress = Progress(STAGES[0], 0, head, 0.0)
        self.aborted = threading.Event()
        """Somebody has asked it to stop."""
        self._interrupt: Callable[[], None] | None = None
        self._interrupting = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="eventstore-rebuild-beat", daemon=True)

    def begin(self) -> None:
        """Write the row down for the first time, and again and again from then on."""
        with write_transaction(self._engine) as connection:
            connection.execute(projection_work.delete().where(projection_work.c.name == WORK))
            connection.execute(
                projection_work.insert().values(
                    name=WORK,
                    worker=self._worker,
                    started_at=self._started_at,
                    seen_at=self._started_at,
                    state=self._now(),
                )
            )
        self._thread.start()

    def interruptible_by(self, interrupt: Callable[[], None] | None) -> None:
        """What ends that which the rebuild's own thread waits for, once it is to stop; None: nothing does."""
        with self._interrupting:
            self._interrupt = interrupt

    @contextmanager
    def done(self, connection: Connection) -> Iterator[None]:
        """The block is the swap's transaction: whatever happens once it is committed, the rebuild is done."""
        ours = (projection_work.c.name == WORK) & (projection_work.c.started_at == self._started_at)
        state = {**self._now(), "outcome": DONE}
        connection.execute(update(projection_work).where(ours).values(seen_at=now(), state=state))
        # The row is locked now: the thread that writes it waits.
        self._state["outcome"] = DONE
        try:
            yield
        except BaseException:
            self._state["outcome"] = RUNNING
            raise

    def end(self, outcome: str, *, message: str | None = None, rows: dict[str, int] | None = None) -> None:
        """Write down how the rebuild ended, if the database can be written to."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._state["outcome"] == DONE != outcome:
            outcome = DONE
            message = (
                f"the new tables are in place; dropping those that they replaced was broken off ({message or 'Ctrl-C'})"
            )
        self._state |= {"outcome": outcome, "message": message, "rows": rows}
        with suppress(DBAPIError):
            self._write()

    def _now(self) -> dict[str, Any]:
        told = self.progress
        return self._state | {"stage": told.stage, "position": told.position, "head": told.head, "rate": told.rate}

    def _beat(self) -> None:
        while not self._ended.wait(INSIST_SECONDS if self.aborted.is_set() else BEAT_SECONDS):
            # What the database says must not end the rebuild: it will hear it itself, when it writes.
            with suppress(DBAPIError):
                if not self.aborted.is_set() and self._write():
                    self.aborted.set()
            with self._interrupting:
                if self.aborted.is_set() and self._interrupt is not None:
                    self._interrupt()

    def _write(self) -> bool:
        """Write the row; whether somebody has written into it that the rebuild is to stop."""
        with write_transaction(self._engine) as connection:
            ours = (projection_work.c.name == WORK) & (projection_work.c.started_at == self._started_at)
            found = connection.execute(select(projection_work.c.state).where(ours).with_for_update()).scalar()
            if found is None:
                return False
            self._state["abort"] = bool(found.get("abort"))
            connection.execute(update(projection_work).where(ours).values(seen_at=now(), state=self._now()))
        return bool(self._state["abort"])


def take(engine: Engine, lock: Exclusive) -> None:
    """Have the right to rebuild. Raises RebuildUnderWay, saying who has it and since when."""
    waited = threading.Event()
    for _ in range(round(TAKE_SECONDS / 0.1)):
        if lock.take():
            return
        with engine.connect() as connection:
            found = _row(connection)
        if found is not None and found.under_way:
            raise RebuildUnderWay(
                f"a rebuild is under way already: {found.worker}, since {found.started_at:%Y-%m-%d %H:%M:%S} UTC, "
                f"of {', '.join(found.names)}; `eventstore rebuild-projections --status` tells how far it is, --abort ends it"
            )
        waited.wait(0.1)
    raise RebuildUnderWay("a rebuild has just begun; `eventstore rebuild-projections --status` tells how far it is")


def rebuild_status(engine: Engine, catalogue: Catalogue) -> RebuildStatus | None:
    """The rebuild under way, or the last one; None before the first. Clears up after one that was killed."""
    clear_up(engine)
    with engine.connect() as connection:
        found = _row(connection)
    return None if found is None else replace(found, kept=tuple(shadows.kept(engine, catalogue)))


def abort_rebuild(engine: Engine, catalogue: Catalogue) -> RebuildStatus | None:
    """Ask the rebuild under way to stop, which it does within a second or two; what `rebuild_status` then says."""
    clear_up(engine)
    with write_transaction(engine) as connection:
        name = projection_work.c.name == WORK
        state = connection.execute(select(projection_work.c.state).where(name).with_for_update()).scalar()
        if state is not None and state["outcome"] == RUNNING:
            connection.execute(update(projection_work).where(name).values(state={**state, "abort": True}))
    return rebuild_status(engine, catalogue)


def drop_kept(engine: Engine, catalogue: Catalogue) -> list[str]:
    """Drop the tables that rebuilds have replaced and kept; their names. Raises RebuildUnderWay, NotOwner."""
    with Exclusive(engine, WORK) as lock:
        take(engine, lock)
        names = shadows.kept(engine, catalogue)
        shadows.drop(engine, names)
    return names


def clear_up(engine: Engine) -> bool:
    """Clear up after a rebuild that was killed, if there is one; whether there was. Cheap where there is none."""
    with engine.connect() as connection:
        found = _row(connection)
    if found is None or not found.under_way:
        return False
    with Exclusive(engine, WORK) as lock:
        try:
            if not lock.take():
                return False
            clear_after(engine)
        except (DBAPIError, NotOwner, OSError):
            # Not this login's or this process's to do: the next rebuild will.
            return False
    return True


def clear_after(engine: Engine) -> None:
    """Remove what a rebuild that was killed has left behind. For who holds the lock. Raises NotOwner."""
    with engine.connect() as connection:
        found = connection.execute(
            select(projection_work.c.state, projection_work.c.started_at).where(projection_work.c.name == WORK)
        ).first()
    left = shadows.shadows(engine)
    if left:
        shadows.drop(engine, left)
    _clear_spilled(engine, None if found is None else found.state)
    if found is None or found.state["outcome"] != RUNNING:
        return
    message = "its process was killed; nothing was changed, and what it left behind is cleared up"
    state = {**found.state, "outcome": DIED, "message": message}
    with write_transaction(engine) as connection:
        connection.execute(
            update(projection_work)
            .where(projection_work.c.name == WORK, projection_work.c.started_at == found.started_at)
            .values(state=state)
        )


def spill_folder(engine: Engine) -> Path:
    """A new folder for what does not fit into memory: beside a SQLite file, whose disk has room for its tables too; else wherever
    the system keeps what is temporary."""
    if not is_sqlite(engine):
        return Path(tempfile.mkdtemp(prefix=SPILL_PREFIX)).resolve()
    database = sqlite_path(engine)
    return Path(tempfile.mkdtemp(prefix=f"{SPILL_PREFIX}{database.name}-", dir=database.parent)).resolve()


def _clear_spilled(engine: Engine, state: dict[str, Any] | None) -> None:
    """Remove the folders of rebuilds that were killed, as far as this machine has them."""
    if is_sqlite(engine):
        database = sqlite_path(engine).resolve()
        prefix = f"{SPILL_PREFIX}{database.name}-"
        left = [each for each in database.parent.iterdir() if each.name.startswith(prefix)]
    elif state is not None and state["outcome"] == RUNNING and state["host"] == socket.gethostname():
        left = [spill for spill in [Path(state["spill"])] if spill.name.startswith(SPILL_PREFIX)]
    else:
        left = []
    for each in left:
        shutil.rmtree(each, ignore_errors=True)


def _row(connection: Connection) -> RebuildStatus | None:
    found = connection.execute(select(projection_work).where(projection_work.c.name == WORK)).first()
    if found is None:
        return None
    state = found.state
    running = state["outcome"] == RUNNING
    left = state["head"] - state["position"]
    reading = running and state["stage"] == STAGES[0] and state["rate"] > 0
    return RebuildStatus(
        outcome=state["outcome"],
        worker=found.worker,
        started_at=found.started_at,
        seen_at=found.seen_at,
        ended_at=None if running else found.seen_at,
        names=tuple(state["names"]),
        from_original=state["from_original"],
        stage=state["stage"],
        position=state["position"],
        head=state["head"],
        rate=state["rate"],
        eta_seconds=left / state["rate"] if reading else None,
        abort_wanted=state["abort"],
        message=state.get("message"),
        rows=state.get("rows"),
        kept=(),
    )


def outcome_of(error: BaseException) -> str:
    """How a rebuild that raised this has ended."""
    if isinstance(error, RebuildAborted):
        return ABORTED
    return FAILED if isinstance(error, Exception) else INTERRUPTED


def require_held(lock: Exclusive) -> None:
    """Raise ProjectionError if the right to rebuild was lost on the way: another rebuild may be at work."""
    if not lock.held:
        raise ProjectionError(
            "the lock that keeps other rebuilds out was lost with its connection; nothing was swapped: run the rebuild again"
        )
