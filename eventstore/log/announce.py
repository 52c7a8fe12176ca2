"""Telling other processes that the log has grown: PostgreSQL's NOTIFY, as a hint that nothing depends on.

It is not sent by the transaction that appends. A NOTIFY may fail the COMMIT that carries it (the notification queue is full,
because some session that listens has stood in a transaction for days), and all commits that carry one take turns with each
other. So a thread of its own says it afterwards, on a connection of its own, and whether that works is nobody's concern:
readers poll, and a hint only shortens their wait.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, cast

from sqlalchemy import Engine

from eventstore.backoff import wait_after
from eventstore.errors import StoreUnavailable

PAUSE_SECONDS = 0.01
"""How long after a commit it is announced, with all that is committed meanwhile: the newest position is enough. So the writer's
callers are answered first, and however many commits there are, there are a hundred announcements a second at most."""
BACK_OFF_SECONDS = (0.1, 0.5, 2.0, 10.0)
"""Waits after a failure, the last one repeated."""
CLOSING_SECONDS = 2.0
"""How long a store that is being closed waits for the last announcement: a database that hangs must not hold it up."""
CHANNEL_BYTES = 63
"""PostgreSQL's limit for a channel's name."""

_log = logging.getLogger("eventstore.announce")
_SCHEMA_OF_THE_LOG = """
SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = 'log_head'::regclass
"""
_NOTIFY = b"SELECT pg_notify($1, $2), set_config('synchronous_commit', 'off', true)"
"""It must not wait for the disk or for a replica; for this one transaction, as a pooler may give the session to a writer."""


class Line:
    """A connection to PostgreSQL outside the engine's pool, in autocommit, on which hints are given or heard.

    `channel` is `eventstore_` and the schema that holds the log: channels are a database's own, and one database may hold a log
    in each of its schemas. `name` is what `pg_stat_activity` shows as the application.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        pooled = engine.raw_connection()
        self.driver = cast("Any", pooled.driver_connection)
        # From here on it is the driver's alone: the pool would log an error for each that breaks.
        pooled.detach()
        try:
            self.driver.rollback()
            self.driver.autocommit = True
            self.driver.execute("SELECT set_config('application_name', %s, false)", [name])
            [schema] = self.driver.execute(_SCHEMA_OF_THE_LOG).fetchone()
            self.channel = f"eventstore_{schema}".encode()[:CHANNEL_BYTES].decode(errors="ignore")
        except BaseException:
            self.close()
            raise

    def notify(self, payload: str) -> None:
        """Give a hint to all who listen on the channel.

        By libpq itself, which waits without the interpreter's lock: the driver's cursors would take some of the time of those
        who append.
        """
        answer = self.driver.pgconn.exec_params(_NOTIFY, [self.channel.encode(), payload.encode()])
        if answer.error_message:
            raise StoreUnavailable(answer.error_message.decode(errors="replace"))

    def close(self) -> None:
        """Give the connection up, whatever state it is in."""
        with suppress(Exception):
            self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Announcer:
    """Announces the newest position of a log on PostgreSQL, in a thread of its own that begins with the first commit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._newest = 0
        self._announced = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def committed(self, position: int) -> None:
        """The log has grown to this position. Costs the caller, the writer's thread, next to nothing, and never fails."""
        self._newest = position
        self._wake.set()
        if self._thread is None and not self._closing.is_set():
            thread = threading.Thread(target=self._run, name="eventstore-announcer", daemon=True)
            with suppress(RuntimeError):  # no thread to be had: the next commit tries again
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """Announce what was committed last, if that can be done at once, and end the thread."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set() or (self._announced < self._newest and not failures):
            try:
                with Line(self._engine, "eventstore announcer") as line:
                    while not self._closing.is_set() or self._announced < self._newest:
                        self._wake.wait()
                        self._closing.wait(PAUSE_SECONDS)
                        self._announce(line)
                        failures = 0
            except Exception as error:  # noqa: BLE001 - a hint that cannot be given is no fault of the log
                _log.debug("a hint could not be given", extra={"reason": type(error).__name__})
                self._closing.wait(wait_after(failures, BACK_OFF_SECONDS))
                failures += 1

    def _announce(self, line: Line) -> None:
        # First this, so that a commit meanwhile is told by the next announcement.
        self._wake.clear()
        newest = self._newest
        try:
            line.notify(str(newest))
            self._announced = newest
        except BaseException:
            # To be told by the next line.
            self._wake.set()
            raise
