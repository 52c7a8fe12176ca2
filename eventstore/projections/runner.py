"""The live runner: takes what the log has gained into the projections, each event exactly once.

Of all processes that could follow a store's log one does, and the others stand by; whoever wants to may catch up as well, for
two that take the same step do it once (`step.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from eventstore.backoff import wait_after
from eventstore.errors import ProjectionError, StoreUnavailable
from eventstore.log.engine import said
from eventstore.projections import tables
from eventstore.projections.catalogue import Catalogue, projections
from eventstore.projections.leader import LOOK_SECONDS, Leader
from eventstore.projections.step import Stepper

STEP_EVENTS = 50_000
"""Events in one step at most: its fixed cost, and the rows that it reads and writes again, are shared by so many that 50,000
take 1.1 s of work where ten steps take 2.9 (and a rebuild 1.7). It takes 120 MB more than those."""
LIVE_STEP_EVENTS = 5_000
"""Events in one step of the runner's own thread, beside which others append: they wait for a SQLite file no longer than its
rows take to be written, a tenth of a second rather than half a second."""
POLL_SECONDS = 0.25
"""How often the runner looks for events that another process appended; its own process wakes it at once."""
REST = 2.0
"""How many times as long as a step took the runner rests after it. A step costs much the same for one event as for a hundred,
so that without rest it would take much of the machine from those who append."""
REST_SECONDS = 0.35
"""The longest rest: with it an event waits for less than a second on SQLite, and for a second and a half on PostgreSQL, while a
thousand come in each. Whoever waits for a position ends it at once."""
BACK_OFF_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Waits after a failed step, the last one repeated."""


class Runner:
    """Steps the projections of one engine. `catch_up` may be called from any thread; steps are taken one at a time."""

    def __init__(self, engine: Engine, catalogue: Catalogue) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._stepper = Stepper(engine, catalogue)
        self._wake = threading.Event()
        self._awaited = threading.Event()
        self._moved = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._stuck: dict[str, _Stuck] = {}
        self.last_error: str | None = None
        self.leads = False
        """Whether this runner's thread follows the log, rather than stand by."""
        self.on_wait: Callable[[], None] | None = None
        """Called while somebody waits for a position: tells the process that follows the log, if it is another."""

    def catch_up(self, *, on_progress: Callable[[int, int], None] | None = None, step_events: int | None = None) -> int:
        """Take in everything the log holds now; returns the position reached. `on_progress(position, head)` after each step.

        A step takes in at most `step_events` events (default: STEP_EVENTS). A runner that is being stopped ends after the
        step under way. Raises ProjectionError where a projection cannot go on, once all the others have.
        """
        position, failed = self._catch_up(step_events or STEP_EVENTS, on_progress=on_progress)
        for error in failed.values():
            raise error
        return position

    def _catch_up(
        self,
        step_events: int,
        *,
        without: Collection[str] = (),
        on_progress: Callable[[int, int], None] | None = None,
    ) -> tuple[int, dict[str, ProjectionError]]:
        """The position reached by all but the groups named in `without` and those that failed, and why these did."""
        failed: dict[str, ProjectionError] = {}
        while True:
            try:
                with self._lock:
                    step = self._stepper.step(min(step_events, STEP_EVENTS), without={*without, *failed})
            except DBAPIError as error:
                raise StoreUnavailable(f"the projections could not follow the log: {said(error)}") from error
            failed |= step.failed
            with self._moved:
                self._moved.notify_all()
            if on_progress is not None:
                on_progress(step.position, step.head)
            if step.position >= step.head or self._stopping.is_set():
                return step.position, failed

    def position(self, names: Sequence[str] = ()) -> int:
        """The position up to which the named projections have taken the log in.

        None named: all that every store has, and those of your own that are followed; one that was never built does not hold
        the others back.
        """
        with self._engine.connect() as connection:
            found = tables.read_checkpoints(connection)
        if not names:
            followed = {model.name for model in tables.followed(found, self._catalogue)}
            names = [*{model.name for model in projections()} | followed]
        return min((found[name].position if name in found else 0 for name in names), default=0)

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
            self._stepper.close()

    def wait(self, position: int, timeout: float = 10.0, *, names: Sequence[str] = ()) -> bool:
        """Wait until projections (see `position`) have taken in `position` (read your own writes); False when the time is up.

        Whichever process follows the log.
        """
        deadline = time.monotonic() + timeout
        while self.position(names) < position:
            self.hurry()
            if self.on_wait is not None:
                self.on_wait()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._moved:
                self._moved.wait(min(left, 0.05))
        return True

    # The thread

    def _run(self) -> None:
        leader = Leader(self._engine)
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    self.leads = leader.leads()
                    if self.leads:
                        self._follow(leader)
                    else:
                        self._stuck.clear()
                        self.last_error = None
                        self._stopping.wait(LOOK_SECONDS)
                    failures = 0
                except _Lost:
                    continue
                except Exception as error:  # noqa: BLE001 - the thread must outlive a locked database or a full disk
                    self.last_error = f"{type(error).__name__}: {error}"
                    # Not on `_wake`: each commit would end the wait, and a model that fails would take a core.
                    self._stopping.wait(wait_after(failures, BACK_OFF_SECONDS))
                    failures += 1
        finally:
            self.leads = False
            with suppress(Exception):
                leader.release()

    def _follow(self, leader: Leader) -> None:
        """Take in what there is, and rest; of a group that could not go on last time, only once it is due."""
        self._wake.wait(POLL_SECONDS)
        self._wake.clear()
        if self._stopping.is_set():
            return
        started = time.monotonic()
        self._awaited.clear()
        resting = {root for root, stuck in self._stuck.items() if started < stuck.due}
        position, failed = self._catch_up(
            LIVE_STEP_EVENTS, without=resting, on_progress=lambda reached, _head: self._go_on(leader, reached)
        )
        for root in {*self._stuck} - resting - {*failed}:
            del self._stuck[root]
        for root, error in failed.items():
            times = self._stuck[root].times + 1 if root in self._stuck else 0
            due = time.monotonic() + wait_after(times, BACK_OFF_SECONDS)
            self._stuck[root] = _Stuck(times, due, f"{type(error).__name__}: {error}")
        self.last_error = next((stuck.error for stuck in self._stuck.values()), None)
        self._go_on(leader, position)
        self._awaited.wait(min(REST * (time.monotonic() - started), REST_SECONDS))

    @staticmethod
    def _go_on(leader: Leader, position: int) -> None:
        """Tell how far it is. Raises _Lost where another process may follow: a backlog takes long."""
        leader.moved(position)
        if not leader.leads():
            raise _Lost


class _Lost(Exception):
    """The right to follow is no longer this process's."""


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A group that cannot go on: how often it has been tried again, when it is due (monotonic), and why."""

    times: int
    due: float
    error: str
