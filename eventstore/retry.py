"""Trying quarantine's entries again: what today's readers make of the kept bytes goes into the log as if just delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from eventstore.errors import EventStoreError, InputError, StoreUnavailable
from eventstore.event import Event
from eventstore.log.append import KnownEvent
from eventstore.log.append import known as known_events
from eventstore.log.engine import write_transaction
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, delivered, prepare
from eventstore.log.tables import quarantine
from eventstore.quarantine import (
    kept_entry,
    list_quarantined,
    mark_resolved,
    read_again,
    require_entries,
    told_resolved,
)

Append = Callable[[list[Prepared | Rejected]], list[Outcome]]
"""Appends entries as a delivery's are and waits until they are durable."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of an entry that was tried again.

    `said` is its resolution, or why it stays open; `outcomes` are those of its events, as far as they could be read.
    """

    id: int
    open: bool
    said: str
    outcomes: tuple[Outcome, ...] = ()


def retry_quarantined(
    engine: Engine,
    append: Append,
    ids: Iterable[int] | None = None,
    *,
    kind: str | None = None,
    site_id: str | None = None,
    derived_id: bool = False,
) -> Iterator[Retried]:
    """Read entries anew and append what they hold; each in turn gives its answer, and one that fails does not stop the rest.

    `ids` None: all that are open now, of one kind or site if given. An entry is resolved once every event of it stands in
    the log. `derived_id`: an event whose id stands there with other content is appended under an id derived from its own
    content, the same at every try. Raises NotFound for an unknown id, before anything is done, and StoreUnavailable.
    """
    if ids is None:
        return _retried(engine, append, _open_ids(engine, kind, site_id), derived_id)
    if kind is not None or site_id is not None:
        raise InputError("give the ids of entries, or the kind or site of those to retry, not both")
    known = list(dict.fromkeys(ids))
    require_entries(engine, known)
    return _retried(engine, append, known, derived_id)


def _open_ids(engine: Engine, kind: str | None, site_id: str | None) -> Iterator[int]:
    """The entries that are open now, a page at a time; what comes while they are tried is left for another time."""
    with engine.connect() as connection:
        last = connection.execute(select(func.max(quarantine.c.id))).scalar() or 0
    after = 0
    while after < last:
        page = list_quarantined(engine, kind=kind, site_id=site_id, after=after)
        yield from (entry.id for entry in page if entry.id <= last)
        after = page[-1].id if page else last


_IN_THE_LOG = (OutcomeKind.APPENDED, OutcomeKind.DUPLICATE)


def _retried(engine: Engine, append: Append, ids: Iterable[int], derived_id: bool) -> Iterator[Retried]:
    for entry_id in ids:
        yield _retry(engine, append, entry_id, derived_id)


def _retry(engine: Engine, append: Append, entry_id: int, derived_id: bool) -> Retried:
    kept = kept_entry(engine, entry_id)
    if kept.resolved_at is not None:
        return Retried(entry_id, False, told_resolved(kept))
    try:
        entries = read_again(engine, kept)
        own_ids = {entry.event_id for entry in entries}
        outcomes = tuple(_append(engine, append, entries, derived_id))
    except StoreUnavailable:
        raise
    except EventStoreError as error:
        return Retried(entry_id, True, str(error))
    if not all(outcome.kind in _IN_THE_LOG for outcome in outcomes):
        kept_here = (
            outcome
            if outcome.kind in _IN_THE_LOG or outcome.quarantine_id
            else outcome._replace(quarantine_id=entry_id)
            for outcome in outcomes
        )
        return Retried(entry_id, True, _why_open(outcomes), tuple(kept_here))
    how = "retried" if all(outcome.event_id in own_ids for outcome in outcomes) else "retried under a derived id"
    resolution = f"{how}: {_told(outcomes)}"
    with write_transaction(engine) as connection:
        done = mark_resolved(connection, entry_id, resolution)
    # Someone else was faster: the event was appended once, the entry resolved once, and theirs is the resolution.
    said = resolution if done else told_resolved(kept_entry(engine, entry_id))
    return Retried(entry_id, False, said, outcomes)


def _append(
    engine: Engine,
    append: Append,
    entries: Sequence[Prepared | Rejected],
    derived_id: bool,
) -> Iterator[Outcome]:
    """One outcome an entry. Only what is new goes to the writer: to it the rest would be a delivery more to be counted."""
    known = _known(engine, entries)
    if derived_id:
        entries = [_derived(entry) if _contradicts(entry, known) else entry for entry in entries]
        known.update(_known(engine, entries))
    told = [_told_before(entry, known) for entry in entries]
    new = iter(append([entry for entry, outcome in zip(entries, told, strict=True) if outcome is None]))
    for outcome in told:
        yield next(new) if outcome is None else outcome


_Known = dict[tuple[str, str], KnownEvent]


def _known(engine: Engine, entries: Sequence[Prepared | Rejected]) -> _Known:
    with engine.connect() as connection:
        return known_events(connection, [entry for entry in entries if isinstance(entry, Prepared)])


def _contradicts(entry: Prepared | Rejected, known: _Known) -> bool:
    told = _told_before(entry, known)
    return told is not None and told.kind is OutcomeKind.CONFLICT


def _told_before(entry: Prepared | Rejected, known: _Known) -> Outcome | None:
    """The outcome of what need not, or cannot, be appended; None for what is new."""
    if isinstance(entry, Rejected):
        return Outcome(OutcomeKind.QUARANTINED, entry.event_id, None, reason=entry.reason)
    earlier = known.get((entry.site_id, entry.event_id))
    if earlier is None:
        return None
    if earlier.same_as(entry):
        return Outcome(OutcomeKind.DUPLICATE, entry.event_id, earlier.position)
    reason = earlier.contradicts(entry)
    return Outcome(OutcomeKind.CONFLICT, entry.event_id, earlier.position, reason=reason)


def _derived(entry: Prepared | Rejected) -> Prepared:
    assert isinstance(entry, Prepared)
    event = Event.from_payload(entry.payload).with_derived_id()
    return prepare(event, delivered(entry), handler=entry.handler, headers=entry.headers)


def _told(outcomes: Sequence[Outcome]) -> str:
    """Where the events stand now."""
    if not outcomes:
        return "it holds no event"
    if len(outcomes) == 1:
        how = "appended at" if outcomes[0].kind is OutcomeKind.APPENDED else "duplicate of"
        return f"{how} position {outcomes[0].position}"
    appended = [outcome.position for outcome in outcomes if outcome.kind is OutcomeKind.APPENDED]
    where = f" (position {appended[0]} and on)" if appended else ""
    return f"{len(appended)} events appended{where}, {len(outcomes) - len(appended)} duplicates"


def _why_open(outcomes: Sequence[Outcome]) -> str:
    problems = [outcome.reason or outcome.kind.value for outcome in outcomes if outcome.kind not in _IN_THE_LOG]
    rest = f"; {len(problems) - 1} more of its events stay out" if len(problems) > 1 else ""
    done = [outcome for outcome in outcomes if outcome.kind in _IN_THE_LOG]
    return problems[0] + rest + (f"; of the others: {_told(done)}" if done else "")
