"""One batch into the log, inside the caller's transaction: what is new is appended, what is known is compared.

Repetitions are told apart from contradictions, contradictions and what could not be read are kept in quarantine, and what the
log itself does not hold is counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, insert, select

from eventstore.event import Event
from eventstore.log import counts
from eventstore.log.append import Key, KnownEvent, Statements
from eventstore.log.counts import Counted, day_of
from eventstore.log.engine import is_sqlite
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected, body_hash, delivered
from eventstore.log.tables import events, quarantine
from eventstore.log.types import from_micros

Entry = Prepared | Rejected


def statements(engine: Engine) -> Statements:
    """The statements of an append on this engine."""
    if is_sqlite(engine):
        from eventstore.log.append_sqlite import SqliteStatements

        return SqliteStatements(engine)
    from eventstore.log.append_postgresql import PostgresqlStatements

    return PostgresqlStatements(engine)


class _Kept(NamedTuple):
    """What quarantine is to hold of the entry at one place of the batch; `position`: that of the event it contradicts."""

    place: int
    kind: OutcomeKind
    delivery: Rejected
    position: int | None


class Batches:
    """Appends batches to the log of one engine, for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._statements = statements(engine)

    def append(self, connection: Connection, entries: Sequence[Entry]) -> tuple[list[Outcome], int | None]:
        """One outcome for each finished entry, in order, and the last position appended, if any was.

        Nothing of it is so until the transaction is committed.
        """
        prepared = [entry for entry in entries if isinstance(entry, Prepared)]
        turn = self._statements.take_turn(connection, prepared)
        # A clock that is set back must not make recorded_at run backwards with position.
        recorded_at = max(time.time_ns() // 1000, turn.recorded_at)
        appended: list[Prepared] = []
        positions: dict[Key, int] = {}
        outcomes: list[Outcome] = []
        kept: list[_Kept] = []
        repeated: list[tuple[int, Prepared, KnownEvent]] = []
        for entry in entries:
            if isinstance(entry, Rejected):
                kept.append(_Kept(len(outcomes), OutcomeKind.QUARANTINED, entry, None))
                outcomes.append(Outcome(OutcomeKind.QUARANTINED, entry.event_id, None, None, entry.reason))
                continue
            key: Key = (entry.site_id, entry.event_id)
            earlier = turn.known.get(key)
            if earlier is None and key in positions:
                first = appended[positions[key] - turn.size - 1]
                earlier = KnownEvent(positions[key], first.content_hash, first.sequence)
            if earlier is not None:
                if not earlier.same_as(entry):
                    repeated.append((len(outcomes), entry, earlier))
                outcomes.append(Outcome(OutcomeKind.DUPLICATE, entry.event_id, earlier.position))
                continue
            appended.append(entry)
            position = positions[key] = turn.size + len(appended)
            outcomes.append(Outcome(OutcomeKind.APPENDED, entry.event_id, position))
        kept = sorted([*kept, *_contradictions(connection, repeated)], key=lambda each: each.place)
        for each, number in zip(kept, _keep(connection, kept, recorded_at), strict=True):
            told = each.delivery
            outcomes[each.place] = Outcome(each.kind, told.event_id, each.position, number, told.reason)
        if len(appended) < len(entries):
            counts.add(connection, _others(entries, outcomes, recorded_at))
        if not appended:
            return outcomes, None
        self._statements.insert(connection, appended, turn, recorded_at)
        return outcomes, turn.size + len(appended)


def _others(entries: Sequence[Entry], outcomes: list[Outcome], received_at: int) -> Counter[Counted]:
    """What is to be counted because the log does not hold it."""
    day = day_of(from_micros(received_at))
    found: Counter[Counted] = Counter()
    for entry, outcome in zip(entries, outcomes, strict=True):
        if outcome.kind is not OutcomeKind.APPENDED:
            route = entry.source if isinstance(entry, Prepared) else entry.route
            found[Counted(day, entry.site_id, route, outcome.kind.value)] += 1
    return found


def _contradictions(connection: Connection, repeated: Sequence[tuple[int, Prepared, KnownEvent]]) -> list[_Kept]:
    """Those that are not the event that stands under their id, also by its content hash as it would be made now: other than
    the one in the ledger where it was appended before times were compared to the millisecond."""
    if not repeated:
        return []
    # None of this batch has a position yet.
    places = {earlier.position for _, _, earlier in repeated}
    payloads = connection.execute(
        select(events.c.position, events.c.payload).where(events.c.position.in_(sorted(places)))
    )
    today = {position: Event.from_payload(payload).encode()[1] for position, payload in payloads}
    return [
        _Kept(place, OutcomeKind.CONFLICT, evidence(entry, earlier.contradicts(entry)), earlier.position)
        for place, entry, earlier in repeated
        if not earlier._replace(content_hash=today.get(earlier.position, b"")).same_as(entry)
    ]


_MAKE = insert(quarantine).returning(quarantine.c.id, sort_by_parameter_order=True)
_ROWS_AT_ONCE = 100
"""Rows of quarantine in a statement: a body may be large."""


def _keep(connection: Connection, kept: Sequence[_Kept], received_at: int) -> list[int]:
    """Keep deliveries in quarantine, each under the id that it already has if this very body was kept before.

    In few statements: the writer's turn is held meanwhile.
    """
    keys = [(each.delivery.site_id, body_hash(each.delivery.body), each.kind.value) for each in kept]
    hashes: dict[str, set[bytes]] = {}
    for site_id, digest, _ in keys:
        hashes.setdefault(site_id, set()).add(digest)
    numbers: dict[tuple[str, bytes, str], int] = {}
    for site_id, digests in hashes.items():
        there = select(quarantine.c.id, quarantine.c.body_hash, quarantine.c.kind).where(
            quarantine.c.site_id == site_id, quarantine.c.body_hash.in_(digests)
        )
        numbers |= {(site_id, digest, kind): number for number, digest, kind in connection.execute(there)}
    new: dict[tuple[str, bytes, str], dict[str, Any]] = {}
    for key, each in zip(keys, kept, strict=True):
        if key not in numbers and key not in new:
            delivery = each.delivery
            new[key] = {
                "site_id": delivery.site_id,
                "kind": each.kind.value,
                "route": delivery.route,
                "handler": delivery.handler,
                "event_id": delivery.event_id,
                "position": each.position,
                "reason": delivery.reason,
                "body": delivery.body,
                "body_hash": key[1],
                "headers": delivery.headers,
                "received_at": from_micros(received_at),
            }
    if new:
        made = connection.execute(
            _MAKE, list(new.values()), execution_options={"insertmanyvalues_page_size": _ROWS_AT_ONCE}
        )
        numbers |= dict(zip(new, made.scalars(), strict=True))
    return [numbers[key] for key in keys]


def evidence(entry: Prepared, reason: str) -> Rejected:
    """What quarantine holds of an event that cannot go into the log: the bytes it was delivered as, else its payload."""
    original = delivered(entry)
    body = entry.payload if original is None else original
    return Rejected(entry.site_id, entry.source, entry.handler, entry.event_id, reason, body, entry.headers)
