"""Reading the log: keyset pages in position order (never OFFSET), by coupon, by id."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, func, select

from eventstore.log.records import RecordedEvent
from eventstore.log.schema import head_size
from eventstore.log.tables import event_keys, events

PAGE_EVENTS = 1_000
"""Events in a page: about 1 MB of payload."""

_COLUMNS = (events.c.position, events.c.recorded_at, events.c.payload, events.c.leaf_hash)


Types = str | frozenset[str]
"""A canonical type, or several of which any will do."""


class Filter(NamedTuple):
    """Which events a reader wants; what is None does not matter, and the others combine."""

    site_id: str | None = None
    coupon_id: str | None = None
    type_: Types | None = None

    def takes(self, site_id: str, coupon_id: str | None, type_: str) -> bool:
        """Whether an event of these is one of them."""
        return (
            (self.site_id is None or site_id == self.site_id)
            and (self.coupon_id is None or coupon_id == self.coupon_id)
            and (self.type_ is None or type_ in ((self.type_,) if isinstance(self.type_, str) else self.type_))
        )


class Advance(NamedTuple):
    """A reader's step: the events found, and the position up to which there are no others of those that it wants.

    `head` is the position of the last event of the log, as it was when the step began.
    """

    records: list[RecordedEvent]
    position: int
    head: int


def head(engine: Engine) -> int:
    """The position of the last event; 0 when the log is empty."""
    with engine.connect() as connection:
        return head_size(connection)


def recorded_at(connection: Connection, position: int) -> datetime | None:
    """When the event at this position was recorded; None where there is none."""
    found: datetime | None = connection.execute(
        select(events.c.recorded_at).where(events.c.position == position)
    ).scalar_one_or_none()
    return found


def read(
    engine: Engine,
    *,
    after: int = 0,
    limit: int = PAGE_EVENTS,
    site_id: str | None = None,
    coupon_id: str | None = None,
    type_: Types | None = None,
) -> list[RecordedEvent]:
    """At most `limit` events with positions above `after`, in order. Filters combine."""
    with engine.connect() as connection:
        return _page(connection, Filter(site_id, coupon_id, type_), after=after, until=None, limit=limit)


def advance(engine: Engine, wanted: Filter, *, after: int, limit: int = PAGE_EVENTS) -> Advance:
    """At most `limit` of the wanted events above `after`, and how far the log is known with them.

    The head is read first. What stands below it is committed, and so seen by the statement that follows: writers take turns,
    and the head moves in the transaction that inserts.
    """
    with engine.connect() as connection:
        last = head_size(connection)
        if last <= after:
            return Advance([], after, last)
        found = _page(connection, wanted, after=after, until=last, limit=limit)
    return Advance(found, found[-1].position if len(found) == limit else last, last)


def stream_pages(
    engine: Engine,
    *,
    after: int = 0,
    until: int | None = None,
    site_id: str | None = None,
    coupon_id: str | None = None,
    type_: Types | None = None,
    page: int = PAGE_EVENTS,
) -> Generator[list[RecordedEvent], None, None]:
    """`stream` in the pages that it is read in, none of them empty. Between two pages nothing is held open."""
    wanted = Filter(site_id, coupon_id, type_)
    last = head(engine) if until is None else until
    while after < last:
        with engine.connect() as connection:
            found = _page(connection, wanted, after=after, until=last, limit=page)
        if found:
            yield found
        if len(found) < page:
            return
        after = found[-1].position


def stream(
    engine: Engine,
    *,
    after: int = 0,
    until: int | None = None,
    site_id: str | None = None,
    coupon_id: str | None = None,
    type_: Types | None = None,
    page: int = PAGE_EVENTS,
) -> Iterator[RecordedEvent]:
    """Every event above `after` and up to `until` (default: the head now), a page in memory at a time."""
    for found in stream_pages(
        engine, after=after, until=until, site_id=site_id, coupon_id=coupon_id, type_=type_, page=page
    ):
        yield from found


def before_last(engine: Engine, wanted: Filter, count: int) -> int:
    """The position behind which stand the last `count` of the wanted events, or all where there are fewer; the head for none."""
    with engine.connect() as connection:
        last = head_size(connection)
        positions = _filtered(wanted).with_only_columns(events.c.position).where(events.c.position <= last)
        newest = positions.order_by(None).order_by(events.c.position.desc()).limit(count).subquery()
        first: int | None = connection.execute(select(func.min(newest.c.position))).scalar_one()
    return last if first is None else first - 1


def find(engine: Engine, event_id: str, *, site_id: str | None = None) -> RecordedEvent | None:
    """The event with this id (of this site, if given; else the first), or None."""
    return next(iter(find_all(engine, event_id, site_id=site_id, limit=1)), None)


def find_all(engine: Engine, event_id: str, *, site_id: str | None = None, limit: int) -> list[RecordedEvent]:
    """The events with this id, one a site at most."""
    statement = select(*_COLUMNS).join(event_keys, event_keys.c.position == events.c.position)
    statement = statement.where(event_keys.c.event_id == event_id).order_by(events.c.position).limit(limit)
    if site_id is not None:
        statement = statement.where(event_keys.c.site_id == site_id)
    with engine.connect() as connection:
        return [RecordedEvent(*row) for row in connection.execute(statement)]


def original(engine: Engine, position: int) -> bytes | None:
    """The exact bytes that the event at this position was delivered as; None where there are none."""
    with engine.connect() as connection:
        kept = connection.execute(select(events.c.original).where(events.c.position == position)).scalar()
    return None if kept is None else zlib.decompress(kept)


def _page(connection: Connection, wanted: Filter, *, after: int, until: int | None, limit: int) -> list[RecordedEvent]:
    statement = _filtered(wanted).where(events.c.position > after).limit(limit)
    if until is not None:
        statement = statement.where(events.c.position <= until)
    return [RecordedEvent(*row) for row in connection.execute(statement)]


def _filtered(wanted: Filter) -> Select[Any]:
    statement = select(*_COLUMNS).order_by(events.c.position)
    if wanted.site_id is not None:
        statement = statement.where(events.c.site_id == wanted.site_id)
    if wanted.coupon_id is not None:
        statement = statement.where(events.c.coupon_id == wanted.coupon_id)
    if isinstance(wanted.type_, str):
        statement = statement.where(events.c.type == wanted.type_)
    elif wanted.type_ is not None:
        statement = statement.where(events.c.type.in_(sorted(wanted.type_)))
    return statement
