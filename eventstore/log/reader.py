"""Reading the log: keyset pages in position order (never OFFSET), by coupon, by id."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, Select, select

from eventstore.log.records import RecordedEvent
from eventstore.log.schema import head_size
from eventstore.log.tables import event_keys, events

PAGE_EVENTS = 1_000
"""Events in a page: about 1 MB of payload."""

_COLUMNS = (events.c.position, events.c.recorded_at, events.c.payload, events.c.leaf_hash)


def head(engine: Engine) -> int:
    """The position of the last event; 0 when the log is empty."""
    with engine.connect() as connection:
        return head_size(connection)


def read(
    engine: Engine,
    *,
    after: int = 0,
    limit: int = PAGE_EVENTS,
    site_id: str | None = None,
    coupon_id: str | None = None,
    type_: str | None = None,
) -> list[RecordedEvent]:
    """At most `limit` events with positions above `after`, in order. Filters combine."""
    statement = _filtered(site_id, coupon_id, type_).where(events.c.position > after).limit(limit)
    with engine.connect() as connection:
        return [RecordedEvent(*row) for row in connection.execute(statement)]


def stream(
    engine: Engine,
    *,
    after: int = 0,
    until: int | None = None,
    site_id: str | None = None,
    coupon_id: str | None = None,
    type_: str | None = None,
    page: int = PAGE_EVENTS,
) -> Iterator[RecordedEvent]:
    """Every event above `after` and up to `until` (default: the head now), a page in memory at a time."""
    last = head(engine) if until is None else until
    while after < last:
        found = read(engine, after=after, limit=page, site_id=site_id, coupon_id=coupon_id, type_=type_)
        for record in found:
            if record.position > last:
                return
            yield record
        if len(found) < page:
            return
        after = found[-1].position


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


def _filtered(site_id: str | None, coupon_id: str | None, type_: str | None) -> Select[Any]:
    statement = select(*_COLUMNS).order_by(events.c.position)
    if site_id is not None:
        statement = statement.where(events.c.site_id == site_id)
    if coupon_id is not None:
        statement = statement.where(events.c.coupon_id == coupon_id)
    if type_ is not None:
        statement = statement.where(events.c.type == type_)
    return statement
