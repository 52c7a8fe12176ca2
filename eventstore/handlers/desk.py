"""What can be done with handlers on a store: `EventStore.handlers`. The command line is a thin door over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from eventstore.errors import NotFound
from eventstore.handlers import dead_letters, positions
from eventstore.handlers.dead_letters import HandlerDeadLetter
from eventstore.handlers.feed import Fed, advance, beginning
from eventstore.handlers.registry import Handler
from eventstore.handlers.runner import BEGIN, NAME, HandlerRunner
from eventstore.handlers.session import PAGE_EVENTS, Limits
from eventstore.log.engine import write_transaction
from eventstore.log.hints import Hints
from eventstore.log.reader import head


@dataclass(frozen=True, slots=True)
class HandlerStatus:
    """Where a handler stands: everything up to `position` is handled or parked, `behind` events of the log are not.

    `handled`: events handled since it began, again each time that it was replayed. `parked`: coupons that wait for it, of which
    `waiting_for_people` are not tried again by themselves. `paused`: why it rests as a whole. `worker`: who ran it last.
    """

    name: str
    handler: str
    position: int
    behind: int
    handled: int
    parked: int
    waiting_for_people: int
    paused: str | None
    worker: str
    started_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """A handler that goes on after `position` again; it stood at `before`. `closed`: dead letters that went with it."""

    handler: str
    position: int
    before: int
    closed: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a handler would be given: `events` of them, the first at `first`."""

    handler: str
    begin: int
    events: int
    first: int | None
    last: int | None


class HandlerDesk:
    """The handlers of one store. All methods may be called from any thread, and while a runner is at work anywhere."""

    def __init__(self, engine: Engine, hints: Hints) -> None:
        self._engine = engine
        self._hints = hints

    def runner(
        self, handlers: Sequence[Handler], *, name: str = NAME, begin: str = BEGIN, limits: Limits | None = None
    ) -> HandlerRunner:
        """A runner of these handlers, not yet begun; see HandlerRunner."""
        return HandlerRunner(self._engine, self._hints, handlers, name=name, begin=begin, limits=limits)

    def status(self, name: str | None = None) -> list[HandlerStatus]:
        """Every handler that was ever run, by set and name; `name`: those of one set."""
        last = head(self._engine)
        with self._engine.connect() as connection:
            waiting = dead_letters.waiting(connection, name)
            kept = positions.kept(connection, name)
        found = []
        for each in kept:
            parked, alone = waiting.get((each.name, each.handler), (0, 0))
            found.append(
                HandlerStatus(
                    each.name,
                    each.handler,
                    each.position,
                    max(last - each.position, 0),
                    each.handled,
                    parked,
                    alone,
                    each.paused,
                    each.worker,
                    each.started_at,
                    each.updated_at,
                )
            )
        return found

    def dead_letters(
        self,
        *,
        name: str | None = None,
        handler: str | None = None,
        site_id: str | None = None,
        resolved: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[HandlerDeadLetter]:
        """A page of the events that handlers could not take, oldest first; `resolved`: also those dealt with."""
        with self._engine.connect() as connection:
            return dead_letters.list_letters(
                connection, name=name, handler=handler, site_id=site_id, resolved=resolved, after=after, limit=limit
            )

    def dead_letter(self, letter_id: int) -> HandlerDeadLetter:
        """One of them. Raises NotFound."""
        with self._engine.connect() as connection:
            return dead_letters.show_letter(connection, letter_id)

    def retry(
        self, letter_ids: Sequence[int] | None = None, *, name: str | None = None, handler: str | None = None
    ) -> int:
        """Have dead letters tried again by the process that runs the handler, at once; None: all that are open.

        Returns how many. Raises NotFound, and InputError for one that is dealt with.
        """
        return dead_letters.retry(self._engine, letter_ids, name=name, handler=handler)

    def skip(self, letter_id: int, note: str) -> HandlerDeadLetter:
        """Have an event left out for good; what waits behind it is handled next. Raises NotFound, InputError."""
        return dead_letters.skip(self._engine, letter_id, note)

    def replay(self, name: str, *, begin: str, handler: str | None = None) -> list[Replayed]:
        """Have the handlers of a set, or one of them, given the log again from `begin` on, or go ahead to it.

        Events are given under the same idempotency keys as before; dead letters of events from there on are closed, for those
        come again. A runner at work goes on from there within seconds. Raises NotFound, and InputError for no such place.
        """
        position = beginning(self._engine, begin)
        with self._engine.connect() as connection:
            known = [each.handler for each in positions.kept(connection, name)]
        wanted = known if handler is None else [each for each in known if each == handler]
        if not wanted:
            which = f"handler {handler!r}" if handler is not None else "handler"
            raise NotFound(f"no {which} has run under the name {name!r}; `eventstore handlers status` shows all")
        done = []
        for each in wanted:
            # Together: a runner that took over in between would leave coupons out whose letters are closed.
            with write_transaction(self._engine) as connection:
                before = positions.move(connection, name, each, position)
                closed = dead_letters.resolve_behind(connection, name, each, position)
            done.append(Replayed(each, position, before, closed))
        return done

    def preview(self, handlers: Sequence[Handler], *, name: str = NAME, begin: str = BEGIN) -> list[Preview]:
        """What each handler would be given of the log as it is now; calls none and writes nothing."""
        start = beginning(self._engine, begin)
        with self._engine.connect() as connection:
            kept = {each.handler: each.position for each in positions.kept(connection, name)}
        last = head(self._engine)
        return [self._preview(each, kept.get(each.name, start), last) for each in handlers]

    def _preview(self, handler: Handler, begin: int, until: int) -> Preview:
        events, first, last = 0, None, None
        for fed in self._events(handler.types, begin, until):
            if handler.wants(fed.type, fed.record):
                events += 1
                first = fed.position if first is None else first
                last = fed.position
        return Preview(handler.name, begin, events, first, last)

    def _events(self, types: frozenset[str] | None, after: int, until: int) -> Iterator[Fed]:
        while after < until:
            page = advance(self._engine, types, after=after, limit=PAGE_EVENTS, until=until)
            yield from page.events
            after = page.position
