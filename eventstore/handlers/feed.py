"""The log as handlers are fed with it: events with what decides where they go, their payload not yet decoded."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, func, select

from eventstore.errors import InputError
from eventstore.event import INT64_MAX
from eventstore.log.reader import head
from eventstore.log.records import RecordedEvent
from eventstore.log.schema import head_size
from eventstore.log.subjects import SUBJECT, is_about
from eventstore.log.tables import events
from eventstore.projections.moment import read_time

Subject = tuple[str, str]
"""What an event is about: its site and its coupon, or its entity where it names no coupon. Its events are handled in order."""

_COLUMNS = (
    events.c.type,
    events.c.site_id,
    SUBJECT.label("subject_id"),
    events.c.event_id,
    events.c.position,
    events.c.recorded_at,
    events.c.payload,
    events.c.leaf_hash,
)


class Fed(NamedTuple):
    """One event on its way to handlers."""

    type: str
    subject: Subject
    event_id: str
    record: RecordedEvent

    @property
    def position(self) -> int:
        """Where it stands in the log."""
        return self.record.position


class Page(NamedTuple):
    """The events of a step, and the position up to which there are no others; `head`: the end of the log before it."""

    events: list[Fed]
    position: int
    head: int


def advance(engine: Engine, types: frozenset[str] | None, *, after: int, limit: int, until: int | None = None) -> Page:
    """At most `limit` events above `after` of these types (None: of all), and up to `until` if that is given."""
    with engine.connect() as connection:
        # The head first: what stands below it is committed, and so is seen by what follows.
        found = head_size(connection)
        last = found if until is None else min(found, until)
        if last <= after:
            return Page([], after, found)
        rows = _read(connection, _wanted(types).where(events.c.position > after, events.c.position <= last), limit)
    return Page(rows, rows[-1].position if len(rows) == limit else last, found)


def of_subject(
    engine: Engine, subject: Subject, types: frozenset[str] | None, *, after: int, until: int, limit: int
) -> list[Fed]:
    """At most `limit` events of one subject above `after` and up to `until`, in order."""
    chosen = _wanted(types).where(is_about(*subject), events.c.position > after, events.c.position <= until)
    with engine.connect() as connection:
        return _read(connection, chosen, limit)


def _wanted(types: frozenset[str] | None) -> Select[Any]:
    statement = select(*_COLUMNS).order_by(events.c.position)
    return statement if types is None else statement.where(events.c.type.in_(sorted(types)))


def _read(connection: Connection, statement: Select[Any], limit: int) -> list[Fed]:
    return [
        Fed(type_, (site, subject), event_id, RecordedEvent(position, recorded_at, payload, leaf_hash))
        for type_, site, subject, event_id, position, recorded_at, payload, leaf_hash in connection.execute(
            statement.limit(limit)
        )
    ]


def beginning(engine: Engine, text: str) -> int:
    """The position after which to begin, as people say it: `now`, `beginning`, a position (the first event that is handled), or
    a time (the first event recorded from then on). Raises InputError."""
    if text == "beginning":
        return 0
    if text == "now":
        return head(engine)
    if text.isascii() and text.isdigit():
        position = int(text)
        if not 1 <= position <= INT64_MAX:
            raise InputError(f"{text} is no position: the first event has position 1")
        if position > head(engine) + 1:
            raise InputError(f"{text} is no position of the log yet, which ends at {head(engine)}; `now` is its end")
        return position - 1
    try:
        moment = read_time(text, "from")
    except InputError:
        raise InputError(
            f"{text!r} says no place in the log: give now, beginning, a position as 512, or a time as 2026-09-30T12:00:00Z"
        ) from None
    with engine.connect() as connection:
        # recorded_at never runs backwards with position.
        low, high = 0, head_size(connection)
        while low < high:
            middle = (low + high + 1) // 2
            at = connection.execute(
                select(func.max(events.c.recorded_at)).where(events.c.position == middle)
            ).scalar_one()
            if at is not None and at >= moment:
                high = middle - 1
            else:
                low = middle
    return low
