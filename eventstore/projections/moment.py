"""The moments that state can be asked as of. There are two meanings, and they differ whenever a delivery comes late.

*True at T*: all that happened by T (`event_time`), whenever it was recorded: what is known today of that day.
*Known at T*: all that the log had recorded by T, whenever it happened: what one would have seen then. Since `recorded_at` never
runs backwards with position, that is all up to a position, which can be given itself. Both together: what was known at one
time of what was true at another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from itertools import groupby
from typing import TypedDict

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Connection, and_, or_

from eventstore.errors import InputError, StoreUnavailable
from eventstore.event import INT64_MAX
from eventstore.log.reader import recorded_at
from eventstore.log.records import now
from eventstore.log.schema import head_size
from eventstore.log.tables import events

Key = tuple[str, str]
"""A coupon: its site and its id."""


class Moment(BaseModel):
    """What state is as of: of the events up to `position`, those that had happened by `true_at`. Times are UTC."""

    model_config = ConfigDict(frozen=True)

    true_at: datetime | None = Field(description="Only what had happened by then counts; null: whenever it happened.")
    known_at: datetime | None = Field(description="Only what was recorded by then counts, if this was asked for.")
    position: int = Field(description="Events up to this position of the log count: what was known.")
    status_at: datetime = Field(description="The instant that the status is as of.")


def read_time(text: str, name: str) -> datetime:
    """A moment as people write it: an ISO 8601 time, UTC unless it names its zone; or a date, which means the end of that
    UTC day, so that as of 2026-09-30 the 30th is over. Raises InputError naming the parameter."""
    wanted = (
        f"{name}={text!r} is no moment: give a date (its end, UTC) or a time, as in 2026-09-30 or 2026-09-30T12:00:00Z"
    )
    try:
        try:
            found = datetime.combine(date.fromisoformat(text), time.max)
        except ValueError:
            found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        hint = " (in an address, + is written %2B)" if re.search(r"T.* \d", text) else ""
        raise InputError(wanted + hint) from None


class Asked(TypedDict):
    """The parameters that say a moment, as callers give them; each None: now."""

    as_of: datetime | None
    known_at: datetime | None
    at_position: int | None


def resolve(
    connection: Connection,
    *,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
    at_position: int | None = None,
    reached: int | None = None,
) -> Moment | None:
    """The moment that these parameters mean; None when none is given: now.

    The status is as of `as_of`, else `known_at`, else when the event at that position was recorded. Times may be in the
    future. `reached`: as far as the answer can be given, if that is not the head of the log; what is known now then ends
    there. Raises InputError for a position that the log does not have, a time without a zone, and parameters that exclude
    each other; StoreUnavailable for what was known further on than `reached`.
    """
    if as_of is None and known_at is None and at_position is None:
        return None
    for name, given in (("as_of", as_of), ("known_at", known_at)):
        if given is not None and given.tzinfo is None:
            raise InputError(f"{name}={given.isoformat()} names no zone: give an aware time")
    if known_at is not None and at_position is not None:
        raise InputError("known_at and at_position both say what was known: give one of them")
    head = head_size(connection)
    if at_position is not None and not 0 <= at_position <= min(head, INT64_MAX):
        raise InputError(f"at_position={at_position} is no position of the log, which ends at {head}")
    most = head if reached is None else min(head, reached)
    position = most
    if at_position is not None:
        position = at_position
    elif known_at is not None and known_at < now():
        position = position_at(connection, known_at, head)
    if position > most:
        raise StoreUnavailable(
            f"the projections have taken in the log up to position {most}, and not yet to {position}; ask again"
        )
    status_at = as_of or known_at or recorded_at(connection, position) or now()
    return Moment(true_at=as_of, known_at=known_at, position=position, status_at=status_at)


def position_at(connection: Connection, recorded_by: datetime, head: int) -> int:
    """The last position of those up to `head` that were recorded by then; 0 for none.

    Found by halving: positions have no gaps, and recorded times never run backwards.
    """
    low, high = 0, head
    while low < high:
        middle = (low + high + 1) // 2
        recorded = recorded_at(connection, middle)
        if recorded is not None and recorded <= recorded_by:
            low = middle
        else:
            high = middle - 1
    return low


# Which events count


def of_coupons(keys: Sequence[Key]) -> ColumnElement[bool]:
    """The events of these coupons: those that name them, and those of a coupon that name none and are about their entity."""
    parts = []
    for site_id, several in groupby(sorted(keys), key=lambda key: key[0]):
        ids = [coupon_id for _, coupon_id in several]
        parts.append(and_(events.c.site_id == site_id, events.c.coupon_id.in_(ids)))
        parts.append(
            and_(
                events.c.site_id == site_id,
                events.c.coupon_id.is_(None),
                events.c.entity_id.in_(ids),
                events.c.type.like("coupon.%"),
            )
        )
    return or_(*parts)


def until(moment: Moment) -> ColumnElement[bool]:
    """The events that count at a moment."""
    known = events.c.position <= moment.position
    return known if moment.true_at is None else and_(known, events.c.event_time <= moment.true_at)
