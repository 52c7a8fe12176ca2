"""One call of a handler: its event, its transaction, and what came of it.

A handler that writes through `event.transaction` commits together with the record that this event is handled. That record is
refused where it stands already, and where another process has taken the handler over or a person has moved it: then nothing of
the transaction stays. So what is written there is written once.
"""

from __future__ import annotations

import inspect
import threading
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from eventstore.handlers import dead_letters, positions
from eventstore.handlers.feed import Fed
from eventstore.handlers.registry import Handler, TryLater
from eventstore.handlers.shape import handler_event
from eventstore.log.engine import write_transaction

REASON_LENGTH = 1_000
"""Characters kept of what a handler raised."""
_ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)


class Superseded(Exception):
    """Another process has taken the handler over, or it was moved: what was done here for this event does not count."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: handled (no `reason`), failed, or to be tried later (`later`, after `seconds` if that was said)."""

    reason: str | None = None
    later: bool = False
    seconds: float | None = None


HANDLED = Outcome()
SUPERSEDED = Outcome("another process has taken the handler over")
GIVEN_UP = Outcome("nobody waits for it any more")


@dataclass(frozen=True, slots=True)
class Mine:
    """In whose name a handler is run: the set, and the epoch in which it was taken over."""

    engine: Engine
    name: str
    handler: Handler
    epoch: int


class Call:
    """One event on its way through a handler. `letter`: the dead letter of its subject, if it is tried again.

    It ends once: by itself, or because whoever watches it gives it up.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_ending",
        "_mine",
        "_stack",
        "attempt",
        "committed",
        "event",
        "fed",
        "letter",
    )

    def __init__(self, mine: Mine, fed: Fed, *, attempt: int = 1, letter: int | None = None) -> None:
        self._mine = mine
        self._stack: ExitStack | None = None
        self._connection: Connection | None = None
        self._ending = threading.Lock()
        self._ended = False
        self.committed = False
        """Whether the event's transaction says already that it is handled."""
        self.fed = fed
        self.attempt = attempt
        self.letter = letter
        site, _ = fed.subject
        key = f"{mine.name}/{mine.handler.name}/{site}/{fed.event_id}"
        self.event = handler_event(
            fed.type, fed.record, idempotency_key=key, attempt=attempt, transaction=self._transaction
        )

    def run(self) -> Outcome:
        """Call a plain handler."""
        try:
            found = self._mine.handler.function(self.event)
            if found is not None and inspect.isawaitable(found):
                raise TypeError("the handler gave something to await: define it with async def")
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its event's, not ours
            return self.failed(error)
        return self.done()

    async def run_async(self) -> Outcome:
        """Call an async handler."""
        try:
            await _awaited(self._mine.handler.function(self.event))
        except BaseException as error:  # noqa: BLE001 - as above; a cancellation is the time limit's
            return self.failed(error)
        return self.done()

    def give_up(self) -> bool:
        """Let it count no more, however it ends; False if it has ended."""
        with self._ending:
            first, self._ended = not self._ended, True
        return first

    def done(self) -> Outcome:
        """Commit what the handler wrote, if it wrote anything."""
        if not self.give_up():
            self._roll_back(Superseded())
            return GIVEN_UP
        if self._stack is None:
            return HANDLED
        assert self._connection is not None
        try:
            self._mark(self._connection)
        except (Superseded, IntegrityError) as error:
            self._roll_back(error)
            return SUPERSEDED
        except BaseException as error:  # noqa: BLE001 - as any failure of this event
            return self._told(error)
        try:
            self._stack.close()
        except BaseException as error:  # noqa: BLE001 - a commit that fails is a failure of this event
            return self._told(error)
        self.committed = True
        return HANDLED

    def failed(self, error: BaseException) -> Outcome:
        """Undo what the handler wrote, and say what came of it."""
        if not self.give_up():
            self._roll_back(error)
            return GIVEN_UP
        return self._told(error)

    def _told(self, error: BaseException) -> Outcome:
        self._roll_back(error)
        if isinstance(error, TryLater):
            return Outcome(
                reason=_line(str(error)) or "the handler asked to try later", later=True, seconds=error.seconds
            )
        return Outcome(reason=told(error))

    def _transaction(self) -> Connection:
        if self._connection is None:
            stack = ExitStack()
            self._connection = stack.enter_context(write_transaction(self._mine.engine))
            self._stack = stack
        return self._connection

    def _mark(self, connection: Connection) -> None:
        mine = self._mine
        position = positions.is_still_mine(connection, mine.name, mine.handler.name, mine.epoch)
        if position is None:
            raise Superseded
        if self.letter is not None:
            if not dead_letters.advance(connection, self.letter, self.fed.position):
                raise Superseded
            if self.fed.position <= position:
                return
        elif self.fed.position <= position:
            raise Superseded
        positions.mark_done(connection, mine.name, mine.handler.name, self.fed.position)

    def _roll_back(self, error: BaseException) -> None:
        stack, self._stack, self._connection = self._stack, None, None
        if stack is None:
            return
        try:
            stack.__exit__(type(error), error, error.__traceback__)
        except BaseException as again:  # noqa: BLE001 - the error itself comes out again; a lost connection has rolled back
            if again is not error:
                traceback.clear_frames(again.__traceback__)


def told(error: BaseException) -> str:
    """What a handler raised, in a line: the error, and the handler's own line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    # The last one of a file that is not ours or a library's is most telling; the last one at all will do.
    own = [
        frame
        for frame in frames
        if "site-packages" not in frame.filename and "eventstore/handlers/" not in frame.filename
    ]
    place = f" ({own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno})" if own else ""
    if isinstance(error, _ENDS):
        return f"the handler ended the program ({type(error).__name__}){place}"
    return _line(f"{type(error).__name__}: {error}{place}")


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


async def _awaited(found: Any) -> None:
    await found
