"""Events that a handler could not take. Each parks its subject for that handler alone; everything else goes on.

A letter with `retry_at` is tried again then, by whoever runs the handler; one without waits for a person. When its event is
handled at last, or skipped, it is resolved, and those of its subject that came meanwhile follow in order, read from the log: a
letter without a failure moves along with them and keeps what is done of them, until it is one of a failure or there is no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, delete, func, select, update

from eventstore.errors import InputError, NotFound
from eventstore.handlers.feed import Fed, Subject
from eventstore.handlers.positions import Holder
from eventstore.log.engine import write_transaction
from eventstore.log.records import now
from eventstore.log.tables import handler_dead_letters

HANDLED, SKIPPED = "handled", "skipped"
"""How a letter is resolved."""
FOLLOWING = "what waited behind an event that could not be taken is being handled"
"""The reason of a letter that nothing has failed for yet."""
SKIP = "skip"
"""The resolution of an open letter whose event is to be left out, once the handler's process comes to it."""
NOTE_LENGTH = 500
_row = handler_dead_letters.c


@dataclass(frozen=True, slots=True)
class HandlerDeadLetter:
    """An event that a handler could not take; later ones of `subject_id`, its coupon or entity, wait for that handler.

    `retry_at`: when it is tried again; None while it waits for a person, and once it is resolved. `resolution`: handled or
    skipped; None or `skip` (to be skipped) while it is open.
    """

    id: int
    name: str
    handler: str
    position: int
    handled_to: int
    site_id: str
    subject_id: str
    event_id: str
    attempts: int
    reason: str
    parked_at: datetime
    retry_at: datetime | None
    begun_at: datetime | None
    resolved_at: datetime | None
    resolution: str | None
    note: str | None

    @property
    def subject(self) -> Subject:
        """Whose later events wait."""
        return self.site_id, self.subject_id

    @property
    def follows(self) -> bool:
        """Whether it is no failure, but what waited behind one and is being handled."""
        return self.reason == FOLLOWING


def list_letters(
    connection: Connection,
    *,
    name: str | None = None,
    handler: str | None = None,
    site_id: str | None = None,
    resolved: bool = False,
    after: int = 0,
    limit: int = 100,
) -> list[HandlerDeadLetter]:
    """A page of the open letters, oldest first; `resolved`: also those dealt with."""
    query = select(handler_dead_letters).where(_row.id > after).order_by(_row.id).limit(limit)
    if not resolved:
        query = query.where(_row.resolved_at.is_(None))
    for column, wanted in ((_row.name, name), (_row.handler, handler), (_row.site_id, site_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    return [_letter(row) for row in connection.execute(query)]


def show_letter(connection: Connection, letter_id: int) -> HandlerDeadLetter:
    """One letter. Raises NotFound."""
    row = connection.execute(select(handler_dead_letters).where(_row.id == letter_id)).one_or_none()
    if row is None:
        raise NotFound(
            f"there is no dead letter {letter_id} of a handler; `eventstore handlers dead-letters` shows those that are open"
        )
    return _letter(row)


def open_subjects(connection: Connection, name: str, handler: str) -> dict[Subject, int]:
    """The subjects that wait for a handler, and their letters."""
    query = select(_row.site_id, _row.subject_id, _row.id).where(
        _row.name == name, _row.handler == handler, _row.resolved_at.is_(None)
    )
    return {(site, subject): letter for site, subject, letter in connection.execute(query)}


def due_letters(
    connection: Connection, name: str, handler: str, moment: datetime, limit: int
) -> Sequence[HandlerDeadLetter]:
    """The letters that are to be tried again by now, the one due longest first."""
    query = (
        select(handler_dead_letters)
        .where(_row.name == name, _row.handler == handler, _row.resolved_at.is_(None), _row.retry_at <= moment)
        .order_by(_row.retry_at)
        .limit(limit)
    )
    return [_letter(row) for row in connection.execute(query)]


def waiting(connection: Connection, name: str | None = None) -> dict[tuple[str, str], tuple[int, int]]:
    """By set and handler: how many open letters there are, and how many of them wait for a person."""
    query = (
        select(_row.name, _row.handler, func.count(), func.count().filter(_row.retry_at.is_(None)))
        .where(_row.resolved_at.is_(None))
        .group_by(_row.name, _row.handler)
    )
    if name is not None:
        query = query.where(_row.name == name)
    return {(each, handler): (total, alone) for each, handler, total, alone in connection.execute(query)}


def park(
    engine: Engine, holder: Holder, fed: Fed, *, attempts: int, reason: str, retry_at: datetime | None
) -> int | None:
    """Park an event with its subject: its letter's id; None where another process has taken the handler over."""
    with write_transaction(engine, durable=False) as connection:
        if not holder.holds(connection):
            return None
        return _add(connection, holder, fed, attempts=attempts, reason=reason, retry_at=retry_at).id


def follow(
    engine: Engine, holder: Holder, letter: HandlerDeadLetter, resolution: str, fed: Fed
) -> HandlerDeadLetter | None:
    """Resolve a letter whose event is done, and begin with the first one behind it: the letter that moves along from there;
    None where another process has taken the handler over."""
    with write_transaction(engine, durable=False) as connection:
        if not holder.holds(connection):
            return None
        resolve(connection, letter, resolution, letter.position)
        # Due at once, should nobody come to it now.
        return _add(connection, holder, fed, attempts=1, reason=FOLLOWING, retry_at=now(), begun_at=now())


def _add(connection: Connection, holder: Holder, fed: Fed, **facts: object) -> HandlerDeadLetter:
    site, subject = fed.subject
    added = connection.execute(
        handler_dead_letters.insert()
        .values(
            name=holder.name,
            handler=holder.handler,
            position=fed.position,
            handled_to=fed.position - 1,
            site_id=site,
            subject_id=subject,
            event_id=fed.event_id,
            parked_at=now(),
            **facts,
        )
        .returning(*_row)
    )
    return _letter(added.one())


def begin(engine: Engine, holder: Holder, letter_id: int, fed: Fed, attempts: int) -> bool:
    """Write down, before it is done, that this event is tried once more; False where the handler is another process's now."""
    return _change(
        engine,
        holder,
        letter_id,
        lambda _: {"position": fed.position, "event_id": fed.event_id, "begun_at": now(), "attempts": attempts},
    )


def fail(
    engine: Engine,
    holder: Holder,
    letter_id: int,
    fed: Fed,
    *,
    attempts: int,
    reason: str,
    retry_at: datetime | None,
) -> bool:
    """Say that the letter's event could not be taken this time either, or at all where it is one that had waited behind."""
    facts = {
        "position": fed.position,
        "event_id": fed.event_id,
        "attempts": attempts,
        "reason": reason,
        "begun_at": None,
    }

    def failed(letter: HandlerDeadLetter) -> dict[str, object]:
        since = {"parked_at": now()} if letter.follows else {}
        return facts | since | _next_try(letter, fed.position, retry_at)

    return _change(engine, holder, letter_id, failed)


def put_off(engine: Engine, holder: Holder, letter_id: int, fed: Fed, retry_at: datetime, attempts: int) -> bool:
    """Try a letter again later, as nothing was tried now."""
    return _change(
        engine,
        holder,
        letter_id,
        lambda letter: {"begun_at": None, "attempts": attempts} | _next_try(letter, fed.position, retry_at),
    )


def _next_try(letter: HandlerDeadLetter, position: int, retry_at: datetime | None) -> dict[str, object]:
    # A person may have said meanwhile that just this event is to be skipped.
    if letter.resolution == SKIP and letter.position == position:
        return {"resolution": SKIP, "retry_at": now()}
    return {"resolution": None, "retry_at": retry_at}


def advance(connection: Connection, letter_id: int, position: int) -> bool:
    """Say that the subject's events are handled up to `position`; False if that was said already, or the letter is resolved."""
    written = connection.execute(
        update(handler_dead_letters)
        .where(_row.id == letter_id, _row.handled_to < position, _row.resolved_at.is_(None))
        .values(handled_to=position, begun_at=None, attempts=0)
    )
    return bool(written.rowcount)


def resolve(connection: Connection, letter: HandlerDeadLetter, resolution: str, position: int) -> None:
    """All of its subject up to `position` is done. One that was never a failure goes."""
    if letter.follows:
        connection.execute(delete(handler_dead_letters).where(_row.id == letter.id))
        return
    connection.execute(
        update(handler_dead_letters)
        .where(_row.id == letter.id)
        .values(resolved_at=now(), resolution=resolution, handled_to=position, begun_at=None, retry_at=None)
    )


def resolve_behind(connection: Connection, name: str, handler: str, position: int) -> int:
    """Close the open letters of events above `position`: the handler is to be given them anew. Returns how many."""
    written = connection.execute(
        update(handler_dead_letters)
        .where(_row.name == name, _row.handler == handler, _row.resolved_at.is_(None), _row.handled_to >= position)
        .values(resolved_at=now(), resolution="replayed", begun_at=None, retry_at=None)
    )
    return written.rowcount


def found_begun(engine: Engine, name: str, handler: str, attempts: int, waits: timedelta, *, alive: bool) -> None:
    """Of letters that were being tried when their process ended: try them later, or leave them to people after so many.

    `alive`: it was this very process, which only lost the database: that was no attempt.
    """
    with write_transaction(engine, durable=False) as connection:
        begun = and_(_row.name == name, _row.handler == handler, _row.begun_at.is_not(None), _row.resolved_at.is_(None))
        for row in connection.execute(select(handler_dead_letters).where(begun)).all():
            letter = _letter(row)
            facts: dict[str, object] = {"begun_at": None}
            if alive:
                facts |= {"attempts": max(letter.attempts - 1, 0), "retry_at": now() + waits}
            else:
                facts |= {
                    "reason": "the process ended while the event was handled",
                    "retry_at": None if letter.attempts >= attempts else now() + waits,
                }
            if letter.resolution == SKIP:
                facts["retry_at"] = now()
            connection.execute(update(handler_dead_letters).where(_row.id == letter.id).values(**facts))


def retry(engine: Engine, letter_ids: Sequence[int] | None, *, name: str | None, handler: str | None) -> int:
    """Have letters tried again at once; None: all that are open, of that set and handler if given. Returns how many.

    Raises NotFound, and InputError for one that is resolved.
    """
    with write_transaction(engine) as connection:
        for each in letter_ids or ():
            _open(connection, each)
        wanted: list[ColumnElement[bool]] = [_row.resolved_at.is_(None)]
        if letter_ids is not None:
            wanted.append(_row.id.in_(letter_ids))
        for column, value in ((_row.name, name), (_row.handler, handler)):
            if value is not None:
                wanted.append(column == value)
        written = connection.execute(
            update(handler_dead_letters).where(*wanted).values(retry_at=now(), attempts=0, resolution=None, note=None)
        )
        return written.rowcount


def skip(engine: Engine, letter_id: int, note: str) -> HandlerDeadLetter:
    """Have an event left out for good, and what waits behind it handled. Raises NotFound, InputError."""
    if not note.strip() or len(note) > NOTE_LENGTH:
        raise InputError(f"say why it is skipped, in 1 to {NOTE_LENGTH} characters")
    with write_transaction(engine) as connection:
        letter = _open(connection, letter_id)
        if letter.resolution == SKIP:
            raise InputError(
                f"the dead letter {letter_id} is to be skipped already, as soon as its handler runs: {letter.note}"
            )
        if letter.follows:
            raise InputError(f"the dead letter {letter_id} is of no failure: {letter.reason}")
        connection.execute(
            update(handler_dead_letters).where(_row.id == letter_id).values(retry_at=now(), resolution=SKIP, note=note)
        )
    return letter


def _open(connection: Connection, letter_id: int) -> HandlerDeadLetter:
    letter = show_letter(connection, letter_id)
    if letter.resolved_at is not None:
        raise InputError(
            f"the dead letter {letter_id} was {letter.resolution} already, at {letter.resolved_at:%Y-%m-%d %H:%M}"
        )
    return letter


def _change(
    engine: Engine, holder: Holder, letter_id: int, facts: Callable[[HandlerDeadLetter], dict[str, object]]
) -> bool:
    """Write to an open letter what `facts` says of it; False where the handler is another process's now."""
    with write_transaction(engine, durable=False) as connection:
        if not holder.holds(connection):
            return False
        found = select(handler_dead_letters).where(_row.id == letter_id, _row.resolved_at.is_(None))
        row = connection.execute(found.with_for_update()).one_or_none()
        if row is not None:
            connection.execute(update(handler_dead_letters).where(_row.id == letter_id).values(**facts(_letter(row))))
    return True


def _letter(row: Row[tuple[object, ...]]) -> HandlerDeadLetter:
    return HandlerDeadLetter(**row._mapping)
