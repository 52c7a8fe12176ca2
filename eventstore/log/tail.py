"""Reading the log while it grows: every event in order, then waiting for more.

A tail polls, and that alone makes it complete: positions become visible in order and without gaps, because writers take turns
on the head row, so what stands above the last position read is what is new. Hints (see `hints.py`) only wake it sooner. While
the database is away a tail waits for it, longer each time, and then goes on where it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from eventstore.backoff import wait_after
from eventstore.errors import InputError, StoreUnavailable
from eventstore.log import reader
from eventstore.log.engine import is_away, is_sqlite
from eventstore.log.hints import Hints
from eventstore.log.reader import Filter
from eventstore.log.records import RecordedEvent

POLL_SECONDS = 0.25
"""How often a tail looks at PostgreSQL, where hints tell of other processes' commits."""
SQLITE_POLL_SECONDS = 0.05
"""The same for a SQLite file, whose other writers nothing tells of; a look reads one row of it."""
BACK_OFF_SECONDS = (0.1, 0.5, 2.0, 5.0)
"""Waits while the database cannot be used, the last one repeated."""
STOP_SECONDS = 0.05
"""How soon a waiting tail sees that it is to stop."""

Stop = threading.Event | Callable[[], bool]
"""How a caller ends a tail from elsewhere: an event that is set, or a function that says True."""

_log = logging.getLogger("eventstore.tail")


class Tail:
    """Where one reader of a growing log is, and how long it may rest. It never waits itself: see `pages`, and `aio` for loops.

    Raises InputError for a number that makes no sense, StoreUnavailable if the store is closed already.
    """

    def __init__(
        self,
        engine: Engine,
        hints: Hints,
        wanted: Filter = Filter(),  # noqa: B008 - an immutable value
        *,
        after: int = 0,
        page: int = reader.PAGE_EVENTS,
        idle_timeout: float | None = None,
        stop: Stop | None = None,
        poll: float | None = None,
        listen: bool = True,
    ) -> None:
        if poll is None:
            poll = SQLITE_POLL_SECONDS if is_sqlite(engine) else POLL_SECONDS
        if after < 0:
            raise InputError(f"after: {after} is no position; 0 is before the first event")
        if page < 1:
            raise InputError(f"page: a page of {page} events would never tell anything; give 1 or more")
        if poll <= 0:
            raise InputError(f"poll: {poll} s between two looks at the log; give more than 0")
        if idle_timeout is not None and idle_timeout < 0:
            raise InputError(f"idle_timeout: {idle_timeout} s; give 0 or more, or None to wait for ever")
        if hints.closed:
            raise StoreUnavailable("the store is closed; open it anew to read on")
        self.position = after
        self._engine = engine
        self._hints = hints
        self._wanted = wanted
        self._page = page
        self._idle_timeout = idle_timeout
        self._stop = stop.is_set if isinstance(stop, threading.Event) else stop
        self._poll = poll
        self._listen = listen and idle_timeout != 0
        self._quiet_since: float | None = None
        self._failures = 0
        self._rest = 0.0

    def woken_by_growth(self, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """Within it `wake` is called, from any thread, when there may be something new, or the store is closed."""

        def ear(position: int | None) -> None:
            if position is None or position > self.position:
                wake()

        return self._hints.heard_by(ear, listen=self._listen)

    def read(self) -> list[RecordedEvent]:
        """The next page of the wanted events; [] when there is nothing new, the store is closed or the database away.

        Raises what the database says, unless it is only that it cannot be used now.
        """
        with self._hints.reading() as allowed:
            if not allowed:
                return []
            try:
                found = reader.advance(self._engine, self._wanted, after=self.position, limit=self._page)
            except (DBAPIError, NoConnectionFree) as error:
                self._note_outage(error)
                return []
        if self._failures:
            _log.info("the log can be read again", extra={"position": self.position})
            self._failures = 0
        self.position = found.position
        self._rest = self._poll if found.position >= found.head else 0.0
        return found.records

    def rest(self, *, delivered: bool) -> float | None:
        """Seconds to wait before the next read, 0 when there is more to be read at once; None: this was the end.

        `delivered`: the read gave events, and whoever asked for them has had the time to deal with them. Raises
        StoreUnavailable where the idle time is up while the database is away: that is no end of the log.
        """
        now = time.monotonic()
        if delivered or self._quiet_since is None:
            self._quiet_since = now
        if self._hints.closed or self.stopped:
            return None
        if self._rest and self._idle_timeout is not None:
            left = self._quiet_since + self._idle_timeout - now
            if left <= 0 and self._failures:
                raise StoreUnavailable(f"the log could not be read on from position {self.position}; try again later")
            return min(self._rest, left) if left > 0 else None
        return self._rest

    @property
    def stopped(self) -> bool:
        """Whether the caller has said from elsewhere that it is enough."""
        return self._stop is not None and self._stop()

    @property
    def watched(self) -> bool:
        """Whether somebody may say so, so that a wait has to be cut into pieces of STOP_SECONDS."""
        return self._stop is not None

    def _note_outage(self, error: DBAPIError | NoConnectionFree) -> None:
        if not is_away(error):
            raise error
        if not self._failures:
            reason = type(getattr(error, "orig", None) or error).__name__
            _log.warning("the log cannot be read for now", extra={"reason": reason, "position": self.position})
        self._rest = wait_after(self._failures, BACK_OFF_SECONDS)
        self._failures += 1


def pages(tail: Tail) -> Generator[list[RecordedEvent], None, None]:
    """The pages of a tail, none of them empty; in the calling thread, which sleeps while there is nothing new."""
    woken = threading.Event()
    with tail.woken_by_growth(woken.set):
        while not tail.stopped:
            # First this, so that a commit while the log is being read is looked for.
            woken.clear()
            found = tail.read()
            if found:
                yield found
            rest = tail.rest(delivered=bool(found))
            if rest is None:
                return
            _sleep(tail, woken, rest)


def records(found: Generator[list[RecordedEvent], None, None]) -> Iterator[RecordedEvent]:
    """The same, event by event."""
    with closing(found):
        for page in found:
            yield from page


def _sleep(tail: Tail, woken: threading.Event, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not tail.stopped:
        if woken.wait(min(left, STOP_SECONDS) if tail.watched else left):
            return
