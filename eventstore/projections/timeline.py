"""One coupon's events in outline, and what their order in truth tells: what came before each, which use it was, what disagrees.

A coupon may have a hundred thousand uses, and what came before an event may have been recorded long after it. So all its events
are read, but only what orders and counts is kept of each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, select

from eventstore.log.tables import events
from eventstore.projections.moment import Moment, of_coupons, until

PIECE_EVENTS = 1_000
"""Events whose payloads are in memory at a time: about 1 MB."""

LIFE = ("coupon.created", "coupon.deleted")
TOLD = ("coupon.created", "coupon.updated", "coupon.deleted", "coupon.applied", "coupon.observed")
"""The events that a coupon's state is made of; others about it (its loyalty side, families that are not known) only stand
beside them."""


class Line(NamedTuple):
    """What orders and counts of an event. `order`: whose use it tells, as redemptions are keyed; None for what is no use."""

    position: int
    event_time: datetime
    event_id: str
    sequence: int | None
    type: str
    entity_id: str
    has_coupon: bool
    order: str | None


def by_time(line: Line) -> tuple[Any, ...]:
    return line.event_time, line.event_id


def by_sequence(line: Line) -> tuple[Any, ...]:
    return line.sequence, line.event_time, line.event_id


def _of_higher_sequence(one: Line, other: Line) -> Line:
    return max(one, other, key=by_sequence)


def _later(one: Line, other: Line) -> Line:
    return max(one, other, key=by_time)


def _sooner(one: Line, other: Line) -> Line:
    return min(one, other, key=by_time)


class Earlier:
    """The latest of some events among those earlier than a given one, by the rule of the models (coupons.sql).

    Between two that carry a sequence the sequence decides, else the time, then the event id. That relation has cycles, so
    there is one champion among those with a sequence and one among those without, compared last.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        told = list(lines)
        self._sequenced = sorted((line for line in told if line.sequence is not None), key=by_sequence)
        self._others = sorted((line for line in told if line.sequence is None), key=by_time)
        self._timed = sorted(self._sequenced, key=by_time)
        self._best = list(accumulate(self._timed, _of_higher_sequence))

    def than(self, line: Line) -> Line | None:
        """The latest that is earlier than this event; None if none is."""
        champions: list[Line] = []
        if line.sequence is not None:
            if lower := bisect_left(self._sequenced, by_sequence(line), key=by_sequence):
                champions.append(self._sequenced[lower - 1])
        elif sooner := bisect_left(self._timed, by_time(line), key=by_time):
            champions.append(self._best[sooner - 1])
        if sooner := bisect_left(self._others, by_time(line), key=by_time):
            champions.append(self._others[sooner - 1])
        return max(champions, key=by_time, default=None)


class Disagreements:
    """Events of one entity whose sequences and times say opposite things of which came first."""

    def __init__(self, lines: Iterable[Line]) -> None:
        found = sorted((line for line in lines if line.sequence is not None), key=by_sequence)
        self._sequences = [line.sequence or 0 for line in found]
        self._latest_so_far = list(accumulate(found, _later))
        self._earliest_from = list(accumulate(reversed(found), _sooner))[::-1]

    def with_(self, line: Line) -> Line | None:
        """Another event that this one disagrees with: of a lower sequence and later, or of a higher one and earlier."""
        if line.sequence is None:
            return None
        lower = bisect_left(self._sequences, line.sequence)
        if lower and (before := self._latest_so_far[lower - 1]).event_time > line.event_time:
            return before
        higher = bisect_right(self._sequences, line.sequence)
        if higher < len(self._sequences) and (after := self._earliest_from[higher]).event_time < line.event_time:
            return after
        return None


class Timeline:
    """All events of one coupon that count at a moment, in outline."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        """In the order recorded."""
        told = [line for line in lines if line.type in TOLD]
        self.snapshots = Earlier(line for line in told if line.has_coupon)
        self.life = Earlier(line for line in told if line.type in LIFE)
        self._first_reports: dict[str, Line] = {}
        for line in told:
            if line.order is not None:
                first = self._first_reports.get(line.order)
                self._first_reports[line.order] = line if first is None else min(first, line, key=by_time)
        self._rank = {
            line.position: number
            for number, line in enumerate(sorted(self._first_reports.values(), key=by_time), start=1)
        }
        entities: dict[str, list[Line]] = {}
        for line in lines:
            entities.setdefault(line.entity_id, []).append(line)
        self._disagreements = {entity: Disagreements(several) for entity, several in entities.items()}

    def first_report(self, line: Line) -> Line | None:
        """The earliest report of the use that this event tells, which may be itself; None if it tells none."""
        return None if line.order is None else self._first_reports.get(line.order)

    def use_number(self, line: Line) -> int | None:
        """Which use of the coupon it is, from 1 and in order of time; None for what is no use's first report."""
        return self._rank.get(line.position)

    def disagrees_with(self, line: Line) -> Line | None:
        """An event of the same entity that by sequence and by time stands on different sides of this one."""
        return self._disagreements[line.entity_id].with_(line)


def read_timeline(connection: Connection, site_id: str, coupon_id: str, moment: Moment) -> Timeline:
    """The outline of all events of a coupon that count at the moment."""
    columns = [events.c[name] for name in ("position", "event_time", "event_id", "sequence", "type", "entity_id")]
    statement = (
        select(*columns, events.c.payload)
        .where(of_coupons([(site_id, coupon_id)]), until(moment))
        .execution_options(yield_per=PIECE_EVENTS)
    )
    lines = []
    for row in connection.execute(statement):
        told = orjson.loads(row.payload)
        order = None
        if row.type == "coupon.applied":
            # As in redemptions.sql: a use reported without an order counts by itself.
            order = told.get("order_id", f"event:{row.event_id}")
        lines.append(
            Line(
                position=row.position,
                event_time=row.event_time,
                event_id=row.event_id,
                sequence=row.sequence,
                type=row.type,
                entity_id=row.entity_id,
                has_coupon="coupon" in told,
                order=order,
            )
        )
    # Here and not by the database, which would sort the payloads too.
    lines.sort()
    return Timeline(lines)
