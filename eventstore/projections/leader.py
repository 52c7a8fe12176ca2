"""Which process follows the log: one at a time, and when it dies another takes over."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.log.engine import write_transaction
from eventstore.log.exclusive import Exclusive, worker_name
from eventstore.log.records import now
from eventstore.log.tables import projection_work
from eventstore.projections import dead_letters

RUNNER = "runner"
"""What the right to follow the log is called, and who has it."""
LOOK_SECONDS = 1.0
"""How often one that stands by looks whether it may follow, and one that follows whether it still may."""
SEEN_SECONDS = 5.0
"""How often at most one that follows writes down how far it is: a store in which nothing happens is not written to."""

_log = logging.getLogger("eventstore.projections")


class Leader:
    """The right of this process to follow the log, and what it tells people about that. For one thread; release it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._right = Exclusive(engine, RUNNER)
        self._looked_at = float("-inf")
        self._leads = False
        self._stood_by = False
        self._told_at = 0.0
        self._told_position: int | None = None

    def leads(self) -> bool:
        """Whether this process is the one to follow the log. Raises the database's errors, and OSError."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return self._leads
        before, self._leads = self._leads, False
        if before and not self._right.held:
            _log.warning("the right to follow the log was lost; another process may have it")
        self._leads = self._right.take()
        if self._leads and not before:
            try:
                self._begin()
            except BaseException:
                self.release()
                raise
        elif not self._leads and not self._stood_by:
            _log.info("another process follows the log; this one stands by")
        self._stood_by = not self._leads
        self._looked_at = time.monotonic()
        return self._leads

    def _begin(self) -> None:
        started = now()
        row = {"worker": worker_name(), "started_at": started, "seen_at": started, "state": {}}
        with write_transaction(self._engine) as connection:
            insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(projection_work)
            connection.execute(
                insert.values(name=RUNNER, **row).on_conflict_do_update(index_elements=["name"], set_=row)
            )
            parked = dead_letters.parked_subjects(connection)
        self._told_at, self._told_position = time.monotonic(), None
        # A server that follows from its start on has nothing to say.
        _log.log(logging.INFO if self._stood_by else logging.DEBUG, "this process follows the log now")
        if parked:
            _log.warning(
                "coupons wait for events that a projection could not take; `eventstore dead-letters list` tells which",
                extra={"coupons": parked},
            )

    def moved(self, position: int) -> None:
        """Write down how far the projections are, and how fast they have come there, unless that was done a moment ago."""
        at = time.monotonic()
        if self._told_position is None:
            self._told_position = position
            return
        since = at - self._told_at
        if position == self._told_position:
            if since >= SEEN_SECONDS:
                # Nothing has happened for long: what happens next is not that slow.
                self._told_at = at
            return
        if since < SEEN_SECONDS:
            return
        rate = (position - self._told_position) / since
        with write_transaction(self._engine) as connection:
            connection.execute(
                projection_work.update()
                .where(projection_work.c.name == RUNNER)
                .values(seen_at=now(), state={"position": position, "rate": round(rate, 1)})
            )
        self._told_at, self._told_position = at, position

    def release(self) -> None:
        """Let another process follow."""
        self._leads = False
        self._right.release()
