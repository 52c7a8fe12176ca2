"""Quarantine as people work with it: what is kept there, what today's readers make of it, and how it was dealt with.

An entry is evidence and never changes. Only when and how it was resolved is written to it, once; none is ever deleted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Select, func, select, update

from eventstore import wix
from eventstore.errors import EventStoreError, InputError, NotFound
from eventstore.event import INT64_MAX, Event
from eventstore.ingest import OBSERVED_AT, UNKNOWN_ROUTE, UNKNOWN_SITE, Route, read_delivery
from eventstore.log import reader
from eventstore.log.engine import write_transaction
from eventstore.log.records import OutcomeKind, Prepared, Rejected, body_hash, now, prepare
from eventstore.log.tables import quarantine
from eventstore.wix.jwt import is_jwt

PAGE_ENTRIES = 100
"""Entries in a page of the list."""
NOTE_LENGTH = 500
"""Characters that a person's note may have at most."""
KINDS = (OutcomeKind.CONFLICT.value, OutcomeKind.QUARANTINED.value)
"""Why an entry is here: its id stands in the log with other content, or it could not become an event at all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A delivery in quarantine, without its bytes. `size` is theirs; `position` that of the event it contradicts.

    `resolved_at` and `resolution` are None while it is open.
    """

    id: int
    kind: str
    site_id: str
    route: str
    handler: str | None
    event_id: str | None
    position: int | None
    reason: str
    size: int
    received_at: datetime
    resolved_at: datetime | None
    resolution: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two tellings of an event differ: a path in its canonical content. None: absent there."""

    path: str
    logged: Any
    quarantined: Any


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What stands in the log under a conflict's id. `problem` says why the two cannot be compared, else it is None."""

    position: int
    differences: tuple[Difference, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class KeptEntry(Entry):
    """An entry with all that is kept: the delivery's exact bytes, and those of its headers that may be kept."""

    headers: dict[str, str] | None
    body: bytes
    contradiction: Contradiction | None = None


def list_quarantined(
    engine: Engine,
    *,
    kind: str | None = None,
    site_id: str | None = None,
    resolved: bool = False,
    after: int = 0,
    limit: int = PAGE_ENTRIES,
) -> list[Entry]:
    """A page of entries with ids above `after`, oldest first; `resolved`: also those dealt with. Filters combine."""
    statement = _filtered(select(*_COLUMNS), kind, site_id, resolved)
    with engine.connect() as connection:
        return [Entry(*row) for row in connection.execute(statement.where(quarantine.c.id > after).limit(limit))]


def show_quarantined(engine: Engine, entry_id: int) -> KeptEntry:
    """One entry with its bytes, a conflict with what it contradicts. Raises NotFound."""
    kept = kept_entry(engine, entry_id)
    return replace(kept, contradiction=_contradiction(engine, kept))


def resolve_quarantined(engine: Engine, ids: Iterable[int], note: str) -> None:
    """Mark entries as dealt with by a person, whose note says how; all of them or none.

    Raises NotFound, and InputError for an entry that is resolved already or a note that is no line of text.
    """
    _require_note(note)
    with write_transaction(engine) as connection:
        # In one order everywhere, so that two people never wait for each other's rows.
        for entry_id in sorted(set(ids)):
            _entry(connection, entry_id)
            if not mark_resolved(connection, entry_id, note):
                raise InputError(told_resolved(_entry(connection, entry_id)))


# Entries

_COLUMNS = (
    quarantine.c.id,
    quarantine.c.kind,
    quarantine.c.site_id,
    quarantine.c.route,
    quarantine.c.handler,
    quarantine.c.event_id,
    quarantine.c.position,
    quarantine.c.reason,
    func.length(quarantine.c.body),
    quarantine.c.received_at,
    quarantine.c.resolved_at,
    quarantine.c.resolution,
)


def _filtered(statement: Select[Any], kind: str | None, site_id: str | None, resolved: bool) -> Select[Any]:
    if kind is not None:
        if kind not in KINDS:
            raise InputError(f"unknown kind {kind!r}; kinds are {', '.join(KINDS)}")
        statement = statement.where(quarantine.c.kind == kind)
    if site_id is not None:
        statement = statement.where(quarantine.c.site_id == site_id)
    if not resolved:
        statement = statement.where(quarantine.c.resolved_at.is_(None))
    return statement.order_by(quarantine.c.id)


def _row(connection: Connection, entry_id: int, *more: Any) -> tuple[Any, ...]:
    # Beyond 64 bits the drivers fail in ways of their own.
    found = None
    if 1 <= entry_id <= INT64_MAX:
        found = connection.execute(select(*_COLUMNS, *more).where(quarantine.c.id == entry_id)).first()
    if found is None:
        raise NotFound(f"there is no entry {entry_id} in quarantine; `eventstore quarantine list --all` shows them")
    return found


def _entry(connection: Connection, entry_id: int) -> Entry:
    return Entry(*_row(connection, entry_id))


def kept_entry(engine: Engine, entry_id: int) -> KeptEntry:
    """One entry with its bytes, not compared with anything. Raises NotFound."""
    with engine.connect() as connection:
        return KeptEntry(*_row(connection, entry_id, quarantine.c.headers, quarantine.c.body))


def first_received(engine: Engine, site_id: str, body: bytes) -> datetime | None:
    """When a delivery of these bytes was first taken into quarantine, if it ever was."""
    statement = select(func.min(quarantine.c.received_at)).where(
        quarantine.c.site_id.in_((site_id, UNKNOWN_SITE)), quarantine.c.body_hash == body_hash(body)
    )
    with engine.connect() as connection:
        return connection.execute(statement).scalar()


def require_entries(engine: Engine, ids: Iterable[int]) -> None:
    """Raise NotFound for the first id that no entry has."""
    with engine.connect() as connection:
        for entry_id in ids:
            _entry(connection, entry_id)


def mark_resolved(connection: Connection, entry_id: int, resolution: str) -> bool:
    """Whether it was this call that resolved the entry: of two at once, one does."""
    done = connection.execute(
        update(quarantine)
        .where(quarantine.c.id == entry_id, quarantine.c.resolved_at.is_(None))
        .values(resolved_at=now(), resolution=resolution)
    )
    return done.rowcount == 1


def told_resolved(entry: Entry) -> str:
    """When and how a resolved entry was resolved, as a sentence."""
    return f"entry {entry.id} was resolved at {entry.resolved_at:%Y-%m-%d %H:%M:%S} UTC: {entry.resolution}"


def _require_note(note: str) -> None:
    """A note is shown in one line, and stored as UTF-8."""
    if not note.strip() or len(note) > NOTE_LENGTH:
        raise InputError(f"a note says in 1 to {NOTE_LENGTH} characters how the entry was dealt with")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in note):
        raise InputError("a note is one line of text, without control characters")


# Reading again


def read_again(engine: Engine, kept: KeptEntry) -> list[Prepared | Rejected]:
    """What today's readers make of the kept bytes, told what was known of the delivery. Raises EventStoreError."""
    if is_jwt(kept.body):
        from eventstore.webhooks import reread

        return reread(engine, kept.body, at=kept.received_at)
    event = _own_payload(kept)
    if event is not None:
        return [prepare(event)]
    document = wix.decode(kept.body)
    handler = document.get("handler")
    # A wrapper that its door did not open names another route or handler than the ones it came by.
    opened = document.get("route") == kept.route and (not isinstance(handler, str) or handler == kept.handler)
    route = None if kept.route == UNKNOWN_ROUTE else kept.route
    observed_at = kept.received_at
    if kept.headers and OBSERVED_AT in kept.headers:
        observed_at = datetime.fromisoformat(kept.headers[OBSERVED_AT])
    how = Route(route, kept.handler, observed_at, kept.headers)
    return read_delivery(kept.body, how, lambda _: kept.site_id, may_wrap=opened)


def _own_payload(kept: KeptEntry) -> Event | None:
    """The event that was appended from Python, not delivered: its canonical JSON was kept for want of other bytes."""
    if kept.event_id is None:  # it never was an event, so that these bytes are a stranger's
        return None
    try:
        event = Event.from_payload(kept.body)
    except ValueError:
        return None
    told = (event.event_id, event.site_id, event.source.value)
    own = told == (kept.event_id, kept.site_id, kept.route) and event.encode()[0] == kept.body
    return event if own else None


def _contradiction(engine: Engine, kept: KeptEntry) -> Contradiction | None:
    if kept.kind != OutcomeKind.CONFLICT or kept.event_id is None:
        return None
    logged = reader.find(engine, kept.event_id, site_id=kept.site_id)
    if logged is None:
        return None
    try:
        read = read_again(engine, kept)
    except EventStoreError as error:
        return Contradiction(logged.position, (), str(error))
    for entry in read:
        if isinstance(entry, Rejected):
            return Contradiction(logged.position, (), entry.reason)
        if entry.event_id == kept.event_id:
            told = Event.from_payload(entry.payload)
            return Contradiction(logged.position, tuple(_differences(logged.event, told)))
    return Contradiction(logged.position, (), "today's readers find another id in the kept bytes")


def _differences(logged: Event, told: Event) -> Iterator[Difference]:
    yield from _compared("", orjson.loads(logged.content_json()), orjson.loads(told.content_json()))
    # No part of the content, but two sequences are two events.
    if logged.sequence is not None and told.sequence is not None and logged.sequence != told.sequence:
        yield Difference("sequence", logged.sequence, told.sequence)


def _compared(path: str, logged: Any, told: Any) -> Iterator[Difference]:
    if isinstance(logged, dict) and isinstance(told, dict):
        for name in {**logged, **told}:
            yield from _compared(f"{path}.{name}" if path else name, logged.get(name), told.get(name))
    elif logged != told:
        yield Difference(path, logged, told)
