"""One call of a handler: its event, its transaction, and what came of it.

A handler that writes through `event.transaction` commits together with the record that this event is handled. That record is
refused where it stands already, and where another process has taken the handler over or a person has moved it: then nothing of
the transaction stays. So what is written there is written once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from eventstore.handlers import dead_letters, positions
from eventstore.handlers.feed import Fed
from eventstore.handlers.registry import Handler, TryLater
from eventstore.handlers.shape import CouponEvent, handler_event
from eventstore.handlers.transactions import KEPT, OVER, EventTransaction, slots_of

REASON_LENGTH = 1_000
"""Characters kept of what a handler raised."""
_log = logging.getLogger("eventstore.handlers")
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
BUSY = Outcome("no transaction was free")


@dataclass(frozen=True, slots=True)
class Mine:
    """A handler that is run here, and in whose name."""

    engine: Engine
    handler: Handler
    holder: positions.Holder


class Call:
    """One event on its way through a handler. `letter`: the dead letter of its subject, if it is tried again.

    It ends once: by itself, or because whoever watches it gives it up.
    """

    __slots__ = (
        "_ended",
        "_ending",
        "_mine",
        "_own",
        "attempt",
        "committed",
        "fed",
        "letter",
    )

    def __init__(self, mine: Mine, fed: Fed, *, attempt: int = 1, letter: int | None = None) -> None:
        self._mine = mine
        self._own: EventTransaction | None = None
        self._ending = threading.Lock()
        self._ended = False
        self.committed = False
        """Whether the event's transaction says already that it is handled."""
        self.fed = fed
        self.attempt = attempt
        self.letter = letter

    def run(self) -> Outcome:
        """Call a plain handler."""
        try:
            found = self._mine.handler.function(self._event())
            if found is not None and inspect.isawaitable(found):
                raise TypeError("the handler gave something to await: define it with async def")
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its event's, not ours
            return self.failed(error)
        return self.done()

    async def run_async(self) -> Outcome:
        """Call an async handler. BUSY: it asked for a transaction, and none was free; nothing of it counts."""
        try:
            await _awaited(self._mine.handler.function(self._event()))
        except BaseException as error:  # noqa: BLE001 - as above; a cancellation is the time limit's
            return self.failed(error)
        return self.done()

    async def set_aside(self) -> None:
        """Wait until a transaction is free, and keep it for this call."""
        slots = slots_of(self._mine.engine)
        ticket = slots.ticket()
        try:
            await asyncio.wrap_future(ticket)
        except BaseException:
            slots.hand_back(ticket)
            raise
        self._own = EventTransaction(self._mine.engine, has_slot=True)

    def again(self) -> Call:
        """The same call anew, after one that was BUSY."""
        return Call(self._mine, self.fed, attempt=self.attempt, letter=self.letter)

    @property
    def waited(self) -> float:
        """Seconds of it in which it stood in line for its transaction: its time limit does not count them."""
        return 0.0 if self._own is None else self._own.waited()

    def give_up(self) -> bool:
        """Let it count no more, however it ends; False if it has ended."""
        with self._ending:
            first, self._ended = not self._ended, True
        return first

    def cut(self) -> bool:
        """End the transaction of a call that was given up and still runs; False if that cannot be done."""
        return self._own is None or self._own.cut()

    def done(self) -> Outcome:
        """Commit what the handler wrote, if it wrote anything."""
        if not self.give_up():
            return self._given_up(Superseded())
        own = self._own
        if own is None:
            return HANDLED
        if own.refused:
            return BUSY
        if own.misused:
            return self._told(RuntimeError(KEPT))
        try:
            self.committed = own.commit(self._mark)
        except Superseded as error:
            own.roll_back(error)
            return SUPERSEDED
        except BaseException as error:  # noqa: BLE001 - a commit that fails is a failure of this event
            return self._told(error)
        return HANDLED

    def failed(self, error: BaseException) -> Outcome:
        """Undo what the handler wrote, and say what came of it."""
        if not self.give_up():
            return self._given_up(error)
        if self._own is not None and self._own.refused:
            return BUSY
        return self._told(error)

    def _given_up(self, error: BaseException) -> Outcome:
        if self._own is not None:
            self._own.roll_back(error)
        return GIVEN_UP

    def _told(self, error: BaseException) -> Outcome:
        if self._own is not None:
            self._own.roll_back(error)
        if isinstance(error, TryLater):
            return Outcome(
                reason=_line(_text(error)) or "the handler asked to try later", later=True, seconds=_seconds(error)
            )
        # In the log of the program stands which kind of error it was; what it said may be about people, and stands in the letter.
        _log.warning(
            "a handler failed",
            extra={
                "handler": self._mine.handler.name,
                "event_id": self.fed.event_id,
                "attempt": self.attempt,
                "error": type(error).__name__,
            },
        )
        return Outcome(reason=told(error))

    def _event(self) -> CouponEvent:
        mine, fed = self._mine, self.fed
        site, _ = fed.subject
        key = f"{mine.holder.name}/{mine.handler.name}/{site}/{fed.event_id}"
        return handler_event(
            fed.type, fed.record, idempotency_key=key, attempt=self.attempt, transaction=self._transaction
        )

    def _transaction(self) -> Connection:
        with self._ending:
            if self._ended:
                raise RuntimeError(OVER)
            own = self._own
            if own is None:
                own = self._own = EventTransaction(self._mine.engine)
        return own.connection(wait=not self._mine.handler.is_async)

    def _mark(self, connection: Connection) -> None:
        holder = self._mine.holder
        position = holder.position(connection)
        if position is None:
            raise Superseded
        if self.letter is not None:
            if not dead_letters.advance(connection, self.letter, self.fed.position):
                raise Superseded
            if self.fed.position <= position:
                return
        elif self.fed.position <= position:
            raise Superseded
        try:
            positions.mark_done(connection, holder, self.fed.position)
        except IntegrityError as error:
            # It stands there already. What the handler's own constraints say at the commit is another matter.
            raise Superseded from error


def told(error: BaseException) -> str:
    """What a handler raised, in a line that can be stored: the error, and the handler's own line that raised it."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    # The last one of a file that is not ours or a library's is most telling.
    own = [each for each in frames if "site-packages" not in each[0] and "eventstore/handlers/" not in each[0]]
    place = f" ({own[-1][0].rpartition('/')[2]}, line {own[-1][1]})" if own else ""
    name = type(error).__name__
    if isinstance(error, _ENDS):
        return _line(f"the handler ended the program ({name}){place}")
    return _line(f"{name}: {_text(error)}{place}")


def _text(error: BaseException) -> str:
    """The error's own text, made by code that may fail itself."""
    try:
        return "".join(str(error))
    except BaseException as again:  # noqa: BLE001 - as whatever a handler raises
        return f"its text cannot be made ({type(again).__name__})"


def _line(text: str) -> str:
    """As text that both databases take: no NUL, no half of a pair of surrogates."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    text = " ".join(text.split())
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _seconds(error: TryLater) -> float | None:
    # A class of the handler's own may have left it out, or put anything there.
    seconds = getattr(error, "seconds", None)
    if not isinstance(seconds, int | float) or not seconds >= 0:
        return None
    return seconds


async def _awaited(found: Any) -> None:
    await found
