"""Hints that the log has grown: who waits for it, and what they are told by. A hint only ever shortens a wait.

Commits of a store's own writer are told at once. Those of other processes are heard on PostgreSQL's LISTEN, by one connection
a store however many wait, which is made anew whenever it breaks; on SQLite there is nothing to hear.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from eventstore.backoff import wait_after
from eventstore.log.announce import Line
from eventstore.log.engine import is_sqlite

BACK_OFF_SECONDS = (0.05, 0.5, 2.0, 10.0, 30.0)
"""Waits before the listening connection is made anew, the last one repeated; readers poll meanwhile."""
PROBE_SECONDS = 60.0
"""How often a connection that says nothing is asked whether it is there: a firewall may have forgotten it."""
CLOSING_SECONDS = 10.0
"""How long a store that is being closed waits for the reads of its tails that are under way."""

Ear = Callable[[int | None], None]
"""Told the position that the log is said to have grown to, or None: look for yourself. Called from any thread; must not wait."""

_log = logging.getLogger("eventstore.listen")


class Hints:
    """The hints of one store, and its tails' permission to read: once it is closing they must not open the database again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Entered again by a thread that collects garbage within it: an abandoned tail's end takes its ear away.
        self._lock = threading.RLock()
        self._unread = threading.Condition(self._lock)
        self._reads = 0
        self._ears: tuple[Ear, ...] = ()
        self._listening = 0
        self._listener: Listener | None = None
        self.closed = False

    def give(self, position: int | None) -> None:
        """Tell everyone who waits."""
        for ear in self._ears:
            ear(position)

    @contextmanager
    def heard_by(self, ear: Ear, *, listen: bool) -> Iterator[None]:
        """Within it the ear is told. `listen`: also of what other processes commit, where the database can tell."""
        listen = listen and not is_sqlite(self._engine)
        with self._lock:
            self._ears = (*self._ears, ear)
            if listen:
                self._listening += 1
                if self._listener is None and not self.closed:
                    self._listener = Listener(self._engine, self.give)
        try:
            yield
        finally:
            with self._lock:
                self._ears = tuple(other for other in self._ears if other is not ear)
                if listen:
                    self._listening -= 1
                    if not self._listening and self._listener is not None:
                        self._listener.stop()
                        self._listener = None

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Within it the database stays open. Gives False, and then nothing may be read, if the store is closing."""
        with self._lock:
            allowed = not self.closed
            self._reads += allowed
        try:
            yield allowed
        finally:
            with self._unread:
                self._reads -= allowed
                self._unread.notify_all()

    def close(self) -> None:
        """End all tails, and wait for their reads under way."""
        with self._unread:
            self.closed = True
            listener, self._listener = self._listener, None
            self.give(None)
            self._unread.wait_for(lambda: not self._reads, CLOSING_SECONDS)
        if listener is not None:
            listener.stop()
            listener.join()


class Listener:
    """Hears on PostgreSQL how far other processes have brought the log, in a thread of its own, until it is stopped."""

    def __init__(self, engine: Engine, heard: Callable[[int | None], None]) -> None:
        self._engine = engine
        self._heard = heard
        self._stopping = threading.Event()
        # Written to when the thread is to end, which otherwise sleeps on its connection.
        self._bell, self._bell_rope = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="eventstore-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end; returns at once."""
        self._stopping.set()
        self._bell_rope.close()

    def join(self) -> None:
        """Wait until it has ended; not for ever: it may stand still in making a connection."""
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stopping.is_set():
                try:
                    with Line(self._engine, "eventstore listener") as line:
                        self._listen(line)
                        failures = 0
                        # What was committed while there was nobody to hear it.
                        self._heard(None)
                        self._hear(line)
                except Exception as error:  # noqa: BLE001 - without hints readers poll
                    _log.debug("nothing is heard for now", extra={"reason": type(error).__name__})
                    self._stopping.wait(wait_after(failures, BACK_OFF_SECONDS))
                    failures += 1
        finally:
            self._bell.close()
            self._bell_rope.close()

    def _listen(self, line: Line) -> None:
        from psycopg import sql

        line.driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(line.channel)))

    def _hear(self, line: Line) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(line.driver.fileno(), selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if not selector.select(PROBE_SECONDS):
                    line.driver.execute("SELECT 1")
                for notification in line.driver.notifies(timeout=0):
                    if notification.channel == line.channel:
                        self._heard(_position(notification.payload))


def _position(payload: str) -> int | None:
    """The position in a notification. Anybody may send one: whatever it says, it is only a reason to look."""
    return int(payload) if payload.isascii() and payload.isdigit() and len(payload) < 20 else None
