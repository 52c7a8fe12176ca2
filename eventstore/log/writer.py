"""The group-commit writer: one thread a store, many callers, one fsync for all that is waiting.

Callers hand over prepared events and get a future; the thread takes what has queued and appends it in one transaction, beside
which no other appends (`batch.py` says what becomes of each entry). Only once that is committed are the futures resolved.
Serialising writers on the head row gives positions without gaps in commit order, so that a reader that tails the log can
never skip an event; it costs one lock a batch, not an event.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from eventstore.errors import EventStoreError, StoreUnavailable
from eventstore.log.batch import Batches, Entry, evidence
from eventstore.log.engine import said, write_transaction
from eventstore.log.partitions import is_out_of_partitions
from eventstore.log.records import Outcome, Prepared, Rejected, finish
from eventstore.log.tables import event_keys

BATCH_EVENTS = 2_000
"""Events in one transaction at most: far past the point where the commit's cost is spread, short enough (about 0.1 s) to keep
the lock from others."""
BATCH_PAUSE = 0.001
"""Seconds after which the writer looks whether more callers have come; while they do, it waits on. Callers answered together
come back together, and without the wait the first of them would be committed alone. A lone caller never waits."""
BATCH_AGE = 0.015
"""Seconds that it waits at most for more callers: a commit costs its time, and the interpreter's, whatever it holds."""
QUEUE_EVENTS = 20_000
"""Events waiting at most, about two seconds of work; past that, callers are told to come again (`StoreUnavailable`)."""
QUEUE_BYTES = 256 * 1024 * 1024
"""Payload and original bytes waiting at most: bounds memory when events are large."""
FULL_SECONDS = 60.0
"""When to come again while there is no partition for the next event: somebody has to make one."""
LOCK_SECONDS = 3.0
"""How long a batch that another process's lock made fail at once is tried again."""

_log = logging.getLogger("eventstore.writer")


@dataclass(slots=True)
class _Request:
    entries: Sequence[Entry]
    size: int
    future: Future[list[Outcome]]


def _weight(entries: Sequence[Entry]) -> int:
    total = 0
    for entry in entries:
        if isinstance(entry, Prepared):
            total += len(entry.payload) + (len(entry.original) if entry.original is not None else 0)
        else:
            total += len(entry.body)
    return total


class Writer:
    """Appends to the log of one engine. Thread-safe; close it to drain what waits.

    `on_commit(position)` is called from the writer's thread after each commit that appended something.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_commit: Callable[[int], None] | None = None,
        batch_events: int = BATCH_EVENTS,
        batch_age: float = BATCH_AGE,
        batch_pause: float = BATCH_PAUSE,
        queue_events: int = QUEUE_EVENTS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._engine = engine
        self._batches = Batches(engine)
        self._on_commit = on_commit
        self._batch_events = batch_events
        self._batch_age = batch_age
        self._batch_pause = batch_pause
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._waiting: deque[_Request] = deque()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._idle = False
        self._thread: threading.Thread | None = None

    def submit(self, entries: Sequence[Entry]) -> Future[list[Outcome]]:
        """Queue entries as one piece; the future gives one outcome each, in order, once they are durable.

        Raises StoreUnavailable at once when too much is waiting or the store is closing; the future may raise it too.
        """
        request = _Request(entries, _weight(entries), Future())
        # Never cancelled: a caller that no longer waits (a web client gone) must not keep the writer from answering.
        request.future.set_running_or_notify_cancel()
        if not entries:
            request.future.set_result([])
            return request.future
        with self._changed:
            if self._closing:
                raise StoreUnavailable("the store is closing; send the event again")
            full = self._waiting_events + len(entries) > self._queue_events or (
                self._waiting_bytes + request.size > self._queue_bytes
            )
            if full and self._waiting:
                raise StoreUnavailable(f"{self._waiting_events} events are waiting to be written; send the event again")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="eventstore-writer", daemon=True)
                thread.start()  # may fail; the next caller tries again
                self._thread = thread
            self._waiting.append(request)
            self._waiting_events += len(entries)
            self._waiting_bytes += request.size
            if self._idle:
                self._changed.notify()
        return request.future

    @property
    def waiting(self) -> int:
        """Events queued and not yet taken into a batch."""
        return self._waiting_events

    @property
    def closing(self) -> bool:
        """Whether submissions are refused for good."""
        return self._closing

    def close(self) -> None:
        """Write what waits, then stop. Later submissions are refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    # The thread

    def _run(self) -> None:
        last_requests = 1
        while True:
            batch = self._take(last_requests)
            if not batch:
                return
            last_requests = len(batch)
            self._write(batch)

    def _take(self, expected: int) -> list[_Request]:
        """The next batch: everything that waits, up to the limits; [] when closed and drained."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._idle = True
                self._changed.wait()
            self._idle = False
        if expected > 1 or len(self._waiting) > 1:
            self._let_gather()
        with self._changed:
            batch: list[_Request] = []
            events = 0
            while self._waiting and (not batch or events + len(self._waiting[0].entries) <= self._batch_events):
                request = self._waiting.popleft()
                events += len(request.entries)
                self._waiting_events -= len(request.entries)
                self._waiting_bytes -= request.size
                batch.append(request)
            return batch

    def _let_gather(self) -> None:
        """Wait while callers keep coming. Asleep, not on the condition: each of them would wake the thread for nothing."""
        deadline = time.monotonic() + self._batch_age
        seen = 0
        while seen < len(self._waiting) and self._waiting_events < self._batch_events and not self._closing:
            seen = len(self._waiting)
            if time.monotonic() > deadline:
                return
            time.sleep(self._batch_pause)

    def _write(self, batch: list[_Request]) -> None:
        try:
            entries = [entry for request in batch for entry in request.entries]
            outcomes, position = self._commit_with_retries(entries)
        except StoreUnavailable as error:
            for request in batch:
                request.future.set_exception(error)
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, no caller may be left waiting for ever
            self._write_apart(batch, error)
            return
        start = 0
        for request in batch:
            end = start + len(request.entries)
            request.future.set_result(outcomes[start:end])
            start = end
        self._tell(position)

    def _tell(self, position: int | None) -> None:
        """Say that the log has grown. What is wrong with whoever hears it must not end the thread, or make an answer untrue."""
        if position is None or self._on_commit is None:
            return
        try:
            self._on_commit(position)
        except Exception as error:  # noqa: BLE001 - whoever waits for the log also polls
            _log.warning("a commit could not be told", extra={"reason": type(error).__name__, "position": position})

    def _write_apart(self, batch: list[_Request], error: BaseException) -> None:
        """One bad entry never fails its batch: pieces are tried alone, then entries, and the guilty one is quarantined."""
        if len(batch) > 1:
            for request in batch:
                self._write([request])
            return
        request = batch[0]
        try:
            if len(request.entries) > 1:
                outcomes = [self._write_alone(entry) for entry in request.entries]
            else:
                outcomes = [self._quarantine(request.entries[0], error)]
        except BaseException as final:  # noqa: BLE001 - as above
            request.future.set_exception(final)
            return
        request.future.set_result(outcomes)

    def _write_alone(self, entry: Entry) -> Outcome:
        try:
            outcomes, position = self._commit_with_retries([entry])
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the database says against this entry, the next may be good
            return self._quarantine(entry, error)
        self._tell(position)
        return outcomes[0]

    def _quarantine(self, entry: Entry, error: BaseException) -> Outcome:
        """Keep an entry that the database would not take as an event. Raises EventStoreError if it will not keep it at all."""
        reason = f"the log refused the event: {said(error)}"
        if isinstance(entry, Rejected):
            raise EventStoreError(reason) from error
        return self._commit_with_retries([evidence(entry, reason)])[0][0]

    def _commit_with_retries(self, entries: list[Entry]) -> tuple[list[Outcome], int | None]:
        # Before anything is locked.
        entries = [finish(entry) if isinstance(entry, Prepared) else entry for entry in entries]
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return self._commit(entries)
            except SQLAlchemyError as error:
                if is_out_of_partitions(error):
                    raise StoreUnavailable(
                        "the last partition of events is full; run `eventstore maintain` as the tables' owner, then send the "
                        "events again",
                        retry_after=FULL_SECONDS,
                    ) from error
                if _is_about_an_event(error):
                    raise
                if time.monotonic() > deadline or not _worth_retrying(error):
                    raise StoreUnavailable(
                        f"the database did not take the events: {said(error)}; send them again, none is kept twice"
                    ) from error
                time.sleep(0.05)

    def _commit(self, entries: list[Entry]) -> tuple[list[Outcome], int | None]:
        with write_transaction(self._engine) as connection:
            return self._batches.append(connection, entries)


_RAISED = "P0"
"""PostgreSQL's class of errors that a trigger raises."""
_TAKEN = "23505"
"""SQLSTATE of a key that is there already. Positions are the writer's own: if one is taken, the head lags behind the log."""


def _is_about_an_event(error: SQLAlchemyError) -> bool:
    """Whether the database refuses what it was given, and not whatever it may be given: a value, or a trigger's own rule.

    All else that it may say is about itself: a lost connection, a lock, a full disk, a server that may only read, a corrupt
    file, a missing table, a log and a head that disagree. Such a fault must not be blamed on events that are sound.
    """
    if not isinstance(error, DBAPIError) or error.connection_invalidated:
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    if not isinstance(error, DataError | IntegrityError) and not state.startswith(_RAISED):
        return False
    if state == _TAKEN and getattr(getattr(error.orig, "diag", None), "table_name", None) != event_keys.name:
        return False
    return not any(ours in str(error.orig) for ours in ("append-only", "log_head"))


def _worth_retrying(error: SQLAlchemyError) -> bool:
    """Whether it is only that another process holds SQLite's lock, for which nothing was written, and nothing waited."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    # The lowest byte is the error, the others say what kind of it.
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
