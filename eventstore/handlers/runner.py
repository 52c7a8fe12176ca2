"""The runner of a set of handlers: follows the log for as long as it may, one process at a time.

Whoever else runs the same set stands by, and takes over within seconds when that one ends, however it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from eventstore.backoff import wait_after
from eventstore.errors import InputError, StoreUnavailable
from eventstore.handlers import positions
from eventstore.handlers.feed import beginning
from eventstore.handlers.pool import Hanging
from eventstore.handlers.registry import Handler
from eventstore.handlers.session import STOP_SECONDS, Limits, Session
from eventstore.log.engine import is_away, is_sqlite, said
from eventstore.log.exclusive import Exclusive
from eventstore.log.hints import Hints
from eventstore.log.reader import head
from eventstore.log.tail import BACK_OFF_SECONDS, POLL_SECONDS, SQLITE_POLL_SECONDS

LOOK_SECONDS = 1.0
"""How often one that stands by looks whether it may run the handlers, and one that runs them whether it still may."""
GATHER_SECONDS = 0.005
"""How long new events are gathered before the next look, once the handlers have come to the end of the log."""
BEGIN = "now"
"""Where a handler begins that was never run, unless it is said."""
NAME = "handlers"
"""What a set is called, unless it is said."""

_log = logging.getLogger("eventstore.handlers")


class HandlerRunner:
    """Runs handlers on a store. `run` does it in the calling thread; `start` and `stop` in one of its own.

    `begin`: where a handler begins that has not run under this name: now, beginning, a position, a time (see `feed.beginning`).
    Raises InputError for a name that cannot be one, no handlers, or a place that is none.
    """

    def __init__(
        self,
        engine: Engine,
        hints: Hints,
        handlers: Sequence[Handler],
        *,
        name: str = NAME,
        begin: str = BEGIN,
        limits: Limits | None = None,
    ) -> None:
        if not handlers:
            raise InputError("there is no handler to run")
        self.name = positions.require_set_name(name)
        self._engine = engine
        self._hints = hints
        self._handlers = list(handlers)
        self._limits = limits or Limits()
        self._poll = SQLITE_POLL_SECONDS if is_sqlite(engine) else POLL_SECONDS
        self._stopping = threading.Event()
        self._session: Session | None = None
        self._thread: threading.Thread | None = None
        self.leads = False
        """Whether this process runs the handlers, rather than stand by."""
        self.last_error: str | None = None
        # Where "now" is does not change while this one stands by.
        self._begin = beginning(engine, begin)
        self._epochs: dict[str, int] = {}

    def run(self, *, once: bool = False) -> bool:
        """Run the handlers until `stop`; `once`: until they have done with all that the log holds now.

        True if all is done that could be; False if `once` ended with a handler that rests as a whole, or if calls still went on
        when it had to end. Raises StoreUnavailable if `once` finds another process at it, or the database away.
        """
        right = Exclusive(self._engine, f"handlers-{self.name}")
        until = head(self._engine) if once else None
        failures = 0
        stood_by = False
        try:
            while not self._stopping.is_set():
                try:
                    if not right.take():
                        if once:
                            raise StoreUnavailable(f"another process runs the handlers of {self.name!r}")
                        if not stood_by:
                            _log.info(
                                "another process runs these handlers; this one stands by", extra={"set": self.name}
                            )
                        stood_by = True
                        self._stopping.wait(LOOK_SECONDS)
                        continue
                    if stood_by:
                        _log.info("this process runs the handlers now", extra={"set": self.name})
                        stood_by = False
                    self.leads = True
                    done = self._lead(right, until)
                    failures, self.last_error = 0, None
                    if done is not None:
                        return done
                except (SQLAlchemyError, OSError, self._engine.dialect.loaded_dbapi.Error) as error:
                    if not _passes(error):
                        raise
                    self.last_error = said(error)
                    if once:
                        raise StoreUnavailable(f"the handlers could not follow the log: {self.last_error}") from error
                    if not failures:
                        _log.warning("handlers cannot follow the log for now", extra={"reason": self.last_error})
                    self._stopping.wait(wait_after(failures, BACK_OFF_SECONDS))
                    failures += 1
                finally:
                    self.leads = False
        finally:
            with suppress(Exception):
                right.release()
        return True

    def start(self) -> None:
        """Run in a thread of its own until `stop`."""
        self._thread = threading.Thread(target=self._run, name="eventstore-handlers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing any more, let the calls under way end, and return."""
        self._stopping.set()
        if self._session is not None:
            self._session.wake()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self.run()
        except Exception as error:  # noqa: BLE001 - told where the thread's state is asked for
            self.last_error = f"{type(error).__name__}: {error}"
            _log.exception("the handlers have stopped")

    def _lead(self, right: Exclusive, until: int | None) -> bool | None:
        """What `run` is to return; None if the handlers are to be taken over anew. `until`: end there."""
        session = Session(
            self._engine, self.name, self._handlers, self._begin, self._limits, until=until, before=self._epochs
        )
        self._session = session
        self._epochs = session.epochs
        looked = time.monotonic()
        patience = STOP_SECONDS
        ended = False
        try:
            with self._hints.heard_by(lambda _position: session.wake(), listen=True):
                while not self._stopping.is_set():
                    moved = session.step()
                    if session.lost:
                        _log.warning("handlers were taken over or moved; they are begun anew", extra={"set": self.name})
                        # No coupon in two calls at once: those under way may take as long as they may.
                        patience = self._limits.time_limit
                        return None
                    if until is not None and session.caught_up:
                        break
                    if time.monotonic() - looked >= LOOK_SECONDS:
                        looked = time.monotonic()
                        if not right.held:
                            _log.warning("the right to run the handlers was lost", extra={"set": self.name})
                            patience = self._limits.time_limit
                            return None
                    if not moved:
                        session.rest(self._poll)
                    elif session.nearly_there:
                        # Events that trickle in are taken a few at a time: a look costs as much for one.
                        self._stopping.wait(GATHER_SECONDS)
        except Hanging:
            patience = 0.0
            raise
        finally:
            self._session = None
            try:
                ended = session.close(seconds=patience)
            except (SQLAlchemyError, OSError) as error:
                # Whatever ends the session comes out, and not this: the next one is told by what stands written.
                _log.warning("how far the handlers are could not be written down", extra={"reason": said(error)})
        return ended and not any(lane.paused for lane in session.lanes)


def _passes(error: BaseException) -> bool:
    """Whether it is that the database cannot be used now."""
    if isinstance(error, SQLAlchemyError):
        return is_away(error)
    # The driver's own, of a connection that is made or held outside the pool.
    names = ("OperationalError", "InterfaceError")
    return isinstance(error, OSError) or type(error).__name__ in names or bool(getattr(error, "sqlstate", None))
