"""Dead letters: events that a projection could not take. Each parks its subject, and the rest goes on.

The subject of an event is its coupon, or its entity where it names no coupon. An open letter leaves out of its projection,
and of those made of it, all events of its subject from that event on, until it is retried or skipped; a skipped one leaves
out that event alone, for good.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, Row, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from eventstore.errors import InputError, NotFound
from eventstore.log.engine import said
from eventstore.log.records import now
from eventstore.log.subjects import SUBJECT, is_about
from eventstore.log.tables import dead_letters, events

RETRIED, SKIPPED = "retried", "skipped"
"""How a letter is resolved: its event was taken in after all, or is left out for good."""
REASON_LENGTH = 300
"""Characters kept of what a model or the database said."""
_INPUT = re.compile(r"\s*Input: .*$", re.DOTALL)
"""Where DuckDB goes on to quote the JSON text that it could not read."""
_QUOTED = re.compile(r"[\"'].*[\"']", re.DOTALL)
"""From the first quote to the last: a value may hold some itself."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a projection leaves out: of one subject the event at `position` (`skipped`), or that and all after it (parked)."""

    site_id: str
    subject_id: str
    position: int
    skipped: bool


@dataclass(frozen=True, slots=True)
class NewLetter:
    """An event that is to be parked, and why."""

    projection: str
    position: int
    site_id: str
    subject_id: str
    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a projection could not take. `subject_id`: the coupon that waits, or the entity of an event without one.

    `reason` is what the model or the database said, without what it quoted. `resolution`: retried or skipped; None: open.
    """

    id: int
    projection: str
    position: int
    site_id: str
    subject_id: str
    event_id: str
    reason: str
    parked_at: datetime
    resolved_at: datetime | None
    resolution: str | None
    note: str | None


def left_out(connection: Connection, root: str) -> list[LeftOut]:
    """What the projection `root` (as `Catalogue.root` names it), and those made of it, leave out; by position."""
    return all_left_out(connection).get(root, [])


def all_left_out(connection: Connection) -> dict[str, list[LeftOut]]:
    """What every projection leaves out, by the name of its root."""
    letter = dead_letters.c
    found: dict[str, list[LeftOut]] = defaultdict(list)
    for root, site, subject, position, resolved in connection.execute(
        select(letter.projection, letter.site_id, letter.subject_id, letter.position, letter.resolved_at)
        .where(or_(letter.resolved_at.is_(None), letter.resolution == SKIPPED))
        .order_by(letter.position)
    ):
        found[root].append(LeftOut(site, subject, position, resolved is not None))
    return found


def excluded_positions(
    connection: Connection, roots: Iterable[str], until: int, subjects: Collection[tuple[str, str]] | None = None
) -> dict[str, frozenset[int]]:
    """By root, the positions up to `until` that it leaves out. `subjects`: of these (site, id) alone; None: of all."""
    found = {}
    letters = all_left_out(connection)
    for root in roots:
        positions: set[int] = set()
        for letter in letters.get(root, []):
            if letter.position > until or (subjects and (letter.site_id, letter.subject_id) not in subjects):
                continue
            positions.add(letter.position)
            if not letter.skipped:
                waiting = select(events.c.position).where(
                    is_about(letter.site_id, letter.subject_id), events.c.position.between(letter.position, until)
                )
                positions.update(connection.execute(waiting).scalars())
        found[root] = frozenset(positions)
    return found


def parked_subjects(connection: Connection) -> int:
    """How many coupons (and other entities) wait, whatever the number of projections that they wait for."""
    subjects = (
        select(dead_letters.c.site_id, dead_letters.c.subject_id)
        .where(dead_letters.c.resolved_at.is_(None))
        .distinct()
        .subquery()
    )
    return int(connection.execute(select(func.count()).select_from(subjects)).scalar_one())


def list_dead_letters(
    engine: Engine,
    *,
    projection: str | None = None,
    site_id: str | None = None,
    resolved: bool = False,
    after: int = 0,
    limit: int = 100,
) -> list[DeadLetter]:
    """A page of the open letters, oldest first; `resolved`: also those dealt with."""
    letter = dead_letters.c
    query = select(dead_letters).where(letter.id > after).order_by(letter.id).limit(limit)
    if not resolved:
        query = query.where(letter.resolved_at.is_(None))
    if projection is not None:
        query = query.where(letter.projection == projection)
    if site_id is not None:
        query = query.where(letter.site_id == site_id)
    with engine.connect() as connection:
        return [_letter(row) for row in connection.execute(query)]


def show_dead_letter(connection: Connection, letter_id: int) -> DeadLetter:
    """One letter. Raises NotFound."""
    row = connection.execute(select(dead_letters).where(dead_letters.c.id == letter_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no dead letter {letter_id}; `eventstore dead-letters list` shows those that are open")
    return _letter(row)


def open_letter(connection: Connection, letter_id: int) -> DeadLetter:
    """One letter that is open. Raises NotFound, and InputError if it is resolved."""
    letter = show_dead_letter(connection, letter_id)
    if letter.resolved_at is not None:
        raise InputError(
            f"the dead letter {letter_id} was {letter.resolution} already, at {letter.resolved_at:%Y-%m-%d %H:%M}"
        )
    return letter


def open_ids(connection: Connection, roots: Collection[str]) -> list[int]:
    """The open letters of these projections, oldest first."""
    letter = dead_letters.c
    query = select(letter.id).where(letter.resolved_at.is_(None), letter.projection.in_(roots)).order_by(letter.id)
    return list(connection.execute(query).scalars())


def find_open(connection: Connection, root: str, position: int) -> int | None:
    """The open letter of this event, if there is one."""
    letter = dead_letters.c
    return connection.execute(
        select(letter.id).where(letter.projection == root, letter.position == position, letter.resolved_at.is_(None))
    ).scalar()


def letter_of(connection: Connection, root: str, position: int, reason: str) -> NewLetter:
    """A letter for the event at this position of the log."""
    row = events.c
    site_id, subject_id, event_id = connection.execute(
        select(row.site_id, SUBJECT, row.event_id).where(row.position == position)
    ).one()
    return NewLetter(root, position, site_id, subject_id, event_id, reason)


def park(connection: Connection, letter: NewLetter) -> None:
    """Write an open letter down. One of that event that was resolved before is open again."""
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(dead_letters)
    connection.execute(
        insert.values(
            projection=letter.projection,
            position=letter.position,
            site_id=letter.site_id,
            subject_id=letter.subject_id,
            event_id=letter.event_id,
            reason=letter.reason,
            parked_at=now(),
        ).on_conflict_do_update(
            index_elements=["projection", "position"],
            set_={
                "reason": insert.excluded.reason,
                "parked_at": insert.excluded.parked_at,
                "resolved_at": None,
                "resolution": None,
                "note": None,
            },
        )
    )


def resolve(connection: Connection, letter_id: int, resolution: str, note: str | None = None) -> None:
    """Mark a letter as `retried` or `skipped`."""
    connection.execute(
        update(dead_letters)
        .where(dead_letters.c.id == letter_id)
        .values(resolved_at=now(), resolution=resolution, note=note)
    )


def reason_of(error: BaseException) -> str:
    """What a model or the database said against an event, in a line and without what it quoted of the event."""
    text = _INPUT.sub("", said(error))
    text = _QUOTED.sub("…", text)
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _letter(row: Row[tuple[object, ...]]) -> DeadLetter:
    return DeadLetter(**row._mapping)
