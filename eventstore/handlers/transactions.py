"""The transaction in the store's database that a handler is given for one event: begun late, few at once, ended from either side.

So few are open at a time that the runner itself always finds a connection, and on SQLite its turn to write. A plain handler
waits in line for its transaction. An async one must not, or the event loop would stand still with the very call that it waits
for: its call is broken off, and made again once a transaction is set aside for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event

from eventstore.log.engine import is_sqlite, write_turn, writing

OPEN_AT_ONCE = 8
"""Transactions of handlers that are open at once on PostgreSQL, out of the 15 connections of a store."""
ENDING_SECONDS = 5.0
"""How long it may take to end a transaction whose handler was given up: a statement under way is broken off first."""
TRIES = 3
"""A statement that is broken off may take the one behind it along, so often at most."""

OVER = "the event is handled, or was given up; its transaction is over"
KEPT = "a handler must not commit event.transaction: that is done with the record that the event is handled, once it has returned"


class Busy(BaseException):
    """No transaction is free for a handler that must not wait. No error of the handler's, so that it does not catch it as one."""


class Slots:
    """So many transactions at once; who comes first has the next one."""

    def __init__(self, number: int) -> None:
        self._lock = threading.Lock()
        self._free = number
        self._waiting: deque[Future[None]] = deque()

    def take_at_once(self) -> bool:
        """Take one if one is free."""
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            return True

    def ticket(self) -> Future[None]:
        """Stand in line: done once a slot is the caller's. One that is not wanted any more goes back by `hand_back`."""
        found: Future[None] = Future()
        with self._lock:
            if not self._free:
                self._waiting.append(found)
                return found
            self._free -= 1
        found.set_result(None)
        return found

    def hand_back(self, ticket: Future[None]) -> None:
        """Leave the line, or give back what was got."""
        if not ticket.cancel():
            self.give_back()

    def give_back(self) -> None:
        """Leave a slot to the next in line."""
        with self._lock:
            while self._waiting:
                ticket = self._waiting.popleft()
                if ticket.set_running_or_notify_cancel():
                    ticket.set_result(None)
                    return
            self._free += 1


_slots: WeakKeyDictionary[Engine, Slots] = WeakKeyDictionary()
_making = threading.Lock()


def slots_of(engine: Engine) -> Slots:
    """The slots of an engine, the same for all the handlers that are run on it."""
    with _making:
        found = _slots.get(engine)
        if found is None:
            found = _slots[engine] = Slots(1 if is_sqlite(engine) else OPEN_AT_ONCE)
        return found


class EventTransaction:
    """See the module. One call's, opened when it is first asked for. `has_slot`: one is set aside for it already."""

    def __init__(self, engine: Engine, *, has_slot: bool = False) -> None:
        self._engine = engine
        self._slots = slots_of(engine)
        self._has_slot = has_slot
        self._opening = threading.Lock()
        self._closing = threading.Lock()
        self._lock = threading.Lock()
        self._over = False
        self._cut = False
        self._may_commit = False
        self._under_way = False
        self._connection: Connection | None = None
        self._driver: Any = None
        self._stack: ExitStack | None = None
        self._turn: ExitStack | None = None
        self._waiting_since: float | None = None
        self._waited = 0.0
        self.refused = False
        """Whether the handler was told that none is free."""
        self.misused = False
        """Whether the handler tried to commit it."""

    def waited(self) -> float:
        """Seconds in which the handler waited for its transaction, up to now."""
        since = self._waiting_since
        return self._waited + (0.0 if since is None else time.monotonic() - since)

    def connection(self, *, wait: bool) -> Connection:
        """The connection, inside its transaction. Raises RuntimeError once it is over, and Busy rather than `wait`."""
        with self._opening:
            if self._connection is None and not self._over:
                self._find_slot(wait)
                if self._over:
                    self._leave()
                    raise RuntimeError(OVER)
                try:
                    opened = self._open()
                except BaseException:
                    self._leave()
                    raise
                with self._lock:
                    if not self._over:
                        self._connection = opened
                if self._connection is None:
                    self.roll_back(RuntimeError(OVER))
            if self._connection is None or self._over:
                raise RuntimeError(OVER)
            return self._connection

    def commit(self, mark: Callable[[Connection], None]) -> bool:
        """Have `mark` write the last of it, and commit; False if there is nothing to commit. Raises what `mark` does, and the
        database's errors: what was not committed is to be rolled back then."""
        connection = self._finish()
        if connection is None:
            return False
        mark(connection)
        self._may_commit = True
        with self._closing:
            stack, self._stack = self._stack, None
            assert stack is not None
            try:
                stack.close()
            finally:
                self._leave()
        return True

    def roll_back(self, error: BaseException) -> None:
        """Let nothing of it stay."""
        self._finish()
        with self._closing:
            stack, self._stack = self._stack, None
            if stack is None:
                return
            try:
                # The error itself comes out again; a lost connection has rolled back.
                with suppress(BaseException):
                    if self.misused:
                        self._driver.rollback()  # SQLAlchemy takes a commit that was refused for one that was made
                with suppress(BaseException):
                    stack.__exit__(type(error), error, error.__traceback__)
            finally:
                self._leave()

    def cut(self) -> bool:
        """End it while its handler still runs, from another thread; False if that cannot be done.

        Whatever the handler still does with the connection fails. It is closed when the call ends.
        """
        self._cut = True
        if self._finish() is None:
            return True  # whoever opens it just now finds that it is over
        helper = threading.Thread(target=self._cut_off, name="eventstore-handler-cut", daemon=True)
        helper.start()
        helper.join(ENDING_SECONDS)
        return not helper.is_alive() and (self._stack is None or self._turn is None)

    def _finish(self) -> Connection | None:
        """Give it out no more; the connection if there is one."""
        with self._lock:
            self._over = True
            found = self._connection
        if found is None:
            self._leave()
        return found

    def _find_slot(self, wait: bool) -> None:
        if self._has_slot:
            return
        if not wait:
            if self.refused or not self._slots.take_at_once():
                self.refused = True
                raise Busy("no transaction is free; the handler is called again once one is")
        else:
            self._waiting_since = time.monotonic()
            try:
                self._slots.ticket().result()
            finally:
                self._waited, self._waiting_since = self.waited(), None
        self._has_slot = True

    def _open(self) -> Connection:
        turn = ExitStack()
        turn.enter_context(write_turn(self._engine))
        self._turn = turn
        with ExitStack() as stack:
            plain = stack.enter_context(self._engine.connect())
            connection = writing(plain).execution_options(eventstore_durable=True)
            stack.enter_context(connection.begin())
            event.listen(connection, "before_cursor_execute", self._begins)
            event.listen(connection, "after_cursor_execute", self._ends)
            event.listen(connection, "commit", self._commits)
            self._driver = connection.connection.driver_connection
            self._stack = stack.pop_all()
        return connection

    def _begins(self, *_: object) -> None:
        if self._cut:
            raise RuntimeError(OVER)
        self._under_way = True

    def _ends(self, *_: object) -> None:
        self._under_way = False

    def _commits(self, _connection: Connection) -> None:
        if not self._may_commit:
            self.misused = True
            raise RuntimeError(KEPT)

    def _leave(self) -> None:
        """Let others have their turn. Once, whoever is first."""
        with self._lock:
            turn, self._turn = self._turn, None
            had, self._has_slot = self._has_slot, False
        if turn is not None:
            turn.close()
        if had:
            self._slots.give_back()

    def _cut_off(self) -> None:
        with suppress(Exception), self._closing:
            connection = self._connection
            if self._stack is None or connection is None:
                return  # the call itself has just ended it
            # It never goes back among those that others are given, and counts as none of them.
            connection.detach()
            for attempt in range(TRIES):
                try:
                    _end(self._driver, is_sqlite(self._engine), under_way=self._under_way)
                    break
                except Exception:  # any of the driver's; it is tried again
                    if attempt == TRIES - 1:
                        raise
            self._leave()


def _end(driver: Any, sqlite: bool, *, under_way: bool) -> None:
    """Roll back what another thread has begun: both drivers let one statement after the other in."""
    if not sqlite:
        if driver.closed:
            return  # and so is the transaction, by the server
        if under_way:
            driver.cancel_safe(timeout=ENDING_SECONDS)
        driver.rollback()
        return
    if under_way:
        driver.interrupt()
    # Behind the rollback a statement would be committed at once.
    driver.execute("PRAGMA query_only = ON")
    driver.rollback()
